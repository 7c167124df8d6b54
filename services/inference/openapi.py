"""`python -m services.inference.openapi`: write docs/openapi/inference.json."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from services.inference.app import create_app, openapi_document
from services.inference.runtime import open_runtime
from services.inference.service import InferenceService
from shared.base.files import write_bytes
from shared.base.settings import Settings
from shared.storage.local import LocalStore

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi" / "inference.json"


def render_document() -> str:
    """The OpenAPI document of this code, as it is committed."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), device="cpu", attention="sdpa")
        store = LocalStore(Path(folder))
        service = InferenceService(settings, store, open_runtime(settings), use_hints=False)
        document = openapi_document(create_app(service, settings))
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    write_bytes(DOCUMENT, render_document().encode())
