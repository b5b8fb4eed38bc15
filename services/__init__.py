"""What every system uses, in containers and embedded: one-shot services for passwords, status and clean-up.

airflow.env has the settings of Airflow that all of them share.
"""

# Options of every connection: mle_user may create functions in schema public; an unqualified name must not find them.
SAFE_PATH = "-c search_path=pg_catalog,pg_temp"
