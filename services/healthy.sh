#!/usr/bin/env bash
# Whether the API server has the heartbeat of scheduler, dag_processor or triggerer; with metadatabase, whether it answers.
# HTTP by the shell: a Python would take a second of a processor each time.
set -euo pipefail
exec 3<>/dev/tcp/airflow-api-server/8082
printf 'GET /api/v2/monitor/health HTTP/1.0\r\n\r\n' >&3
grep --quiet "\"$1\":{\"status\":\"healthy\"" <&3
