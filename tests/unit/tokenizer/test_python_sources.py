"""What is read from Python's own documentation."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from services.tokenizer.python_docs import python_docs
from services.tokenizer.python_library import library_folder, library_modules
from services.tokenizer.python_qa import SMALL_TALK, arguments_sentence, dialogue_about, python_qa
from services.tokenizer.python_symbols import Symbol, first_sentence, symbols_of
from services.tokenizer.rows import Row, text_bytes_of
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec
from shared.contracts.split_rule import digest_of, is_held_out
from shared.text.chat import check_dialogue
from tests.support.watching import quiet_watch

SHAPES = '''"""Flat shapes and what can be done with them."""

def area(width, height=1, *, unit="cm", _cache=None):
    """Return the area of a `rectangle` in square units.

    A second paragraph.
    """

def anything(*shapes):
    """Accept any number of shapes and forget them."""

def _hidden():
    """Nobody should ask about this one at all."""

def undocumented(): ...

class Circle:
    """
    A round shape with a radius.  It has no corners.
    """

    def scale(self, factor):
        """scale(factor) -> Circle

        Multiply the radius by a factor.
        """

    async def roll(self):
        """Code like x = y | z is no sentence to answer with."""
'''


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name, content in {
        "shapes.py": SHAPES,
        "posixpath.py": 'def join(a, *p):\n    """Join two or more pathname components."""\n',
        "broken.py": "def (:\n",
        "pack/__init__.py": '"""Shapes in a pack."""\n',
        "pack/test/test_shapes.py": '"""Left out."""\n',
        "_secret.py": '"""A module that nobody imports by itself."""\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def symbols_in(library: Path) -> dict[str, Symbol]:
    found: dict[str, Symbol] = {}
    for module in library_modules(library):
        tree = module.parse()
        if tree is not None:
            found |= {symbol.name: symbol for symbol in symbols_of(module, tree)}
    return found


def test_modules_are_found_in_order(library: Path) -> None:
    names = [module.name for module in library_modules(library)]
    assert names == ["_secret", "broken", "pack", "posixpath", "shapes"]


def test_a_python_without_sources(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="holds no Python sources"):
        library_modules(tmp_path)


def test_public_names_and_their_parameters(library: Path) -> None:
    symbols = symbols_in(library)
    assert sorted(symbols) == [
        "os.path.join",
        "shapes",
        "shapes.Circle",
        "shapes.Circle.scale",
        "shapes.anything",
        "shapes.area",
    ]
    assert symbols["shapes.area"] == Symbol(
        name="shapes.area",
        kind="function",
        summary="Return the area of a rectangle in square units.",
        required=("width",),
        optional=("height", "unit"),
    )
    assert symbols["shapes.Circle"].summary == "A round shape with a radius."
    assert symbols["shapes.Circle.scale"].summary == "Multiply the radius by a factor."
    assert symbols["shapes.Circle.scale"].required == ("factor",)
    assert symbols["shapes.anything"].required is None


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the name of the day.  More follows.", "Return the name of the day."),
        ("return the *name* of\n the 'day'", "Return the name of the day."),
        ("f(x, y) -> int\n\nCount what lies between.", "Count what lies between."),
        ("See RFC 2822.3 for what it means.", "See RFC 2822.3 for what it means."),
        ("Too short here.", None),
        ("Only_a_few long_words_here_x.", None),
        ("Return x such that x == y holds.", None),
        ("Return the naïve answer to the question.", None),
        ("Values are one of the following:", None),
        ("A sentence that " + "goes on and " * 20 + "ends.", None),
        ("", None),
    ],
)
def test_first_sentences(docstring: str, sentence: str | None) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    ("required", "optional", "sentence"),
    [
        ((), (), "It takes no arguments."),
        (("a",), (), "It takes one argument, a."),
        (("a", "b"), (), "It takes two arguments, a and b."),
        (("a", "b", "c"), ("d",), "It takes three arguments, a, b and c, and optionally d."),
        ((), ("x", "y"), "It takes two optional arguments, x and y."),
        (None, (), None),
        (tuple("abcdefg"), (), None),
    ],
)
def test_what_a_function_takes(
    required: tuple[str, ...] | None, optional: tuple[str, ...], sentence: str | None
) -> None:
    symbol = Symbol(name="f", kind="function", summary="s", required=required, optional=optional)
    assert arguments_sentence(symbol) == sentence


def test_a_name_is_always_asked_about_in_the_same_way() -> None:
    symbol = Symbol(
        name="os.path.join",
        kind="function",
        summary="Join two or more pathname components.",
        required=None,
    )
    assert dialogue_about(symbol) == dialogue_about(symbol)
    assert [message["content"] for message in dialogue_about(symbol)] == [
        "What does os.path.join do?",
        "Join two or more pathname components.",
    ]


def test_docstrings_become_documents(library: Path) -> None:
    spec = IngestSpec(source="python_docs", max_document_chars=100)
    texts = [row["text"] for row in python_docs(spec, quiet_watch(), library)]
    assert max(map(len, texts)) <= 100
    assert texts[-10:] == [
        "A module that nobody imports by itself.",
        "Shapes in a pack.",
        "Join two or more pathname components.",
        "Flat shapes and what can be done with them.",
        "Return the area of a `rectangle` in square units.\n\nA second paragraph.",
        "Accept any number of shapes and forget them.",
        "Nobody should ask about this one at all.",
        "A round shape with a radius.  It has no corners.",
        "scale(factor) -> Circle\n\nMultiply the radius by a factor.",
        "Code like x = y | z is no sentence to answer with.",
    ]


def test_this_pythons_documentation() -> None:
    spec = IngestSpec(source="python_docs", max_document_chars=4000)
    rows = list(python_docs(spec, quiet_watch()))
    distinct = {digest_of(row): row for row in rows}
    assert 7_000 < len(distinct) < 12_000
    assert 1_800_000 < sum(map(text_bytes_of, distinct.values())) < 3_200_000
    assert rows[0]["text"].startswith('The "assert" statement')


@pytest.fixture(scope="module")
def questions_and_answers() -> list[Row]:
    return list(python_qa(quiet_watch()))


def test_this_pythons_questions(questions_and_answers: list[Row]) -> None:
    rows = [row["messages"] for row in questions_and_answers]
    assert 3_000 < len(rows) < 8_000
    for messages in rows:
        check_dialogue(messages)
        for answer in messages[1::2]:
            assert answer["content"][0].isupper()
            assert answer["content"][-1] in ".?!"
            assert len(answer["content"]) <= 165
    questions = [messages[0]["content"] for messages in rows]
    small_talk = [question for questions, _ in SMALL_TALK for question in questions]
    assert questions[: len(small_talk)] == small_talk
    about_join = [
        answer["content"]
        for messages in rows
        for question, answer in pairwise(messages)
        if "os.path.join" in question["content"] and question["role"] == "user"
    ]
    assert about_join == ["Join two or more pathname components, inserting '/' as needed."]


def test_small_talk_opens_every_sixth_dialogue(questions_and_answers: list[Row]) -> None:
    answers = {question: answer for questions, answer in SMALL_TALK for question in questions}
    rows = [row["messages"] for row in questions_and_answers][len(answers) :]
    opened = [messages for messages in rows if messages[0]["content"] in answers]
    assert 0.14 < len(opened) / len(rows) < 0.19
    for messages in opened:
        assert messages[1]["content"] == answers[messages[0]["content"]]
        assert len(messages) in (4, 6)
    assert {messages[0]["content"] for messages in opened} == set(answers)


def test_a_held_out_question_is_about_an_unseen_name(questions_and_answers: list[Row]) -> None:
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for row in questions_and_answers:
        question = " ".join(message["content"] for message in row["messages"][::2])
        name = next((word.strip("?.") for word in question.split() if "." in word[:-1]), None)
        if name:
            names[is_held_out(digest_of(row), 0.1)].add(name)
    assert len(names[True]) > 200
    assert names[True].isdisjoint(names[False])


def test_the_real_library_is_where_python_says() -> None:
    names = {module.name for module in library_modules(library_folder())}
    assert {"json", "os", "json.decoder", "asyncio.events"} <= names
    assert not [name for name in names if "test" in name.split(".")]
