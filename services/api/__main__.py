"""`python -m services.api`: the platform's REST interface, and its leader, until SIGTERM."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI

from services.api.app import create_app
from shared.base.errors import PlatformError, UnavailableError
from shared.base.listening import exit_cleanly_on_signals, listen
from shared.base.logs import configure_logging
from shared.base.process import spare_imports
from shared.base.settings import Settings, get_settings
from shared.db.migrate import require_current
from shared.db.session import Database

DRAIN_SECONDS = 10
"""After SIGTERM, requests may take so long to end; streams of events end at once."""

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, ending open streams of events first: they would hold up its stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        context = self._app.state.context
        context.hub.close()
        context.overview.close()
        await super().shutdown(sockets)


def main() -> None:
    """Serve. Raises StartupError when that cannot begin here."""
    settings = get_settings()
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    settings.refuse_open_door(settings.api_host)
    listener = listen(settings.api_host, settings.api_port, setting="api_port")
    exit_cleanly_on_signals()
    check_schema(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    spare_imports()
    logger.info("The API listens on http://%s:%d", settings.api_host, settings.api_port)
    Server(config, app).run(sockets=[listener])


def check_schema(settings: Settings) -> None:
    """Raise StartupError for a database of another version; one that is away may still come."""
    database = Database(settings.resolved_database_url)
    try:
        require_current(database)
    except UnavailableError as error:
        logger.warning("Starting without the database: %s", error.message)
    finally:
        database.close()


if __name__ == "__main__":
    try:
        main()
    except PlatformError as error:
        sys.exit(f"api: {error.message}")
