"""Fetching a file from one of a few public hosts, without becoming somebody's way in.

https only, hosts from a list, every address checked: a name is resolved once, no address of it may
be private, and the connection goes to the address that was checked. A redirect is checked the same
way. Size and time have limits; a connection that breaks is taken up where it broke. Knows nothing
of what the files are. No proxy is used.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

import urllib3

from shared.base.errors import JobFailedError
from shared.base.files import atomic_write

PUBLIC_HOSTS = re.compile(
    r"dumps\.wikimedia\.org|(?:[a-z0-9-]+\.)*huggingface\.co|(?:[a-z0-9-]+\.)+hf\.co"
)
"""Wikipedia's dumps; Hugging Face and the hosts that it sends large files from."""
MAX_FILE_BYTES = 32 << 30
MAX_SECONDS = 12 * 3600.0
IDLE_SECONDS = 60.0
MAX_REDIRECTS = 5
MAX_ATTEMPTS = 5
PIECE_BYTES = 1 << 18
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TUNNELS = tuple(
    ipaddress.ip_network(network) for network in ("64:ff9b::/32", "2001::/32", "2002::/16")
)
"""IPv6 addresses that stand for IPv4 ones."""
OnBytes = Callable[[int, int], None]


def resolve_host(host: str) -> list[str]:
    """Return the addresses of a name. Raises OSError when there are none."""
    found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address lies in the public internet, and not in this machine or its network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in network for network in TUNNELS):
            return False
    return ip.is_global and not ip.is_multicast


class _BrokenOffError(Exception):
    """The connection ended before the file did; asking again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """What may be fetched, from where, and how far. The defaults are for production."""

    hosts: re.Pattern[str] = PUBLIC_HOSTS
    resolve: Callable[[str], Sequence[str]] = resolve_host
    may_connect: Callable[[str], bool] = is_public
    port: int = 443
    ca_certs: str | None = None
    """Certificates to trust; None takes the system's."""
    max_bytes: int = MAX_FILE_BYTES
    max_seconds: float = MAX_SECONDS
    idle_seconds: float = IDLE_SECONDS
    retry_seconds: float = 2.0

    def fetch(self, url: str, target: Path, on_bytes: OnBytes, *, missing_ok: bool = False) -> bool:
        """Fetch `url` into `target`, whole or not at all; return whether there was such a file.

        `on_bytes(done, total)` hears of progress (total 0 when unknown) and may raise to stop.
        Raises JobFailedError, saying what to do, for an address that is not allowed, a host that
        cannot be reached, a file that is too large, and an answer other than the file.
        """
        deadline = time.monotonic() + self.max_seconds
        version = ""
        with atomic_write(target) as file:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                try:
                    with self._open(url, file.tell(), version) as response:
                        if response.status == 404 and missing_ok:
                            break
                        version = response.headers.get("etag", "")
                        self._take(url, response, file, on_bytes, deadline)
                        return True
                except (_BrokenOffError, urllib3.exceptions.HTTPError, OSError) as error:
                    if attempt == MAX_ATTEMPTS or time.monotonic() > deadline:
                        raise _unreachable(url, error) from error
                    time.sleep(self.retry_seconds * attempt)
        target.unlink()
        return False

    def _take(
        self,
        url: str,
        response: urllib3.BaseHTTPResponse,
        file: IO[bytes],
        on_bytes: OnBytes,
        deadline: float,
    ) -> None:
        """Write what the answer brings: all of the file, or the rest of it."""
        if response.status == 200:
            file.seek(0)
            file.truncate()
        elif response.status != 206:
            raise JobFailedError(
                f"{url} answers {response.status}.", hint="Send the file itself as an upload."
            )
        done = file.tell()
        length = response.headers.get("content-length", "")
        total = done + int(length) if length.isdecimal() else 0
        self._check_size(url, total)
        while piece := response.read(PIECE_BYTES):
            file.write(piece)
            done += len(piece)
            self._check_size(url, done)
            on_bytes(done, total)
            if time.monotonic() > deadline:
                raise JobFailedError(f"{url} took longer than {self.max_seconds:.0f} seconds.")
        if done < total:
            raise _BrokenOffError(f"{done} of {total} bytes arrived")

    def _check_size(self, url: str, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise JobFailedError(f"{url} is larger than {self.max_bytes} bytes.")

    @contextmanager
    def _open(self, url: str, offset: int, version: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """Follow redirects to an answer. With an offset, ask for the rest of that version."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "ryan-gpt"}
        if offset and version:
            headers |= {"Range": f"bytes={offset}-", "If-Range": version}
        for _ in range(MAX_REDIRECTS + 1):
            with self._answer(url, headers) as response:
                if response.status not in REDIRECTS:
                    yield response
                    return
                url = urljoin(url, response.headers.get("location", ""))
        raise JobFailedError(f"{url} was reached by more than {MAX_REDIRECTS} redirects.")

    @contextmanager
    def _answer(self, url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        host, path = self._checked(url)
        addresses = self._addresses(host)
        timeout = urllib3.Timeout(connect=self.idle_seconds, read=self.idle_seconds)
        last: Exception | None = None
        for address in addresses:
            pool = urllib3.HTTPSConnectionPool(
                address,
                self.port,
                timeout=timeout,
                retries=False,
                cert_reqs="CERT_REQUIRED",
                ca_certs=self.ca_certs,
                server_hostname=host,
                assert_hostname=host,
            )
            with pool:
                try:
                    response = pool.urlopen(
                        "GET",
                        path,
                        headers=headers | {"Host": host},
                        redirect=False,
                        preload_content=False,
                        decode_content=False,
                    )
                except urllib3.exceptions.NewConnectionError as error:
                    last = error
                    continue
                with response:
                    yield response
                    return
        raise last or OSError(f"{host} has no address")

    def _checked(self, url: str) -> tuple[str, str]:
        """Return host and path of an address that is allowed."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        host = (parts.hostname or "").lower()
        if parts.scheme != "https" or parts.username is not None or port not in (None, self.port):
            raise _forbidden(url, "only plain https addresses are fetched")
        if not self.hosts.fullmatch(host):
            raise _forbidden(url, f"{host!r} is not among the allowed hosts")
        return host, parts.path + (f"?{parts.query}" if parts.query else "")

    def _addresses(self, host: str) -> Sequence[str]:
        addresses = self.resolve(host)
        for address in addresses:
            if not self.may_connect(address):
                raise _forbidden(f"https://{host}", f"{address} is no public address")
        return addresses


def _forbidden(url: str, why: str) -> JobFailedError:
    return JobFailedError(
        f"{url[:300]} is not fetched: {why}.", hint="Send the file itself as an upload."
    )


def _unreachable(url: str, error: Exception) -> JobFailedError:
    return JobFailedError(
        f"{url} could not be fetched: {error}.",
        hint="Is this machine connected to the internet? If not, fetch the file elsewhere and send "
        "it as an upload (for a recipe: --data FILE, --dialogues FILE).",
    )
