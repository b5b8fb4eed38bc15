"""Says what to do where a run is triggered with the logical date or the id of one that exists.

Airflow 3.3.2 answers such a request with its database's error: "Serious error when handling your request".
"""

from __future__ import annotations

import json
from typing import Any

from airflow.plugins_manager import AirflowPlugin

CONFLICT = 409
DETAIL = (
    "A run with this logical date or run id exists already, so no run was created. Clear that run, or set another "
    "moment of the same day as the logical date, for example a minute later."
)
BODY = json.dumps({"detail": DETAIL}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


class ExistingRun:
    """A middleware of the API server, which replaces the answer 409 to a trigger."""

    def __init__(self, app: Any) -> None:
        """Wrap the application, as ASGI has it."""
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/dagRuns"):
            await self.app(scope, receive, send)
            return
        is_replaced = False

        async def send_explained(message: Any) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] == CONFLICT:
                is_replaced = True
                await send({**message, "headers": [*HEADERS]})
                await send({"type": "http.response.body", "body": BODY})
            elif not is_replaced:
                await send(message)

        await self.app(scope, receive, send_explained)


class ExistingRunPlugin(AirflowPlugin):
    """Adds the middleware to Airflow."""

    name = "existing_run"
    fastapi_root_middlewares = [{"name": "existing run", "middleware": ExistingRun}]  # noqa: RUF012 - declared so by Airflow
