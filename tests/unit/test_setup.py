"""The environment maker: which torch it takes, and that everything is pinned."""

from __future__ import annotations

import re
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"


@pytest.fixture
def setup() -> ModuleType:
    spec = spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("has_gpu", "offered", "index", "expected"),
    [
        (False, "2.13.0+cpu", "", ["-c", "constraints.txt", "torch==2.13.0+cpu"]),
        (False, "", "", ["--index-url", "https://download.pytorch.org/whl/cpu", TORCH]),
        (False, "2.13.0", "", ["--index-url", "https://download.pytorch.org/whl/cpu", TORCH]),
        (True, "2.13.0+cpu", "", ["-c", "constraints.txt", TORCH]),
        (True, "2.13.0", "", ["-c", "constraints.txt", TORCH]),
        (False, "2.13.0+cpu", "https://mirror", ["--index-url", "https://mirror", TORCH]),
        (True, "", "https://mirror", ["--index-url", "https://mirror", TORCH]),
    ],
)
def test_torch_fits_the_machine(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, offered: str, index: str,
    expected: list[str],
) -> None:  # fmt: skip
    asked: list[list[str]] = []
    monkeypatch.setattr(setup, "_pip", lambda *arguments: asked.append(list(arguments)))
    monkeypatch.setattr(setup, "_installed_torch", lambda: "")
    monkeypatch.setattr(setup, "_torch_from_find_links", lambda _: offered)
    monkeypatch.setattr(setup, "CONSTRAINTS", Path("constraints.txt"))
    monkeypatch.setattr(setup, "_pinned_torch", lambda: TORCH)
    monkeypatch.setenv("TORCH_INDEX_URL", index)
    setup._install_torch(has_gpu=has_gpu)
    assert asked == [["install", *expected]]


def test_an_installed_torch_of_the_right_version_stays(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_pip", lambda *arguments: pytest.fail(f"pip {arguments}"))
    monkeypatch.setattr(setup, "_installed_torch", lambda: "2.13.0+cpu")
    setup._install_torch(has_gpu=False)


def test_every_dependency_is_pinned_and_torch_fits_both_builds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(d for name in extras if name != "cuda"
                                          for d in extras[name])]  # fmt: skip
    names = {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in wanted} - {"ryan-gpt"}
    pinned = {name.lower().replace("_", "-") for name in pins}
    assert {name for name in names if name.lower().replace("_", "-") not in pinned} == set()
    assert pins["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
