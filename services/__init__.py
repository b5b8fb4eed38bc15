"""The embedded run: PostgreSQL, the sample bucket and Airflow on one machine; the tests stand on it too."""

# Options of every connection: mle_user may create functions in schema public; an unqualified name must not find them.
SAFE_PATH = "-c search_path=pg_catalog,pg_temp"
