"""Secrets from files, and the doors that stay shut without a good token."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.base.errors import StartupError
from shared.base.settings import Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "api"])
@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "Refusing to listen on .* without a token"),
        ("hunter2", "RYANGPT_API_TOKEN is too weak: it needs 16 characters"),
        ("fifteen-chars-x", "RYANGPT_API_TOKEN is too weak"),
        ("a" * 64, "RYANGPT_API_TOKEN is too weak"),
        ("abcabcabcabcabcabcabc", "RYANGPT_API_TOKEN is too weak"),
    ],
)
def test_beyond_loopback_a_good_token_is_required(host: str, token: str, sentence: str) -> None:
    with pytest.raises(StartupError, match=sentence):
        Settings(api_token=SecretStr(token)).refuse_open_door(host)


@pytest.mark.parametrize("token", ["sixteen-chars-ok", "0123456789abcdef0123456789abcdef"])
def test_a_good_token_opens_the_door(token: str) -> None:
    Settings(api_token=SecretStr(token)).refuse_open_door("0.0.0.0")


@pytest.mark.parametrize("token", ["", "hunter2"])
def test_on_loopback_the_token_is_the_users_own_matter(token: str) -> None:
    Settings(api_token=SecretStr(token)).refuse_open_door("127.0.0.1")


def test_a_secret_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("sixteen-chars-ok\n")
    monkeypatch.setenv("RYANGPT_API_TOKEN_FILE", str(path))
    assert Settings().api_token.get_secret_value() == "sixteen-chars-ok"


def test_an_empty_secret_file_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("\n")
    monkeypatch.setenv("RYANGPT_API_TOKEN_FILE", str(path))
    with pytest.raises(StartupError, match=f"The secret file {path} is empty"):
        Settings()


def test_a_missing_secret_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RYANGPT_API_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(StartupError, match="none cannot be read: No such file"):
        Settings()
