"""Prints the OpenAPI document: `python -m services.api.openapi > docs/openapi/api.json`."""

from __future__ import annotations

import json
import sys

from services.api.app import create_app
from shared.base.settings import Settings


def render_openapi() -> str:
    """The document as it is committed: the same on every machine."""
    document = create_app(Settings()).openapi()
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_openapi())
