"""Whose the data folder is, and that two platforms never share it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ryangpt.data_folder import delete_data_folder, open_data_folder
from shared.base.errors import StartupError


def test_a_new_folder_is_marked_and_can_be_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with open_data_folder(folder) as opened:
        assert opened == folder
        assert (folder / "version").read_text() == "ryan-gpt data folder 1\n"
    with open_data_folder(folder):
        pass


def test_a_folder_in_use_is_refused_and_not_deleted(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "data"):
        for action in (lambda: open_data_folder(tmp_path / "data").__enter__(),
                       lambda: delete_data_folder(tmp_path / "data")):  # fmt: skip
            with pytest.raises(StartupError, match=r"is in use by another `ryangpt up` \(process"):
                action()
    assert (tmp_path / "data" / "version").is_file()


def test_another_version_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("ryan-gpt data folder 9\n")
    with (
        pytest.raises(StartupError, match=r"another version .'ryan-gpt data folder 9', not"),
        open_data_folder(tmp_path),
    ):
        pass


def test_a_strangers_folder_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(StartupError, match="is not a data folder of Ryan-GPT"),
        open_data_folder(tmp_path),
    ):
        pass
    with pytest.raises(StartupError, match="nothing was deleted"):
        delete_data_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unusable_path_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StartupError, match=r"file/data cannot be used: Not a directory\."),
        open_data_folder(tmp_path / "file" / "data"),
    ):
        pass


def test_errors_of_the_user_of_the_folder_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_data_folder(tmp_path / "data"):
        (tmp_path / "elsewhere").read_text()


def test_deleting_leaves_nothing(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "data"):
        pass
    delete_data_folder(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
