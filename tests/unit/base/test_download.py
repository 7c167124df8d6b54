"""Downloads: a real HTTPS server on this machine, and the addresses that must never be reached."""

from __future__ import annotations

import datetime
import ipaddress
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.base.download import PUBLIC_HOSTS, Downloader, is_public
from shared.base.errors import JobFailedError

HOST = "files.test"
CONTENT = bytes(range(256)) * 4000


@dataclass
class Served:
    """What the server says, and what it was asked."""

    downloader: Downloader = field(default_factory=Downloader)
    location: str = ""
    breaks_after: list[int] = field(default_factory=list)
    etags: list[str] = field(default_factory=lambda: ['"v1"'])
    ranges: list[str | None] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)


def handler_for(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.ranges.append(self.headers["Range"])
            served.hosts.append(self.headers["Host"])
            if self.path == "/missing":
                return self.answer(404, b"no")
            if self.path == "/redirect":
                self.send_response(302)
                self.send_header("Location", served.location)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            etag = served.etags.pop(0) if len(served.etags) > 1 else served.etags[0]
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            if asked and self.headers["If-Range"] == etag:
                return self.answer(206, CONTENT[int(asked[1]) :], etag)
            return self.answer(200, CONTENT, etag)

        def answer(self, status: int, body: bytes, etag: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            self.end_headers()
            if served.breaks_after:
                self.wfile.write(body[: served.breaks_after.pop(0)])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def write_certificate(folder: Path) -> Path:
    """A certificate for HOST that vouches for itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    certificate = write_certificate(tmp_path)
    served = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(served))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served.downloader = Downloader(
        hosts=re.compile(r"files\.test|other\.test"),
        resolve=lambda host: ["127.0.0.1"],
        may_connect=lambda address: address == "127.0.0.1",
        port=server.server_port,
        ca_certs=str(certificate),
        retry_seconds=0.0,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def nothing(done: int, total: int) -> None:
    pass


@contextmanager
def refused(target: Path, reason: str) -> Iterator[None]:
    """Expect a clear error, and nothing half-written."""
    with pytest.raises(JobFailedError, match=reason):
        yield
    assert list(target.parent.glob("*file*")) == []


def test_a_file_comes_whole_from_the_address_that_was_checked(
    served: Served, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "file"
    url = f"https://{HOST}/a?b=c"
    assert served.downloader.fetch(url, target, lambda *at: seen.append(at))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert served.hosts == [HOST]


def test_a_broken_connection_is_taken_up_where_it_broke(served: Served, tmp_path: Path) -> None:
    served.breaks_after = [300_000, 200_000]
    assert served.downloader.fetch(f"https://{HOST}/a", tmp_path / "file", nothing)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_file_that_has_changed_meanwhile_is_fetched_anew(served: Served, tmp_path: Path) -> None:
    served.breaks_after = [300_000]
    served.etags = ['"v1"', '"v2"']
    assert served.downloader.fetch(f"https://{HOST}/a", tmp_path / "file", nothing)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_missing_file_can_be_asked_for(served: Served, tmp_path: Path) -> None:
    url = f"https://{HOST}/missing"
    assert not served.downloader.fetch(url, tmp_path / "file", nothing, missing_ok=True)
    assert not (tmp_path / "file").exists()
    with refused(tmp_path / "file", "/missing answers 404"):
        served.downloader.fetch(url, tmp_path / "file", nothing)


def test_a_redirect_to_another_allowed_host_is_followed(served: Served, tmp_path: Path) -> None:
    served.location = f"https://{HOST}/a"
    assert served.downloader.fetch(f"https://{HOST}/redirect", tmp_path / "file", nothing)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://127.0.0.1/a", "'127.0.0.1' is not among the allowed hosts"),
        ("https://169.254.169.254/latest", "'169.254.169.254' is not among the allowed hosts"),
        ("https://[::1]/a", "'::1' is not among the allowed hosts"),
        ("http://files.test/a", "only plain https addresses are fetched"),
        ("file:///etc/passwd", "only plain https addresses are fetched"),
        ("https://files.test:22/a", "only plain https addresses are fetched"),
        ("https://user@files.test/a", "only plain https addresses are fetched"),
        ("https://files.test.evil.test/a", "is not among the allowed hosts"),
        ("https://evil.test/files.test", "is not among the allowed hosts"),
        ("https://files.test/redirect", "by more than 5 redirects"),
    ],
)
def test_a_redirect_elsewhere_is_refused(
    served: Served, tmp_path: Path, location: str, reason: str
) -> None:
    served.location = location
    with refused(tmp_path / "file", re.escape(reason)):
        served.downloader.fetch(f"https://{HOST}/redirect", tmp_path / "file", nothing)


def test_a_redirect_to_a_name_with_a_private_address_is_refused(
    served: Served, tmp_path: Path
) -> None:
    """Also one whose name resolves to a public and a private address."""
    served.location = "https://other.test/a"
    addresses = {HOST: ["127.0.0.1"], "other.test": ["127.0.0.1", "10.0.0.7"]}
    downloader = replace(served.downloader, resolve=addresses.__getitem__)
    with refused(tmp_path / "file", r"other\.test is not fetched: 10\.0\.0\.7 is no public"):
        downloader.fetch(f"https://{HOST}/redirect", tmp_path / "file", nothing)
    assert served.hosts == [HOST]


def test_a_name_is_resolved_once_a_request(served: Served, tmp_path: Path) -> None:
    """Whoever answers differently the second time (rebinding) gains nothing."""
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.7"]

    downloader = replace(served.downloader, resolve=resolve)
    assert downloader.fetch(f"https://{HOST}/a", tmp_path / "file", nothing)
    assert asked == [HOST]


def test_another_hosts_certificate_is_refused(served: Served, tmp_path: Path) -> None:
    with refused(tmp_path / "file", "other.test/a could not be fetched"):
        served.downloader.fetch("https://other.test/a", tmp_path / "file", nothing)


def test_a_file_that_is_too_large_is_refused(served: Served, tmp_path: Path) -> None:
    downloader = replace(served.downloader, max_bytes=1000)
    with refused(tmp_path / "file", "is larger than 1000 bytes"):
        downloader.fetch(f"https://{HOST}/a", tmp_path / "file", nothing)


def test_who_hears_of_progress_can_stop(served: Served, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        served.downloader.fetch(f"https://{HOST}/a", tmp_path / "file", stop)
    assert list(tmp_path.glob("*file*")) == []


def test_no_network_is_said_plainly(tmp_path: Path) -> None:
    def resolve(host: str) -> list[str]:
        raise OSError("Temporary failure in name resolution")

    downloader = Downloader(resolve=resolve, retry_seconds=0.0)
    with pytest.raises(JobFailedError) as caught:
        downloader.fetch("https://huggingface.co/a", tmp_path / "file", nothing)
    assert caught.value.message == (
        "https://huggingface.co/a could not be fetched: Temporary failure in name resolution."
    )
    assert "--data FILE" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_private_addresses_are_no_public_ones(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["208.80.154.224", "2620:0:861:ed1a::1", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)
    assert ipaddress.ip_address(address)


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("dumps.wikimedia.org", True),
        ("huggingface.co", True),
        ("cdn-lfs.huggingface.co", True),
        ("cas-bridge.xethub.hf.co", True),
        ("hf.co", False),
        ("nothuggingface.co", False),
        ("huggingface.co.evil.test", False),
        ("dumps-wikimedia.org", False),
        ("127.0.0.1", False),
        ("127.1", False),
        ("2130706433", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_the_hosts_of_production(host: str, is_allowed: bool) -> None:
    assert bool(PUBLIC_HOSTS.fullmatch(host)) is is_allowed
