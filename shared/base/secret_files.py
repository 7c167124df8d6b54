"""Random secrets as files, made once: `python -m shared.base.secret_files FOLDER [--new-token]`.

`FOLDER/platform` is what the platform's own processes read, `FOLDER/servers` what PostgreSQL, Redis
and the S3 server read; in containers each is a volume. Knows none of these servers, only the form
of what they are given.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from shared.base.errors import PlatformError, StartupError
from shared.base.files import write_bytes
from shared.base.settings import Settings, get_settings

FORMAT = 1
"""Raised when the files below change in a way that an older volume does not satisfy."""
STAMP = "format.json"
API_TOKEN = "api_token"
S3_ACCESS_KEY, S3_SECRET_KEY = "s3_access_key", "s3_secret_key"
PLATFORM_FILES = (API_TOKEN, "database_url", "redis_url", S3_ACCESS_KEY, S3_SECRET_KEY)
SERVER_FILES = ("postgres_password", "redis_password", "redis.conf", "s3_root_user",
                "s3_root_password")  # fmt: skip
S3_USER = "ryan-gpt"
READABLE_BY_ALL = 0o444
"""Each server runs as a user of its own; the volume as a whole is closed to everybody else."""


class SecretFolder:
    """Secrets of one origin: their files, and a stamp that is written after all of them."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self.path = path
        self._names = names

    def check(self) -> str | None:
        """The id of the set it holds; None when nothing has been made here yet.

        Raises StartupError when what is there was not made by this version, or is not whole.
        """
        present = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        strangers = present - {*self._names, STAMP}
        if STAMP not in present:
            if named := sorted(name for name in strangers if not name.startswith(".")):
                raise StartupError(
                    f"{self.path} holds files that are none of ours ({', '.join(named)}): give "
                    "an empty volume. Nothing was changed."
                )
            return None
        set_id = self._read_stamp()
        if missing := sorted(set(self._names) - present):
            raise StartupError(
                f"{self.path} has lost {', '.join(missing)}: restore it from a backup, or remove "
                "all volumes and begin anew. Nothing was changed."
            )
        return set_id

    def _read_stamp(self) -> str:
        text = (self.path / STAMP).read_text("utf-8")
        try:
            stamp = json.loads(text)
            found, set_id = stamp["format"], str(stamp["set"])
        except (ValueError, TypeError, KeyError):
            found, set_id = text.strip()[:40], ""
        if found != FORMAT:
            raise StartupError(
                f"{self.path} was written by another version of Ryan-GPT (format {found!r}, this "
                f"one needs {FORMAT}): use that version, or remove the volumes to begin anew. "
                "Nothing was changed."
            )
        return set_id

    def write(self, values: Mapping[str, str], set_id: str) -> None:
        """Write every file, the stamp last: without it nobody counts on the others."""
        stamp = json.dumps({"format": FORMAT, "set": set_id})
        for name, value in {**values, STAMP: stamp}.items():
            self.write_one(name, value)

    def write_one(self, name: str, value: str) -> None:
        """Replace one file."""
        write_bytes(self.path / name, f"{value}\n".encode())
        (self.path / name).chmod(READABLE_BY_ALL)


def make_secrets(folder: Path, settings: Settings) -> str | None:
    """Make whatever is not there yet; return the API token if this call has chosen it.

    Raises StartupError, and changes nothing, for folders of another version, or a weak token.
    """
    platform = SecretFolder(folder / "platform", PLATFORM_FILES)
    servers = SecretFolder(folder / "servers", SERVER_FILES)
    platform_set, servers_set = platform.check(), servers.check()
    given = settings.api_token.get_secret_value()
    if given:
        settings.refuse_weak_token()
    if platform_set and platform_set != servers_set:
        raise StartupError(
            f"{platform.path} and {servers.path} do not belong together: one of the two volumes "
            "was replaced. Restore it, or remove both. Nothing was changed."
        )
    if platform_set:
        return None
    set_id = servers_set or secrets.token_hex(8)
    if not servers_set:
        servers.write(_server_secrets(), set_id)
    token = given or secrets.token_urlsafe(32)
    platform.write(_platform_secrets(servers.path, token), set_id)
    return None if given else token


def replace_token(folder: Path, settings: Settings) -> str | None:
    """Write a new API token over the old one; return it if this call has chosen it.

    Services read it when they start. Raises StartupError for a weak token of the user's own.
    """
    platform = SecretFolder(folder / "platform", PLATFORM_FILES)
    if platform.check() is None:
        raise StartupError(f"{platform.path} holds no secrets yet: make them first.")
    given = settings.api_token.get_secret_value()
    if given:
        settings.refuse_weak_token()
    token = given or secrets.token_urlsafe(32)
    platform.write_one(API_TOKEN, token)
    return None if given else token


def _server_secrets() -> dict[str, str]:
    redis_password = secrets.token_urlsafe(32)
    redis_conf = (
        f"requirepass {redis_password}", "dir /data", "appendonly yes", "appendfsync everysec",
        'save ""', "maxmemory-policy noeviction",
    )  # fmt: skip
    return {
        "postgres_password": secrets.token_urlsafe(32),
        "redis_password": redis_password,
        "redis.conf": "\n".join(redis_conf),
        "s3_root_user": f"root-{secrets.token_hex(6)}",
        "s3_root_password": secrets.token_urlsafe(32),
    }


def _platform_secrets(servers: Path, token: str) -> dict[str, str]:
    postgres_password, redis_password = (
        (servers / f"{name}_password").read_text("utf-8").strip() for name in ("postgres", "redis")
    )
    return {
        API_TOKEN: token,
        "database_url": f"postgresql://ryangpt:{postgres_password}@postgres:5432/ryangpt",
        "redis_url": f"redis://:{redis_password}@redis:6379/0",
        S3_ACCESS_KEY: S3_USER,
        S3_SECRET_KEY: secrets.token_urlsafe(30),
    }


def main() -> int:
    """Make the secrets; print a token that this call has chosen, and never one from before."""
    parser = argparse.ArgumentParser(prog="secret_files", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds, or shall hold, platform/ and servers/")
    parser.add_argument("--new-token", action="store_true", help="replace the API token")
    arguments = parser.parse_args()
    try:
        settings = get_settings()
        if arguments.new_token:
            token = replace_token(arguments.folder, settings)
        else:
            token = make_secrets(arguments.folder, settings)
    except PlatformError as error:
        return _complain(error.message)
    except OSError as error:
        return _complain(f"{error.filename} cannot be used: {error.strerror}.")
    if token is None:
        sys.stdout.write("The secrets are there; the API token is not shown again.\n")
        _warn_of_another_token(arguments.folder, settings)
    else:
        sys.stdout.write(f"API token (shown this once): {token}\n")
    return 0


def _warn_of_another_token(folder: Path, settings: Settings) -> None:
    given = settings.api_token.get_secret_value()
    if given and given != (folder / "platform" / API_TOKEN).read_text("utf-8").strip():
        sys.stderr.write(
            "init: RYANGPT_API_TOKEN is ignored, there is a token already; --new-token replaces "
            "it.\n"
        )


def _complain(sentence: str) -> int:
    sys.stderr.write(f"init: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
