"""The pages as they are served: their headers, their weight, and that they hold no data."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from starlette.testclient import TestClient

from services.api.pages import CONTENT_SECURITY_POLICY, FOR_EVER, load_pages

MAX_FIRST_LOAD_BYTES = 150_000


def test_a_stranger_gets_the_shell_with_a_strict_policy(stranger: TestClient) -> None:
    shell = stranger.get("/")
    assert shell.status_code == 200
    assert shell.headers["content-type"] == "text/html; charset=utf-8"
    assert shell.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert shell.headers["cache-control"] == "no-cache"
    assert shell.headers["x-content-type-options"] == "nosniff"
    for source in re.findall(r"(?:script|style|default)-src ([^;]*)", CONTENT_SECURITY_POLICY):
        assert source in {"'self'", "'none'"}
    assert "{" not in shell.text


def test_every_address_of_the_shell_is_served_for_ever_and_compressed(stranger: TestClient) -> None:
    shell = stranger.get("/").text
    addresses = set(re.findall(r'(?:href|src)="(/pages/[^"]+)"', shell))
    assert len(addresses) > 40
    assert addresses == load_pages().paths - {"/"}
    for address in addresses:
        answer = stranger.get(address)
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
        assert answer.headers["cache-control"] == FOR_EVER
        assert answer.headers["vary"] == "Accept-Encoding"
        plain = stranger.get(address, headers={"accept-encoding": "identity"})
        assert plain.content == answer.content
        assert "content-encoding" not in plain.headers


def test_the_first_load_is_small() -> None:
    sizes = {path: len(file.compressed) for path, file in load_pages().files.items()}
    assert sum(sizes.values()) <= MAX_FIRST_LOAD_BYTES
    assert all(
        gzip.decompress(file.compressed) == file.content for file in load_pages().files.values()
    )


def test_what_is_no_page_is_not_served(client: TestClient) -> None:
    base = next(path for path in load_pages().paths if path.endswith("/main.js")).rsplit("/", 1)[0]
    for path in ("vendor/manifest.json", "vendor/preact.LICENSE", "../app.py", "nothing.js"):
        answer = client.get(f"{base}/{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_changed_file_has_another_address(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("{preloads}<script src={base}/main.js></script>")
    (tmp_path / "main.js").write_text("one")
    before = load_pages(tmp_path).paths
    (tmp_path / "main.js").write_text("two")
    after = load_pages(tmp_path).paths
    assert {len(before), len(after), len(before | after)} == {2, 3}
