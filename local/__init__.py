"""The embedded run: PostgreSQL, the sample bucket and Airflow on one machine; the tests stand on it too."""
