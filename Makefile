# Every command sets up what it needs; the first one makes .venv.
.PHONY: help up down clean test bench docs lint audit lock venv
PYTHON := .venv/bin/python

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: venv ## start PostgreSQL and Airflow here, run the three workflows, print what was loaded
	@$(PYTHON) -m local up

down: ## stop what make up started; keeps the data
	@if [ -x $(PYTHON) ] && [ -d .embedded ]; then $(PYTHON) -m local down; else echo "nothing was started here"; fi

clean: ## stop it and delete its data
	@if [ -x $(PYTHON) ] && [ -d .embedded ]; then $(PYTHON) -m local clean; else echo "nothing to delete here"; fi

test: venv ## run the tests on an embedded PostgreSQL
	@$(PYTHON) -m pytest

# For example BENCH="--rows 10000000": make bench BENCH=--help shows what there is.
bench: venv ## measure the loads against psql's \copy and other tools, on an embedded PostgreSQL
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@$(PYTHON) -m bench --peers-python .venv-bench/bin/python $(BENCH)

docs: venv ## write docs/ anew from what the migrations make
	@$(PYTHON) -m local.schema

lint: venv ## check format, types and SQL; changes nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy bench dags local plugins tests
	$(PYTHON) -m sqlfluff lint --disable-progress-bar sql

audit: venv ## look the locked packages up in the public list of vulnerabilities
	$(PYTHON) -m uv tool run pip-audit==2.10.1 --strict --no-deps --disable-pip --requirement constraints.txt

lock: venv ## renew constraints.txt for Python 3.10 to 3.13
	$(PYTHON) -m uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" requirements.txt local/requirements.txt -o constraints.txt

venv:
	@sh local/make_venv.sh
