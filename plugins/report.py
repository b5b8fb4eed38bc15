"""The page that `make report` wrote last, as Report in the menu of Airflow's UI, for those who are logged in."""

from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

PAGE = Path(__file__).resolve().parents[1] / "report.html"


class Applications:
    """Makes the application when the API server asks for it: its imports take a second, and each task loads plugins."""

    def __get__(self, plugin: object, owner: type) -> list[dict[str, Any]]:
        """The application, as Airflow expects it of a plugin."""
        from airflow.api_fastapi.core_api.security import GetUserDep
        from fastapi import FastAPI
        from fastapi.responses import FileResponse, PlainTextResponse, Response

        app = FastAPI(openapi_url=None)

        @app.get("/")
        def read_report(_: GetUserDep) -> Response:
            """The page. Airflow adds no login to a plugin's application; the argument does."""
            if PAGE.is_file():
                return FileResponse(PAGE, headers={"Cache-Control": "no-store"})
            return PlainTextResponse("There is no report. make report writes one.", 404)

        return [{"name": "report", "app": app, "url_prefix": "/report"}]


class Report(AirflowPlugin):
    """Adds the page to Airflow."""

    name = "report"
    fastapi_apps = Applications()
    external_views = [{"name": "Report", "href": "report/", "url_route": "report"}]  # noqa: RUF012
