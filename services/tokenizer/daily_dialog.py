"""DailyDialog's official archives as dialogues: turns split, typography mended, roles given."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator

from services.tokenizer.dialogues import cut_dialogue
from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import Row
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec
from shared.text.chat import Message

TURN_END = "__eou__"
MEMBER = re.compile(r"(?:[^/\\]+/)*dialogues_(?:train|validation|test|text)\.txt")
"""The file in the archive; its neighbours hold emotions and acts."""
ZIP_MAGIC = b"PK"
MAX_LINE_BYTES = 1 << 20
MAX_TEXT_BYTES = 256 << 20
"""All of DailyDialog is 8 MB."""
HINT = "Send one of the official train.zip, validation.zip and test.zip, or a dialogues_*.txt."

_RULES = (
    (re.compile(r"[ \t\u00a0]+"), " "),
    (re.compile(r"[\u2018\u2019\u00b4`]"), "'"),
    (re.compile(r"[\u201c\u201d]"), '"'),
    (re.compile(r"\s*\\\s*(?=')"), " "),
    # I ' m, don ' t, Let ' s, and the half-joined I' m and I 'm
    (re.compile(r"(?<=\w) ?' ?(?=(?:s|t|m|d|re|ve|ll)\b)", re.IGNORECASE), "'"),
    (re.compile(r"(?<=\w) n't\b"), "n't"),
    (re.compile(r"\b(o|Ma|ma) ' (?=clock\b|am\b)"), r"\1'"),
    (re.compile(r"(?:^|(?<= ))' ((?:[^']|(?<=\w)'(?=\w))+?) ?'(?= |$|[.,!?;:])"), r"'\1'"),
    (re.compile(r"(?<=\w\ws) ' "), "' "),
    (re.compile(r"(?<=\w) ' (?=\w)"), "'"),
    # what is left begins a quotation, or a word such as 'cause
    (re.compile(r"(?:^|(?<= ))' (?=\w)"), "'"),
    (re.compile(r" +(?=[.,!?;:%)\]])"), ""),
    (re.compile(r"(?<=[(\[$#]) +"), ""),
    # 9:00, 1,500 and 3.5 were taken apart as well
    (re.compile(r"(?<=\d)([:,.]) (?=\d)"), r"\1"),
    # a sentence that begins right behind the last one's end
    (re.compile(r"(?<=[a-z][.!?])(?=[A-Z][a-z' ])"), " "),
    (re.compile(r'(?:^|(?<= ))" ([^"]*?) ?"(?= |$|[.,!?;:])'), r'"\1"'),
    (re.compile(r" {2,}"), " "),
)


def daily_dialogues(file: InputFile, spec: IngestSpec) -> Iterator[Row]:
    """Yield the dialogues of an archive, or of its text file; the first speaker is the user.

    Raises JobFailedError for an archive without the file, damaged, or unpacking to far too much.
    """
    for line in _lines(file):
        messages = dialogue_of(line)
        if len(messages) >= 2:
            for piece in cut_dialogue(messages, spec.max_document_chars):
                yield {"messages": piece}


def dialogue_of(line: str) -> list[Message]:
    """Return the turns of a line, alternating, the user's first; empty turns are left out."""
    turns = [text for turn in line.split(TURN_END) if (text := detokenise(turn))]
    return [
        {"role": "assistant" if position % 2 else "user", "content": text}
        for position, text in enumerate(turns)
    ]


def detokenise(turn: str) -> str:
    """Return a turn as a person writes it: `I ' m fine .` becomes `I'm fine.`"""
    text = turn.strip()
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


def _lines(file: InputFile) -> Iterator[str]:
    with file.path.open("rb") as raw:
        is_archive = raw.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if is_archive:
        yield from _archived_lines(file)
        return
    for line in file.lines(MAX_LINE_BYTES):
        if TURN_END not in line.text and line.text.strip():
            raise JobFailedError(f"{file.name}, line {line.number} has no {TURN_END}.", hint=HINT)
        yield line.text


def _archived_lines(file: InputFile) -> Iterator[str]:
    """Read the one member that is wanted, in memory of one line; nothing is ever extracted."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            member = _member(archive, file.name)
            read = 0
            with archive.open(member) as text:
                while line := text.readline(MAX_LINE_BYTES):
                    read += len(line)
                    if read > min(MAX_TEXT_BYTES, member.file_size):
                        raise JobFailedError(
                            f"{file.name} unpacks to more than it says.", hint=HINT
                        )
                    file.bytes_read = min(file.total_bytes, member.header_offset + read)
                    yield line.decode("utf-8")
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise JobFailedError(f"{file.name} is a damaged archive: {error}.", hint=HINT) from error
    except UnicodeDecodeError as error:
        raise JobFailedError(f"{file.name} holds text that is not UTF-8.", hint=HINT) from error


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the archive's text. Names are matched whole: one that leads out of the archive's
    folder (`../`, `/`, `C:\\`) is none of ours."""
    found = [
        info
        for info in archive.infolist()
        if MEMBER.fullmatch(info.filename)
        and not {"..", "."} & set(info.filename.split("/"))
        and not info.filename.startswith("/")
    ]
    if len(found) != 1:
        inside = ", ".join(info.filename for info in archive.infolist()[:5]) or "nothing"
        raise JobFailedError(
            f"{name} holds {len(found) or 'no'} dialogues_<split>.txt, but: {inside}.", hint=HINT
        )
    return found[0]
