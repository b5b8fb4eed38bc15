# Every command sets up what it needs; the first one makes .venv.
.PHONY: help up status check-source backup restore rotate down clean test test-fast test-ui test-celery test-citus examples report preview bench docs lint audit sbom lock images venv
PYTHON := .venv/bin/python

help: ## show this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ The embedded run: the system on this machine, without containers. Settings: docs/configuration.md

up: venv ## start PostgreSQL and Airflow here, run the workflows, print what was loaded and what waits for you
	@$(PYTHON) -m embedded up

backup: venv ## copy the data into a new folder in backups/, or into BACKUP=folder, and verify it; loads may go on
	@$(PYTHON) -m embedded backup $(if $(BACKUP),"$(BACKUP)")

restore: venv ## replace the data by the newest backup, or by BACKUP=folder, with its passwords; the replaced data is kept beside it
	@$(PYTHON) -m embedded restore $(if $(BACKUP),"$(BACKUP)")

rotate: venv ## replace all keys, and set the passwords of the environment or .env; then run make up
	@$(PYTHON) -m embedded rotate

preview: venv ## show what loading a month again would change, for example MONTH=2024-02; changes nothing
	@$(PYTHON) -m embedded preview --table "$(or $(TABLE),sales)" --month "$(MONTH)"

down: ## stop what make up started; keeps the data
	@if [ -x $(PYTHON) ] && [ -d .embedded ]; then $(PYTHON) -m embedded down; else echo "nothing was started here"; fi

clean: ## stop it and delete its data; keeps backups/
	@if [ -x $(PYTHON) ] && [ -d .embedded ]; then $(PYTHON) -m embedded clean; else echo "nothing to delete here"; fi

##@ The embedded run, or with DATABASE_URL another system, for example the one in containers

status: venv ## print what is loaded, by table and by month; fails if something is missing
	@$(PYTHON) -m embedded status

check-source: venv ## print which files the source has, and whether their first rows fit the tables; writes nothing
	@$(PYTHON) -m embedded check-source

report: .venv-examples/installed ## write report.html: the status of each month, rows and totals, the columns of the files
	@$(PYTHON) -m embedded report

examples: .venv-examples/installed ## train a classifier and draw the sales, as ds_user, into examples/pictures
	@$(PYTHON) -m embedded examples

.venv-examples/installed: examples/requirements.lock | venv
	@echo "installing pandas, matplotlib and scikit-learn into .venv-examples (about a minute, once)"
	@$(PYTHON) -m venv --clear .venv-examples
	@.venv-examples/bin/pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r examples/requirements.lock
	@touch $@

##@ The containers: docker compose up --build --wait; docs/operations.md has their commands

images: ## write the base images with the digests that the registry has now into .env
	@(umask 077 && touch .env)  # it may have passwords
	@for setting in $$(grep -ohE '[A-Z]+_IMAGE:-[^}]+' docker-compose.yml deploy/*/docker-compose.yml | sort -u); do \
		name=$${setting%%:-*} image=$${setting#*:-}; \
		digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$$image") || exit 1; \
		sed -i "/^$$name=/d" .env; \
		echo "$$name=$$image@$$digest" | tee -a .env; \
	done

##@ Development: each on servers of its own

test: venv ## run the tests on all cores, each on an embedded PostgreSQL of its own
	@$(PYTHON) -m pytest -n logical --maxprocesses 8

test-fast: venv ## run in less than a minute the tests of the SQL, the CSV rules, the privileges and the schema
	@$(PYTHON) -m pytest -n logical --maxprocesses 8 -m "not slow"

# The servers are named in CITUS_NODES: deploy/citus/README.md.
test-citus: venv ## run the tests of the workflows on a cluster of servers that runs already
	@$(PYTHON) -m pytest tests/cluster

# PICTURES=1 renews the pictures in docs/pictures on the way.
test-ui: venv ## walk Airflow's UI in a real Chromium, on a system of its own
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tests/ui/requirements.lock
	@PICTURES=$(PICTURES) $(PYTHON) -m pytest --exitfirst tests/ui

# The broker comes from the system: apt install valkey-server, or redis-server.
test-celery: venv ## run the workflows on two Celery workers and a real broker, and kill one of them
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/celery/requirements.lock
	@$(PYTHON) -m pytest --exitfirst tests/celery_workers

# For example BENCH="--rows 10000000": make bench BENCH=--help shows what there is.
bench: venv ## measure the loads against psql's \copy and other tools, on an embedded PostgreSQL
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock
	@$(PYTHON) -m bench --peers-python .venv-bench/bin/python $(BENCH)

docs: venv ## write docs/data_dictionary.md, and the database as SQL in schema.sql, from what the migrations make
	@$(PYTHON) -m docs.generate

lint: venv ## check format, types, SQL, migrations and workflows; changes nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy bench dags deploy docs embedded examples plugins services tests
	$(PYTHON) -m sqlfluff lint --disable-progress-bar alembic/versions sql
	.ci/squawk
	.venv/bin/zizmor --offline --quiet .github

audit: .venv-audit/installed ## look the locked packages up in the public list of vulnerabilities
	$(AUDIT) embedded/requirements.lock --requirement deploy/celery/requirements.lock
	@set -e; for lock in $(LOCKS); do $(AUDIT) "$$lock"; done

sbom: .venv-audit/installed ## list the packages of the image in sbom.json, as CycloneDX
	@.venv-audit/bin/cyclonedx-py requirements requirements.lock --output-reproducible --output-file sbom.json

AUDIT = .venv-audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement

.venv-audit/installed: .ci/audit/requirements.lock | venv
	@$(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/audit/requirements.lock
	@touch $@

# All locks at once, so that the images and .venv have the same versions. Without its extra, pip rejects celery[redis].
COMPILE = $(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock"

# Each beside its requirements.txt, for what is not part of the pipeline. Those of the UI are installed into .venv.
LOCKS = bench/requirements.lock examples/requirements.lock .ci/audit/requirements.lock tests/ui/requirements.lock

lock: venv ## renew the locks, with the hash of every package, for Python 3.11 to 3.14; of the examples, also for 3.10
	$(COMPILE) --upgrade requirements.txt embedded/requirements.txt -o embedded/requirements.lock
	$(COMPILE) requirements.txt --constraints embedded/requirements.lock -o requirements.lock
	$(COMPILE) --no-strip-extras requirements.txt deploy/celery/requirements.txt --constraints embedded/requirements.lock -o deploy/celery/requirements.lock
	$(COMPILE) --upgrade bench/requirements.txt -o bench/requirements.lock
	$(subst 3.11,3.10,$(COMPILE)) --upgrade examples/requirements.txt -o examples/requirements.lock
	$(COMPILE) --upgrade .ci/audit/requirements.txt -o .ci/audit/requirements.lock
	$(COMPILE) --upgrade tests/ui/requirements.txt --constraints embedded/requirements.lock -o tests/ui/requirements.lock

venv:
	@sh embedded/make_venv.sh
