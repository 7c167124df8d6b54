"""The published OpenAPI document is the code's, and tells of nothing that is never sent."""

from __future__ import annotations

import json

from services.inference.openapi import DOCUMENT, render_document


def test_the_committed_document_is_current() -> None:
    current = render_document()
    assert DOCUMENT.read_text("utf-8") == current, "run: python -m services.inference.openapi"


def test_every_operation_has_a_name_and_openais_error() -> None:
    document = json.loads(render_document())
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations) == 11
    for operation in operations:
        assert "422" not in operation["responses"]
        schema = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}


def test_every_field_of_a_request_is_explained() -> None:
    schemas = json.loads(render_document())["components"]["schemas"]
    names = (
        "CompletionRequest", "ChatCompletionRequest", "ChatMessage", "StreamOptions",
        "TokenizeRequest", "DetokenizeRequest",
    )  # fmt: skip
    for name in names:
        silent = [
            field
            for field, schema in schemas[name]["properties"].items()
            if not schema.get("description")
        ]
        assert silent == []
