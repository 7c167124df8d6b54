"""A model's files out of a public Hugging Face repository, by the names that such files have."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from shared.base.download import Downloader
from shared.base.errors import JobFailedError
from shared.contracts.manifest import TOKENIZER_JSON
from shared.contracts.progress import ProgressLine, ProgressMessage

ADDRESS = "https://huggingface.co/{repository}/resolve/main/{path}"
SINGLE_WEIGHTS, WEIGHTS_INDEX, PICKLED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "ckpt_final.pt",
)
SMALL_FILES = ("config.json", TOKENIZER_JSON, "vocab.json", "merges.txt")
SECONDS_BETWEEN_LINES = 1.0


def fetch_repository(
    repository: str,
    own: Mapping[str, Path],
    outputs: Path,
    report: Callable[[ProgressMessage], None],
    downloader: Downloader,
) -> dict[str, Path]:
    """Fetch what is in `owner/name` or `owner/name/folder` and not among the user's `own` files.

    Returns all files by name. Raises JobFailedError when there are no weights.
    """
    fetcher = _Fetcher(repository, outputs / ".fetched", report, downloader)
    for name in SMALL_FILES:
        if name not in own:
            fetcher.fetch(name)
    has_own_weights = any(name.endswith((".pt", ".safetensors")) for name in own)
    if not has_own_weights and not fetcher.fetch(SINGLE_WEIGHTS) and not fetcher.fetch(PICKLED):
        if not fetcher.fetch(WEIGHTS_INDEX):
            raise JobFailedError(
                f"{repository} holds none of {SINGLE_WEIGHTS}, {WEIGHTS_INDEX} and {PICKLED}.",
                hint="Name the folder inside the repository too: owner/name/folder.",
            )
        for name in _shards(fetcher.found.pop(WEIGHTS_INDEX)):
            fetcher.fetch(name)
    return fetcher.found | dict(own)


class _Fetcher:
    """Fetches single files and remembers where they are."""

    def __init__(
        self,
        repository: str,
        folder: Path,
        report: Callable[[ProgressMessage], None],
        downloader: Downloader,
    ) -> None:
        owner, name, *below = repository.split("/")
        self._repository = f"{owner}/{name}"
        self._below = below
        self._folder = folder
        self._report = report
        self._downloader = downloader
        self._last_line = 0.0
        self.found: dict[str, Path] = {}

    def fetch(self, name: str) -> bool:
        """Fetch a file; return whether there is one."""
        path = "/".join([*self._below, name])
        url = ADDRESS.format(repository=self._repository, path=path)
        target = self._folder / name
        found = self._downloader.fetch(url, target, self._tell, missing_ok=True)
        if found:
            self.found[name] = target
        return found

    def _tell(self, done: int, total: int) -> None:
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            line = ProgressLine(step=done, total_steps=max(done, total), message="bytes fetched")
            self._report(line)


def _shards(index: Path) -> list[str]:
    """The weight files that an index names; plain names only."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobFailedError(f"{index.name} is not an index of weights: {error}.") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise JobFailedError(f"{index.name} names files outside its folder.")
    return [name for name in names if name.endswith(".safetensors")]
