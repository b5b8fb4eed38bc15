# Every command sets up what it needs; the first one makes .venv.
.PHONY: help up status down clean test test-fast test-ui examples bench docs lint audit lock venv
PYTHON := .venv/bin/python

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: venv ## start PostgreSQL and Airflow here, run the three workflows, print what was loaded
	@$(PYTHON) -m local up

status: venv ## print per table and per month what is loaded; fails unless every month is loaded or waits for a late file
	@$(PYTHON) -m local status

down: ## stop what make up started; keeps the data
	@if [ -x $(PYTHON) ] && [ -d .embedded ]; then $(PYTHON) -m local down; else echo "nothing was started here"; fi

clean: ## stop it and delete its data
	@if [ -x $(PYTHON) ] && [ -d .embedded ]; then $(PYTHON) -m local clean; else echo "nothing to delete here"; fi

test: venv ## run the tests on all cores, each on an embedded PostgreSQL of its own
	@$(PYTHON) -m pytest -n logical --maxprocesses 8 --dist loadgroup

test-fast: venv ## run the tests that take no more than a minute together
	@$(PYTHON) -m pytest -n logical --maxprocesses 8 --dist loadgroup -m "not slow"

# PICTURES=1 renews the pictures in docs/pictures on the way.
test-ui: venv ## walk Airflow's UI in a real Chromium, on a system of its own
	@.venv/bin/pip install --quiet --disable-pip-version-check -r tests/ui/requirements.txt -c constraints.txt
	@PICTURES=$(PICTURES) $(PYTHON) -m pytest --exitfirst tests/ui

examples: .venv-examples/installed ## run the examples as ds_user, on what make up loaded
	@.venv-examples/bin/python examples/train_classifier.py --url $(DS_URL) --picture docs/pictures/roc_curve.png
	@.venv-examples/bin/python examples/plot_monthly_sales.py --url $(DS_URL) --picture docs/pictures/monthly_sales.png

DS_URL = "postgresql+psycopg://ds_user:$${DS_USER_PASSWORD:-ds_user}@localhost:$${OPERATIONAL_DB_PORT:-5432}/companydata"

.venv-examples/installed: examples/requirements.txt | venv
	@$(PYTHON) -m venv --clear .venv-examples
	@.venv-examples/bin/pip install --quiet --disable-pip-version-check -r examples/requirements.txt
	@touch $@

# For example BENCH="--rows 10000000": make bench BENCH=--help shows what there is.
bench: venv ## measure the loads against psql's \copy and other tools, on an embedded PostgreSQL
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@$(PYTHON) -m bench --peers-python .venv-bench/bin/python $(BENCH)

docs: venv ## write the dictionary and the schema in docs/ from what the migrations make
	@$(PYTHON) -m local.schema

lint: venv ## check format, types and SQL; changes nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy bench dags examples local plugins tests
	$(PYTHON) -m sqlfluff lint --disable-progress-bar alembic/versions sql

audit: venv ## look the locked packages up in the public list of vulnerabilities
	$(PYTHON) -m uv tool run pip-audit==2.10.1 --strict --no-deps --disable-pip --requirement constraints.txt

lock: venv ## renew constraints.txt for Python 3.11 to 3.14
	$(PYTHON) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" requirements.txt local/requirements.txt -o constraints.txt

venv:
	@sh local/make_venv.sh
