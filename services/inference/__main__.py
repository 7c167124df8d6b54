"""`python -m services.inference`: serve published models over HTTP until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn

from services.inference.app import create_app
from services.inference.runtime import open_runtime
from services.inference.service import InferenceService
from shared.base.errors import PlatformError, StartupError
from shared.base.logs import configure_logging
from shared.base.settings import Settings, get_settings
from shared.storage.factory import open_store

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30
"""On SIGTERM, running answers may take so long to end."""


def main() -> None:
    """Run the service. Raises StartupError when it cannot start here."""
    settings = get_settings()
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    settings.refuse_open_door(settings.inference_host)
    listener = bind(settings)
    runtime = open_runtime(settings)
    logger.info("Generating with %s", runtime.describe())
    service = InferenceService(settings, open_store(settings), runtime)
    config = uvicorn.Config(
        create_app(service, settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.seconds(DRAIN_SECONDS))),
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


def bind(settings: Settings) -> socket.socket:
    """Take the port before anything slow happens. Raises StartupError when it is taken."""
    host, port = settings.inference_host, settings.inference_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartupError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port, or set "
            "RYANGPT_INFERENCE_PORT."
        ) from error


if __name__ == "__main__":
    try:
        main()
    except PlatformError as error:
        sys.exit(f"inference: {error.message}")
