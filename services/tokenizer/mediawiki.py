"""Pages out of a MediaWiki XML dump, streamed through expat: one page in memory at a time.

Knows no wikitext. A dump declares no entity; a file that does (an entity bomb) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from xml.parsers import expat

from shared.base.errors import JobFailedError

MAX_PAGE_CHARS = 16 << 20
"""MediaWiki's own limit is 2 MiB."""
MAX_DEPTH = 64
A_DUMP = "Send a file such as simplewiki-latest-pages-articles.xml.bz2."
READ_FIELDS = frozenset({"title", "ns", "text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page as the dump has it."""

    title: str
    namespace: str
    """"0" for articles."""
    is_redirect: bool
    text: str
    """Wikitext of the newest revision in the dump."""


class _PageCollector:
    """Expat's handlers: collects the pages that end within one piece of the file."""

    def __init__(self, name: str) -> None:
        self.pages: list[Page] = []
        self.has_root = False
        self._name = name
        self._depth = 0
        self._in_page = False
        self._is_redirect = False
        self._fields: dict[str, list[str]] = {}
        self._reading: list[str] | None = None
        self._chars = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and tag != "mediawiki":
            raise _fail(self._name, f"is XML, but its root is <{tag[:50]}>, not <mediawiki>")
        if self._depth > MAX_DEPTH:
            raise _fail(self._name, f"nests elements more than {MAX_DEPTH} deep")
        self.has_root = True
        if tag == "page":
            self._in_page, self._is_redirect, self._fields, self._chars = True, False, {}, 0
        elif tag == "redirect":
            self._is_redirect = True
        elif self._in_page and tag in READ_FIELDS:
            # A page with its history has several texts: the last one counts.
            self._reading = self._fields[tag] = []

    def end(self, tag: str) -> None:
        self._depth -= 1
        if tag in READ_FIELDS:
            self._reading = None
        elif tag == "page" and self._in_page:
            self._in_page = False
            fields = {name: "".join(parts) for name, parts in self._fields.items()}
            self.pages.append(
                Page(
                    title=fields.get("title", "").strip(),
                    namespace=fields.get("ns", "0").strip(),
                    is_redirect=self._is_redirect,
                    text=fields.get("text", ""),
                )
            )
            self._fields = {}

    def characters(self, text: str) -> None:
        if self._reading is None:
            return
        self._reading.append(text)
        self._chars += len(text)
        if self._chars > MAX_PAGE_CHARS:
            raise _fail(self._name, f"has a page of more than {MAX_PAGE_CHARS} characters")

    def entity(self, name: str, *_: object) -> None:
        raise _fail(self._name, f"declares the entity {name[:50]!r}, which no dump does")


def read_pages(pieces: Iterable[bytes], name: str) -> Iterator[Page]:
    """Yield the pages of a dump that comes in `pieces`; `name` is for messages.

    Raises JobFailedError, saying where, for what is not well-formed XML, not a dump, or a bomb.
    """
    collector = _PageCollector(name)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.characters
    parser.EntityDeclHandler = collector.entity
    for piece in pieces:
        _feed(parser, piece, name)
        yield from collector.pages
        collector.pages = []
    _feed(parser, b"", name, is_last=True)
    yield from collector.pages


def _feed(parser: expat.XMLParserType, piece: bytes, name: str, *, is_last: bool = False) -> None:
    try:
        parser.Parse(piece, is_last)
    except expat.ExpatError as error:
        what = f"is not a whole MediaWiki dump: {error}"
        raise _fail(name, what, "Download it again and compare its checksum.") from error


def _fail(name: str, what: str, hint: str = A_DUMP) -> JobFailedError:
    return JobFailedError(f"{name} {what}.", hint=hint)
