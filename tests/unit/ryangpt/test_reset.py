"""`ryangpt reset` asks, tells, and leaves strangers' folders alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ryangpt.cli import app
from ryangpt.data_folder import open_data_folder


def reset(folder: Path, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["reset", "--data_dir", str(folder), *arguments], input=typed)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with open_data_folder(tmp_path / "data") as folder:
        (folder / "ryangpt.db").write_text("rows")
    return folder


def test_it_asks_first(data: Path) -> None:
    refused = reset(data, typed="n\n")
    assert (refused.exit_code, refused.stderr) == (1, "Error: Aborted.\n")
    assert data.exists()
    agreed = reset(data, typed="y\n")
    assert agreed.exit_code == 0
    assert agreed.stdout.endswith(f"Deleted {data}.\n")
    assert not data.exists()


def test_yes_and_json_do_not_ask(data: Path) -> None:
    result = reset(data, "--json")
    assert json.loads(result.stdout) == {"deleted": str(data)}
    again = reset(data, "--yes")
    assert (again.exit_code, again.stdout) == (
        0, f"There is no data folder {data}; nothing to do.\n",
    )  # fmt: skip


def test_a_strangers_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = reset(tmp_path, "--yes")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {tmp_path} is not a data folder of Ryan-GPT; nothing was deleted.\n"
    )
    assert (tmp_path / "thesis.txt").read_text() == "mine"
