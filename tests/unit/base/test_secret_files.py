"""The secrets that a first start makes: whole, random, never overwritten, refused when foreign."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.base.errors import StartupError
from shared.base.secret_files import FORMAT, make_secrets, replace_token
from shared.base.settings import Settings, child_environment

SETTINGS = Settings(api_token=SecretStr(""))
STRONG = "a-token-for-tests-only"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_secrets(tmp_path, SETTINGS)
    return tmp_path


def test_a_first_start_makes_every_secret(tmp_path: Path) -> None:
    token = make_secrets(tmp_path, SETTINGS)
    files = contents(tmp_path)
    assert set(files) == {
        "platform/api_token", "platform/database_url", "platform/redis_url",
        "platform/s3_access_key", "platform/s3_secret_key", "platform/format.json",
        "servers/postgres_password", "servers/redis_password", "servers/redis.conf",
        "servers/s3_root_user", "servers/s3_root_password", "servers/format.json",
    }  # fmt: skip
    assert files["platform/api_token"] == f"{token}\n"
    assert files["platform/database_url"] == (
        f"postgresql://ryangpt:{files['servers/postgres_password'].strip()}@postgres:5432/ryangpt\n"
    )
    assert (
        files["platform/redis_url"]
        == f"redis://:{files['servers/redis_password'].strip()}@redis:6379/0\n"
    )
    assert files["servers/redis.conf"].splitlines()[1:] == [
        "dir /data", "appendonly yes", "appendfsync everysec", 'save ""',
        "maxmemory-policy noeviction",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")} == {0o444}


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_secrets(tmp_path / name, SETTINGS)
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert {name for name in one if one[name] == other[name]} == {"platform/s3_access_key"}


def test_a_second_start_changes_nothing_and_tells_no_token(made: Path) -> None:
    before = contents(made)
    assert make_secrets(made, SETTINGS) is None
    assert contents(made) == before


def test_the_platforms_side_is_made_anew_from_the_servers(made: Path) -> None:
    """A lost token is no loss of data; a lost password of the database would be."""
    before = contents(made)
    for path in (made / "platform").iterdir():
        path.unlink()
    assert make_secrets(made, SETTINGS) is not None
    after = contents(made)
    kept = {name for name in before if before[name] == after[name]}
    assert set(before) - kept == {"platform/api_token", "platform/s3_secret_key"}


def test_a_first_start_that_was_cut_off_is_taken_up(made: Path) -> None:
    (made / "platform" / "format.json").unlink()
    (made / "platform" / "redis_url").unlink()
    (made / "servers" / "format.json").unlink()
    assert make_secrets(made, SETTINGS) is not None
    assert json.loads((made / "platform" / "format.json").read_text())["format"] == FORMAT


@pytest.mark.parametrize(
    ("stamp", "sentence"),
    [
        ('{"format": 7, "set": "x"}', r"written by another version of Ryan-GPT \(format 7, this "),
        ("rubbish", r"written by another version of Ryan-GPT \(format 'rubbish', this "),
        ("[]", r"written by another version of Ryan-GPT \(format '\[\]', this "),
    ],
)
def test_a_volume_of_another_version_is_refused_untouched(
    made: Path, stamp: str, sentence: str
) -> None:
    path = made / "platform" / "format.json"
    path.chmod(0o644)
    path.write_text(stamp)
    before = contents(made)
    with pytest.raises(StartupError, match=sentence):
        make_secrets(made, SETTINGS)
    assert contents(made) == before


def test_a_volume_with_other_files_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "ibdata1").write_text("somebody's database")
    with pytest.raises(StartupError, match=r"files that are none of ours \(ibdata1\)"):
        make_secrets(tmp_path, SETTINGS)
    assert contents(tmp_path) == {"servers/ibdata1": "somebody's database"}


def test_a_lost_file_is_named(made: Path) -> None:
    (made / "servers" / "postgres_password").unlink()
    before = contents(made)
    with pytest.raises(StartupError, match="has lost postgres_password: restore it"):
        make_secrets(made, SETTINGS)
    assert contents(made) == before


def test_volumes_of_two_installations_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_secrets(tmp_path / name, SETTINGS)
    for path in (tmp_path / "one" / "servers").iterdir():
        path.unlink()
    with pytest.raises(StartupError, match="do not belong together"):
        make_secrets(tmp_path / "one", SETTINGS)
    (tmp_path / "one" / "servers").rmdir()
    (tmp_path / "other" / "servers").rename(tmp_path / "one" / "servers")
    with pytest.raises(StartupError, match="do not belong together"):
        make_secrets(tmp_path / "one", SETTINGS)


def test_a_token_of_ones_own_is_taken_and_a_weak_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="RYANGPT_API_TOKEN is too weak: it needs 16"):
        make_secrets(tmp_path, Settings(api_token=SecretStr("short")))
    assert contents(tmp_path) == {}
    assert make_secrets(tmp_path, Settings(api_token=SecretStr(STRONG))) is None
    assert (tmp_path / "platform" / "api_token").read_text() == f"{STRONG}\n"


def test_a_new_token_replaces_nothing_else(made: Path) -> None:
    before = contents(made)
    token = replace_token(made, SETTINGS)
    assert contents(made) == {**before, "platform/api_token": f"{token}\n"}
    assert before["platform/api_token"] != f"{token}\n"
    assert replace_token(made, Settings(api_token=SecretStr(STRONG))) is None
    assert contents(made) == {**before, "platform/api_token": f"{STRONG}\n"}
    with pytest.raises(StartupError, match="too weak"):
        replace_token(made, Settings(api_token=SecretStr("hunter2")))


def test_another_token_on_a_later_start_is_ignored_and_said_so(made: Path) -> None:
    before = contents(made)
    command = [sys.executable, "-m", "shared.base.secret_files", str(made)]
    environment = child_environment(RYANGPT_API_TOKEN=STRONG)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("init: RYANGPT_API_TOKEN is ignored, there is a token already")
    assert contents(made) == before


def test_the_command_shows_the_token_once(tmp_path: Path) -> None:
    environment = child_environment(RYANGPT_API_TOKEN="")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shared.base.secret_files", str(tmp_path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first, second = run(), run()
    token = (tmp_path / "platform" / "api_token").read_text().strip()
    assert first.stdout == f"API token (shown this once): {token}\n"
    assert second.stdout == "The secrets are there; the API token is not shown again.\n"
    renewed = run("--new-token").stdout
    assert renewed.startswith("API token (shown this once): ")
    assert token not in renewed
    (tmp_path / "platform" / "redis_url").unlink()
    refused = run()
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("init: ")
    assert refused.stderr.count("\n") == 1
