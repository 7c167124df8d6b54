"""The pages in a browser: one shell at `/`, its modules and styles below `/pages/<digest>/`.

The files are read once, when the application is made, and kept compressed. Their digest is part of
their address, so that a browser may keep them for ever and never mixes two versions. Knows nothing
of what the pages show: they speak to the REST interface as everybody does.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from shared.base.errors import NotFoundError

FOLDER = Path(__file__).with_name("pages")
SHELL = "index.html"
PREFIX = "/pages"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Files of other kinds (licences, the manifest) are not served."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing inline, nothing evaluated, nothing from another host, no HTML made from strings."""
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file as it is sent."""

    media_type: str
    content: bytes
    compressed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """All files of the pages, by the path they are served at."""

    files: Mapping[str, PageFile]

    @property
    def paths(self) -> frozenset[str]:
        """What a browser may load before anybody has logged in: it holds no data."""
        return frozenset(self.files)


def load_pages(folder: Path = FOLDER) -> Pages:
    """Read the pages, and write the address of the files into the shell."""
    contents = dict(_contents(folder))
    shell = contents.pop(SHELL)
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    base = f"{PREFIX}/{digest.hexdigest()[:16]}"
    files = {f"{base}/{name}": _page_file(name, content) for name, content in contents.items()}
    files["/"] = _page_file(SHELL, _shell(shell.decode(), base, contents))
    return Pages(files=files)


def pages_router(pages: Pages) -> APIRouter:
    """Routes for exactly these files."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def read_shell(request: Request) -> Response:
        """The page that all pages are part of."""
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-cache",
        }
        return _answer(request, pages.files["/"], headers)

    @router.get(PREFIX + "/{path:path}")
    def read_page_file(request: Request) -> Response:
        """A module, a style or the icon."""
        file = pages.files.get(request.url.path)
        if file is None:
            raise NotFoundError(f"There is nothing at {request.url.path}.", hint="Reload the page.")
        return _answer(request, file, {"Cache-Control": FOR_EVER})

    return router


def _shell(text: str, base: str, names: Iterable[str]) -> bytes:
    """The shell with its addresses; it names every module, so that a browser fetches them at once
    and not one import after the other."""
    modules = sorted(name for name in names if name.endswith(".js"))
    preloads = "\n".join(f'<link rel="modulepreload" href="{{base}}/{name}">' for name in modules)
    return text.replace("{preloads}", preloads).replace("{base}", base).encode()


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in MEDIA_TYPES:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _page_file(name: str, content: bytes) -> PageFile:
    return PageFile(
        media_type=MEDIA_TYPES[Path(name).suffix],
        content=content,
        compressed=gzip.compress(content, mtime=0),
    )


def _answer(request: Request, file: PageFile, headers: dict[str, str]) -> Response:
    headers = {**headers, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        encoded = {**headers, "Content-Encoding": "gzip"}
        return Response(file.compressed, headers=encoded, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
