"""The page that `make report` wrote last, as Report in the menu of Airflow's UI, for those who are logged in."""

from __future__ import annotations

from pathlib import Path

from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.plugins_manager import AirflowPlugin
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response

PAGE = Path(__file__).resolve().parents[1] / "report.html"

app = FastAPI(openapi_url=None)


@app.get("/")
def read_report(_: GetUserDep) -> Response:
    """The page. Airflow adds no login to a plugin's application; the argument does."""
    if PAGE.is_file():
        return FileResponse(PAGE, headers={"Cache-Control": "no-store"})
    return PlainTextResponse("There is no report. make report writes one.", 404)


class Report(AirflowPlugin):
    """Adds the page to Airflow."""

    name = "report"
    fastapi_apps = [{"name": "report", "app": app, "url_prefix": "/report"}]  # noqa: RUF012 - declared so by Airflow
    external_views = [{"name": "Report", "href": "report/", "url_route": "report"}]  # noqa: RUF012
