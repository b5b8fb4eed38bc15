ARG PYTHON_IMAGE=python:3.13-slim-trixie
FROM ${PYTHON_IMAGE} AS packages

ENV AIRFLOW_HOME=/opt/airflow \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# The logs' folder is made here so that a new volume mounted on it belongs to the user.
RUN useradd --uid 50000 --create-home --home-dir /opt/airflow airflow \
    && install -d -o airflow -g airflow /opt/airflow/logs

WORKDIR /opt/company-data

ARG REQUIREMENTS=requirements.lock
COPY ${REQUIREMENTS} requirements.lock
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock

# The image of the service settings, on which the databases depend: a change of a workflow or of SQL is not in it.
FROM packages AS settings
COPY services/__init__.py services/passwords.py services/settings.py services/workflows.env services/
COPY dags/company_data/__init__.py dags/company_data/errors.py dags/company_data/months.py dags/company_data/retries.py dags/company_data/settings.py dags/company_data/

# The image of the migrations and of Airflow's services.
FROM packages AS system
COPY alembic.ini ./
COPY alembic alembic
COPY dags dags
COPY plugins plugins
COPY services services
COPY sql sql

USER airflow
