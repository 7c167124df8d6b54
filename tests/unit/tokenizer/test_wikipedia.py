"""Wikipedia dumps: which pages become documents, and which files are refused."""

from __future__ import annotations

import bz2
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.mediawiki import Page
from services.tokenizer.rows import parse_row, read_lines
from services.tokenizer.wikipedia import article_text, wikipedia_documents
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec
from tests.support.watching import quiet_watch

UPLOAD = "upl_01J00000000000000000000000"
SPEC = IngestSpec.model_validate({"source": "wikipedia", "upload": UPLOAD})
SENTENCE = "The cat sat on the mat and looked at the dog in the yard. "
ARTICLE = SENTENCE * 6


def dump(*pages: str) -> bytes:
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">'
    return f"{head}<siteinfo/>{''.join(pages)}</mediawiki>".encode()


def page(title: str, text: str, namespace: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns>{extra}"
        f"<revision><id>1</id><text>{text}</text></revision></page>"
    )


def documents(folder: Path, content: bytes, name: str = "dump.xml.bz2") -> list[str]:
    path = folder / "upload"
    path.write_bytes(content)
    return [row["text"] for row in wikipedia_documents(InputFile(path, name), SPEC)]


def test_articles_become_documents_below_their_titles(tmp_path: Path) -> None:
    content = dump(
        page("Cat", f"{ARTICLE}\n== References ==\n* gone"),
        page("Feline", "#REDIRECT [[Cat]]", extra='<redirect title="Cat" />'),
        page("Talk:Cat", ARTICLE, namespace=1),
        page("Stub", "A stub."),
    )
    expected = [f"Cat\n\n{ARTICLE.strip()}"]
    assert documents(tmp_path, content) == expected
    assert (
        documents(tmp_path, bz2.compress(content[:300]) + bz2.compress(content[300:])) == expected
    )


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        (ARTICLE, True),
        ("word " * 49 + "a" * 200, True),
        ("word " * 48 + "a" * 200, False),
        ("a b c " * 33, False),
        ("\n".join(["* item of a list here"] * 12 + ["prose"] * 12), True),
        ("\n".join(["* item of a list here"] * 13 + ["prose"] * 12), False),
        (ARTICLE + "é" * 80, True),
        (ARTICLE + "é" * 100, False),
    ],
)
def test_the_reference_s_filters(text: str, is_kept: bool) -> None:
    found = article_text(Page(title="T", namespace="0", is_redirect=False, text=text))
    assert (found is not None) is is_kept


@pytest.mark.parametrize(
    "heading", ["Related pages", "References", "Other websites", "Notes", "Sources", "NOTES"]
)
def test_an_article_ends_at_its_apparatus(heading: str) -> None:
    text = f"{ARTICLE}\n=== {heading} ===\nGone."
    found = article_text(Page(title="T", namespace="0", is_redirect=False, text=text))
    assert found == ARTICLE.strip()


def test_a_cut_dump_is_refused(tmp_path: Path) -> None:
    packed = bz2.compress(dump(page("Cat", ARTICLE)))
    with pytest.raises(JobFailedError, match=r"^dump\.xml\.bz2 is a damaged bzip2 file: "):
        documents(tmp_path, packed[: len(packed) // 2])
    with pytest.raises(JobFailedError, match="is a damaged bzip2 file: Invalid data stream"):
        documents(tmp_path, packed[:40] + b"\0" * 40 + packed[80:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (dump(page("Cat", ARTICLE))[:-20], "is not a whole MediaWiki dump: "),
        (b"<mediawiki><page></mediawiki>", "mismatched tag: line 1, column 19"),
        (b"plain words", "syntax error: line 1, column 0"),
        (b"", "no element found: line 1, column 0"),
        (b"<html></html>", "its root is <html>, not <mediawiki>"),
        (b"<mediawiki>" + b"<a>" * 100, "nests elements more than 64 deep"),
        (
            b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><mediawiki>&b;</mediawiki>',
            "declares the entity 'a'",
        ),
        (
            b'<!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]><mediawiki>&a;</mediawiki>',
            "declares the entity 'a'",
        ),
        (dump(page("Big", "x" * (17 << 20))), "has a page of more than 16777216 characters"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(JobFailedError) as caught:
        documents(tmp_path, content)
    assert reason in caught.value.message
    assert caught.value.hint


BOMB = """
import resource, sys
from pathlib import Path
from services.tokenizer.input_file import InputFile
from services.tokenizer.wikipedia import wikipedia_documents
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec

spec = IngestSpec.model_validate({"source": "wikipedia", "upload": sys.argv[2]})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(wikipedia_documents(InputFile(Path(sys.argv[1]), "bomb.bz2"), spec))
except JobFailedError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown >> 10, error.message)
"""


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"<mediawiki>", "bomb.bz2 unpacks to more than 67108864 bytes, 200 times its size."),
        (
            b"<mediawiki><page><revision><text>",
            "bomb.bz2 has a page of more than 16777216 characters.",
        ),
    ],
)
def test_a_bomb_is_refused_in_flat_memory(tmp_path: Path, head: bytes, message: str) -> None:
    packer, bomb = bz2.BZ2Compressor(), tmp_path / "bomb.bz2"
    packed = packer.compress(head) + b"".join(packer.compress(b" " * (1 << 20)) for _ in range(80))
    bomb.write_bytes(packed + packer.flush())
    assert bomb.stat().st_size < 2000
    arguments = [sys.executable, "-c", BOMB, str(bomb), UPLOAD]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    grown, _, told = ended.stdout.strip().partition(" ")
    assert told == message
    assert int(grown) < 100


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    with bz2.open(path, "wb") as file:
        file.write(b"<mediawiki>")
        for number in range(500):
            file.write(page(f"Cat {number}", f"{number} {ARTICLE * 40}").encode())
        file.write(b"</mediawiki>")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in wikipedia_documents(InputFile(path, "dump"), SPEC)) == 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_the_real_sample_comes_out_clean(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "wikipedia" / "enwiki-sample.xml.bz2"
    meta = ingest(SPEC, InputFile(path, path.name), tmp_path, quiet_watch())
    texts = [parse_row(line)["text"] for line in read_lines(tmp_path)]
    marks = ("{{", "}}", "[[", "]]", "<ref", "|}", "{|", "'''", "&nbsp;", "thumb|")
    assert {mark: sum(text.count(mark) for text in texts) for mark in marks} == dict.fromkeys(
        marks, 0
    )
    assert (meta.documents, len(texts)) == (174, 174)
    assert texts[0].startswith("Anarchism\n\nAnarchism is a political philosophy that advocates")
