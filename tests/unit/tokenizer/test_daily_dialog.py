"""DailyDialog: turns, typography, and archives that are not what they should be."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from services.tokenizer.daily_dialog import daily_dialogues, detokenise, dialogue_of
from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import Row, parse_row, read_lines
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec
from tests.support.watching import quiet_watch

SPEC = IngestSpec.model_validate(
    {"source": "dailydialog", "upload": "upl_01J00000000000000000000000"}
)
LINE = "Hi , Jim ! __eou__ I ' m fine . __eou__\n"


def archive(folder: Path, members: dict[str, bytes]) -> InputFile:
    path = folder / "upload"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return InputFile(path, "train.zip")


def rows_of(file: InputFile) -> list[Row]:
    return list(daily_dialogues(file, SPEC))


@pytest.mark.parametrize(
    ("turn", "written"),
    [
        ("I ' m fine .", "I'm fine."),
        ("I ’ m , you don ’ t !", "I'm, you don't!"),
        ("Let ' s go . It ' Ll rain .", "Let's go. It'Ll rain."),
        ("I don't . It's 9 : 30 , or 1 , 500 ?", "I don't. It's 9:30, or 1,500?"),
        ("I guess you are right.But what ?", "I guess you are right. But what?"),
        ("5 o ' clock , Ma ' am", "5 o'clock, Ma'am"),
        ('He said " hello there " to me .', 'He said "hello there" to me.'),
        ("They call it ' can ' t stop ' here .", "They call it 'can't stop' here."),
        ("( so to say ) $ 5", "(so to say) $5"),
        ("our clients ' needs", "our clients' needs"),
        ("   ", ""),
    ],
)
def test_a_turn_is_written_as_people_write(turn: str, written: str) -> None:
    assert detokenise(turn) == written


def test_turns_alternate_beginning_with_the_user() -> None:
    assert dialogue_of("a __eou__ b __eou__  __eou__ c __eou__") == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_an_archive_and_its_text_give_the_same(tmp_path: Path) -> None:
    expected = [
        {
            "messages": [
                {"role": "user", "content": "Hi, Jim!"},
                {"role": "assistant", "content": "I'm fine."},
            ]
        }
    ]
    members = {"train/dialogues_act_train.txt": b"1 2", "train/dialogues_train.txt": LINE.encode()}
    assert rows_of(archive(tmp_path, members)) == expected
    (tmp_path / "upload").write_text(LINE)
    assert rows_of(InputFile(tmp_path / "upload", "dialogues_train.txt")) == expected


@pytest.mark.parametrize(
    "name",
    [
        "../dialogues_train.txt",
        "train/../../dialogues_train.txt",
        "/etc/dialogues_train.txt",
        "C:\\dialogues_train.txt",
        "train.zip",
        "dialogues_act_train.txt",
    ],
)
def test_a_name_that_leads_elsewhere_is_not_read(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path, {name: LINE.encode()})
    with pytest.raises(JobFailedError, match=r"^train\.zip holds no dialogues_<split>\.txt, but: "):
        rows_of(file)
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    file = archive(tmp_path, {"dialogues_train.txt": LINE.encode() * 1000})
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JobFailedError, match=r"^train\.zip is a damaged archive: "):
        rows_of(file)
    middle = 60
    file.path.write_bytes(
        whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle:80]) + whole[80:]
    )
    with pytest.raises(JobFailedError, match=r"^train\.zip is a damaged archive: "):
        rows_of(file)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tokenizer.daily_dialog.MAX_TEXT_BYTES", 1000)
    file = archive(tmp_path, {"dialogues_train.txt": LINE.encode() * 1000})
    with pytest.raises(JobFailedError, match="unpacks to more than"):
        rows_of(file)


def test_a_text_without_turns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text(f"{LINE}no turns\n")
    with pytest.raises(JobFailedError, match=r"^d\.txt, line 2 has no __eou__\.$"):
        rows_of(InputFile(tmp_path / "upload", "d.txt"))


@pytest.mark.parametrize(
    ("split", "dialogues", "repeated"),
    [("train", 11_118, 737), ("validation", 1000, 6), ("test", 1000, 5)],
)
def test_every_official_dialogue_comes_out(
    shared_data: Path, tmp_path: Path, split: str, dialogues: int, repeated: int
) -> None:
    path = shared_data / "dailydialog" / f"{split}.zip"
    assert len(rows_of(InputFile(path, path.name))) == dialogues
    meta = ingest(SPEC, InputFile(path, path.name), tmp_path, quiet_watch())
    assert (meta.documents, meta.duplicates_dropped) == (dialogues - repeated, repeated)
    rows = map(parse_row, read_lines(tmp_path))
    texts = [message["content"] for row in rows for message in row["messages"]]
    for wrong in (r" ' ", r"\w ' \w", r"’", r" [.,!?;:](\s|$)"):
        assert [text for text in texts if re.search(wrong, text)] == []
