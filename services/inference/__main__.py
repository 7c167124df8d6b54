"""`python -m services.inference`: serve published models over HTTP until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import socket
import sys

from shared.base.errors import PlatformError
from shared.base.listening import exit_cleanly_on_signals, listen
from shared.base.logs import configure_logging
from shared.base.process import spare_imports
from shared.base.settings import Settings, get_settings

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30
"""On SIGTERM, running answers may take so long to end."""


def main() -> None:
    """Run the service. Raises StartupError when it cannot start here."""
    settings = get_settings()
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    host, port = settings.inference_host, settings.inference_port
    settings.refuse_open_door(host)
    listener = listen(host, port, setting="inference_port")
    exit_cleanly_on_signals()
    serve(settings, listener)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Build the service and answer on `listener` until a signal comes."""
    # Here and not above: importing torch takes seconds, a refusal to start should not.
    import uvicorn

    from services.inference.app import create_app
    from services.inference.runtime import open_runtime
    from services.inference.service import InferenceService
    from shared.storage.factory import open_store

    runtime = open_runtime(settings)
    service = InferenceService(settings, open_store(settings), runtime)
    config = uvicorn.Config(
        create_app(service, settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.seconds(DRAIN_SECONDS))),
        server_header=False,
    )
    spare_imports()
    logger.info("Inference listens on port %d: %s", listener.getsockname()[1], runtime.describe())
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    try:
        main()
    except PlatformError as error:
        sys.exit(f"inference: {error.message}")
