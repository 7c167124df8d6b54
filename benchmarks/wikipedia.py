"""Wikipedia's XML to plain text: ours beside mwparserfromhell on the same pages, one core each.

`python -m benchmarks.wikipedia [DUMP]` prints megabytes of unpacked XML a second (at least 2 are
wanted) for the whole way from the packed file to documents, and for the conversion of wikitext
alone, where `mwparserfromhell.parse(text).strip_code()` is the peer; and the markup each leaves.
"""

from __future__ import annotations

import argparse
import bz2
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mwparserfromhell

from services.tokenizer.input_file import InputFile
from services.tokenizer.mediawiki import read_pages
from services.tokenizer.wikipedia import ARTICLES, wikipedia_documents
from services.tokenizer.wikitext import plain_text
from shared.base.files import write_bytes
from shared.contracts.data_specs import IngestSpec

ROOT = Path(__file__).parents[1]
DEFAULT_DUMP = ROOT.parent / "shared" / "data" / "wikipedia" / "enwiki-sample.xml.bz2"
RESULT = ROOT / "benchmarks" / "results" / "wikipedia.json"
MARKS = ("{{", "[[", "<ref", "|}")


def seconds_of(work: Callable[[], object], runs: int) -> float:
    """Median CPU seconds: other processes on the machine count little."""
    taken = []
    for _ in range(runs):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dump", type=Path, nargs="?", default=DEFAULT_DUMP)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    megabytes = len(bz2.decompress(options.dump.read_bytes())) / 1e6
    spec = IngestSpec(source="wikipedia")
    file = InputFile(options.dump, options.dump.name)
    texts = [
        page.text
        for page in read_pages(file.pieces(), file.name)
        if page.namespace == ARTICLES and not page.is_redirect
    ]
    whole = seconds_of(lambda: list(wikipedia_documents(file, spec)), options.runs)
    ours = seconds_of(lambda: [plain_text(text) for text in texts], options.runs)
    theirs = seconds_of(
        lambda: [mwparserfromhell.parse(text).strip_code() for text in texts], options.runs
    )
    left = {
        "ours": [plain_text(text) for text in texts],
        "mwparserfromhell": [str(mwparserfromhell.parse(text).strip_code()) for text in texts],
    }
    marks = {
        name: {mark: sum(text.count(mark) for text in found) for mark in MARKS}
        for name, found in left.items()
    }
    result = {
        "xml_mb": megabytes,
        "articles": len(texts),
        "whole_mb_per_second": megabytes / whole,
        "convert_mb_per_second": megabytes / ours,
        "mwparserfromhell_mb_per_second": megabytes / theirs,
        "ratio": theirs / ours,
        "markup_left": marks,
    }
    print(f"{megabytes:.1f} MB of XML, {len(texts)} articles, median of {options.runs}, CPU time")
    print(f"packed dump to documents       {megabytes / whole:6.2f} MB/s")
    print(f"wikitext to text, ours         {megabytes / ours:6.2f} MB/s")
    print(
        f"wikitext to text, mwparser     {megabytes / theirs:6.2f} MB/s   ratio {theirs / ours:.2f}"
    )
    for name, found in marks.items():
        print(f"markup left by {name}: {found}")
    write_bytes(RESULT, json.dumps(result, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
