# One image for the migration and for Airflow's services.
ARG PYTHON_IMAGE=python:3.13-slim-trixie
FROM ${PYTHON_IMAGE}

ENV AIRFLOW_HOME=/opt/airflow \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# The logs' folder is made here so that a new volume mounted on it belongs to the user.
RUN useradd --uid 50000 --create-home --home-dir /opt/airflow airflow \
    && install -d -o airflow -g airflow /opt/airflow/logs

WORKDIR /opt/company-data

# Before the code: a change of SQL does not install the packages again.
ARG REQUIREMENTS=requirements.lock
COPY ${REQUIREMENTS} requirements.lock
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock

COPY alembic.ini ./
COPY alembic alembic
COPY dags dags
COPY plugins plugins
COPY services services
COPY sql sql

USER airflow
