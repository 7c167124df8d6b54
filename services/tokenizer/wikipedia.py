"""Articles out of a Wikipedia dump, filtered as the reference does, as documents."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.tokenizer.documents import cut_document
from services.tokenizer.input_file import InputFile
from services.tokenizer.mediawiki import Page, read_pages
from services.tokenizer.rows import Row
from services.tokenizer.wikitext import plain_text
from shared.contracts.data_specs import IngestSpec

ARTICLES = "0"
END_OF_ARTICLE = re.compile(
    r"^=+[ \t]*(?:Related pages|References|Other websites|Notes|Sources)[ \t]*=+[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
MIN_WORDS = 50
MAX_BULLET_SHARE = 0.5
MIN_ASCII_SHARE = 0.8
MIN_CHARS = 200
BULLETS = ("*", "-", "#")


def wikipedia_documents(file: InputFile, spec: IngestSpec) -> Iterator[Row]:
    """Yield the articles worth learning from, each below its title, long ones cut.

    Raises JobFailedError, saying where, for a file that is not a whole dump.
    """
    for page in read_pages(file.pieces(), file.name):
        text = article_text(page)
        if text is not None:
            for piece in cut_document(f"{page.title}\n\n{text}", spec.max_document_chars):
                yield {"text": piece}


def article_text(page: Page) -> str | None:
    """Return an article's prose up to its references; None for what is no article or a poor one.

    Poor: fewer than 50 words or 200 characters, more than half of the lines bullets, or less than
    80 % ASCII.
    """
    if page.namespace != ARTICLES or page.is_redirect or REDIRECT.match(page.text):
        return None
    end = END_OF_ARTICLE.search(page.text)
    text = plain_text(page.text[: end.start()] if end else page.text)
    return text if is_worth_learning(text) else None


def is_worth_learning(text: str) -> bool:
    """Whether a text passes the reference's filters."""
    if len(text) < MIN_CHARS or len(text.split()) < MIN_WORDS:
        return False
    lines = [line for line in text.split("\n") if line]
    bullets = sum(line.startswith(BULLETS) for line in lines)
    if bullets > MAX_BULLET_SHARE * len(lines):
        return False
    ascii_chars = len(text.encode("ascii", errors="ignore"))
    return ascii_chars >= MIN_ASCII_SHARE * len(text)
