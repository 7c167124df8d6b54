"""schemathesis over the published document: no answer is a 5xx, every refusal is OpenAI's."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.inference.conftest import Site

EXAMPLES = 40
VALID, BROKEN = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CASES = [
    ("/v1/models/{name}", "GET", VALID),
    ("/tokenizer_info", "GET", VALID),
    *(
        (path, "POST", mode)
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
        for mode in (VALID, BROKEN)
    ),
]


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # schemathesis does
@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_no_request_is_a_500(
    site: Site, path: str, method: str, mode: schemathesis.GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(site.http.get("/openapi.json").json())
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=site.url, timeout=60)
        assert response.status_code < 500, f"{case.as_curl_command()}: {response.text}"
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    assert site.complete([5], max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3
