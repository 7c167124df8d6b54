"""Preparing an S3 server: a real one without MinIO's administration, and MinIO's protocol.

No MinIO server can be had in tests, so what is sent to its administration is decrypted and compared
here, as a MinIO server does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest
from minio.crypto import decrypt, encrypt
from pydantic import SecretStr
from urllib3 import HTTPResponse

from shared.base.errors import StartupError
from shared.base.secret_files import make_secrets
from shared.base.settings import Settings
from shared.storage.provision import policy_for, provision
from tests.support.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server

pytestmark = pytest.mark.integration

BUCKET = "ryan-gpt-new"


def root_settings(endpoint: str, *, secret_key: str = SECRET_KEY) -> Settings:
    return Settings(
        s3_endpoint=endpoint,
        s3_bucket=BUCKET,
        s3_access_key=ACCESS_KEY,
        s3_secret_key=SecretStr(secret_key),
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_secrets(tmp_path, Settings(api_token=SecretStr("")))
    return tmp_path / "platform"


def key_in(folder: Path) -> tuple[str, str]:
    access_key, secret_key = (
        (folder / name).read_text().strip() for name in ("s3_access_key", "s3_secret_key")
    )
    return access_key, secret_key


def test_a_server_without_administration_is_used_with_its_root_key(
    rclone: S3Server, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        provision(root_settings(rclone.endpoint), keys)
        assert key_in(keys) == (ACCESS_KEY, SECRET_KEY)
        store = rclone.store(bucket=BUCKET)
        store.put_bytes("a", b"1")
        assert store.get_bytes("a") == b"1"
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [warning.split(",")[0] for warning in warnings] == [
        "This S3 server has no MinIO administration",
        "The platform uses the S3 server's root key",
    ]


def test_a_wrong_root_key_is_one_sentence_and_changes_nothing(rclone: S3Server, keys: Path) -> None:
    before = key_in(keys)
    settings = root_settings(rclone.endpoint, secret_key="not-the-key-of-this-server")
    with pytest.raises(StartupError, match="does not take its root key"):
        provision(settings, keys)
    assert key_in(keys) == before


class MinioTwin(BaseHTTPRequestHandler):
    """As much of a MinIO server as provisioning speaks to; remembers what it was told."""

    buckets: ClassVar[set[str]]
    calls: ClassVar[list[tuple[str, dict[str, str], Any]]]
    answers: ClassVar[dict[str, tuple[int, str]]]

    def do_HEAD(self) -> None:
        bucket = urlsplit(self.path).path.strip("/")
        self._answer(200 if bucket in self.buckets else 404)

    def do_PUT(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not parts.path.startswith("/minio/admin/v3/"):
            self.buckets.add(parts.path.strip("/"))
            self._answer(200)
            return
        command = parts.path.removeprefix("/minio/admin/v3/")
        self.calls.append((command, dict(parse_qsl(parts.query)), self._read(command, body)))
        if command in self.answers:
            status, text = self.answers[command]
            self._answer(status, text.encode())
        elif command.startswith("idp/"):
            self._answer(200, encrypt(b'{"policiesAttached": []}', SECRET_KEY))
        else:
            self._answer(200)

    def _read(self, command: str, body: bytes) -> Any:
        if command == "add-canned-policy":
            return json.loads(body)
        response = HTTPResponse(BytesIO(body), preload_content=False)
        return json.loads(decrypt(response, SECRET_KEY))

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def minio_twin(**answers: tuple[int, str]) -> Iterator[tuple[str, type[MinioTwin]]]:
    named = {name.replace("_", "-"): answer for name, answer in answers.items()}
    twin = type("Twin", (MinioTwin,), {"buckets": set(), "calls": [], "answers": named})
    with ThreadingHTTPServer(("127.0.0.1", 0), twin) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", twin
        finally:
            server.shutdown()
            thread.join()


def test_minio_gets_a_user_who_may_use_one_bucket(keys: Path) -> None:
    access_key, secret_key = key_in(keys)
    with minio_twin() as (endpoint, twin):
        provision(root_settings(endpoint), keys)
    assert twin.buckets == {BUCKET}
    policy = f"{BUCKET}-objects"
    assert twin.calls == [
        ("add-canned-policy", {"name": policy}, policy_for(BUCKET)),
        ("add-user", {"accessKey": access_key}, {"status": "enabled", "secretKey": secret_key}),
        ("idp/builtin/policy/attach", {}, {"policies": [policy], "user": access_key}),
    ]
    assert access_key == "ryan-gpt"
    assert key_in(keys) == (access_key, secret_key)


def test_the_policy_names_this_bucket_alone() -> None:
    statements = policy_for("b")["Statement"]
    assert [statement["Resource"] for statement in statements] == [
        ["arn:aws:s3:::b"], ["arn:aws:s3:::b/*"],
    ]  # fmt: skip
    actions = {action for statement in statements for action in statement["Action"]}
    assert not any("*" in action for action in actions)
    assert all(re.fullmatch(r"s3:[A-Z][A-Za-z]+", action) for action in actions)


def test_a_second_time_the_policy_is_attached_already(keys: Path) -> None:
    answer = json.dumps({"Code": "XMinioAdminPolicyChangeAlreadyApplied", "Message": "it is"})
    with minio_twin(**{"idp/builtin/policy/attach": (400, answer)}) as (endpoint, _):
        provision(root_settings(endpoint), keys)


@pytest.mark.parametrize(
    ("status", "code"), [(400, "XMinioAdminInvalidSecretKey"), (403, "AccessDenied")]
)
def test_a_refusal_by_minio_is_no_reason_to_share_the_root_key(
    keys: Path, status: int, code: str
) -> None:
    before = key_in(keys)
    answer = json.dumps({"Code": code, "Message": "no"})
    with (
        minio_twin(add_user=(status, answer)) as (endpoint, _),
        pytest.raises(StartupError, match=f"refuses to make user 'ryan-gpt': .*{code}"),
    ):
        provision(root_settings(endpoint), keys)
    assert key_in(keys) == before
