"""The embedded run: PostgreSQL, the sample bucket and Airflow on one machine; the tests stand on it too.

Each command of the Makefile has a file of its name.
"""
