"""The public addresses of the reference's corpora, fetched one file at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from services.tokenizer.input_file import InputFile
from services.tokenizer.watch import Watch
from shared.base.download import Downloader
from shared.contracts.data_specs import IngestSpec

C4_FILES = 512
ADDRESSES: dict[str, Callable[[IngestSpec], Iterator[str]]] = {
    "wikipedia": lambda spec: iter(
        [
            f"https://dumps.wikimedia.org/{spec.edition}/latest/"
            f"{spec.edition}-latest-pages-articles.xml.bz2"
        ]
    ),
    "c4": lambda spec: (
        "https://huggingface.co/datasets/allenai/c4/resolve/main/realnewslike/"
        f"c4-train.{number:05d}-of-{C4_FILES:05d}.json.gz"
        for number in range(C4_FILES)
    ),
    "dailydialog": lambda spec: iter(
        [f"https://huggingface.co/datasets/roskoN/dailydialog/resolve/main/{spec.split}.zip"]
    ),
}


def fetched_files(
    spec: IngestSpec, folder: Path, watch: Watch, downloader: Downloader
) -> Iterator[InputFile]:
    """Yield the files of a source, each fetched when it is asked for and deleted after.

    Raises JobFailedError when one cannot be fetched.
    """

    def tell(done: int, total: int) -> None:
        watch.step(done, max(done, total), "bytes fetched")

    for url in ADDRESSES[spec.source](spec):
        watch.phase("fetching")
        path = folder / url.rpartition("/")[2]
        downloader.fetch(url, path, tell)
        watch.phase("reading")
        try:
            yield InputFile(path, path.name)
        finally:
            path.unlink()
