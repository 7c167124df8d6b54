"""Short question-and-answer dialogues made from the standard library's docstrings.

Each public name is asked about in one dialogue only, so that a held-out dialogue asks about a
name that training has not seen. Which questions are asked follows from the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from services.tokenizer.python_library import library_folder, library_modules
from services.tokenizer.python_symbols import Kind, Symbol, compiled_symbols, symbols_of
from services.tokenizer.rows import Row
from services.tokenizer.watch import Watch
from shared.text.chat import Message

QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "module": (
        "What is the {name} module?",
        "What is the {name} module for?",
        "What does the module {name} do?",
        "Tell me about the {name} module.",
    ),
    "class": (
        "What is {name}?",
        "What is {name} for?",
        "What is the class {name}?",
        "Tell me about {name}.",
        "Can you explain {name}?",
    ),
    "function": (
        "What does {name} do?",
        "What does {name} do?",
        "What does the function {name} do?",
        "What is {name} for?",
        "Explain {name}.",
        "Can you explain {name}?",
    ),
    "method": (
        "What does {name} do?",
        "What does {name} do?",
        "What does the method {name} do?",
        "What is {name} for?",
        "Explain {name}.",
    ),
}
FOLLOW_UPS = (
    "What arguments does it take?",
    "Which arguments does it take?",
    "What do I pass to it?",
)
ARGUMENT_QUESTIONS = (
    "What arguments does {name} take?",
    "Which arguments does {name} take?",
    "What do I pass to {name}?",
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
MAX_LISTED = 6
SMALL_TALK_EVERY = 6
"""Every so many dialogues about the library begin with small talk."""

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "Good morning!", "Good evening!"),
        "Hello! Ask me about Python's standard library.",
    ),
    (
        ("How are you?", "How are you doing?", "How do you do?", "Are you well?"),
        "I am well, thank you. What would you like to know?",
    ),
    (
        ("What is your name?", "What's your name?", "Who are you?", "Tell me your name."),
        "My name is Ryan-GPT.",
    ),
    (
        ("What can you do?", "What do you know?", "Can you help me?", "Help me.", "Help!"),
        "I can tell you what the parts of Python's standard library do.",
    ),
    (
        ("Thank you.", "Thank you!", "Thanks", "Thanks!", "Thanks a lot!", "Great, thank you."),
        "You are welcome.",
    ),
    (
        ("Goodbye", "Goodbye!", "Bye", "Bye!", "See you later."),
        "Goodbye!",
    ),
)


def python_qa(watch: Watch, folder: Path | None = None) -> Iterator[Row]:
    """Yield small talk, then one dialogue about each public name of the library.

    `folder` is where the library lies, by default this Python's.
    """
    for questions, answer in SMALL_TALK:
        for question in questions:
            yield {"messages": _exchange(question, answer)}
    for symbol in compiled_symbols():
        yield {"messages": small_talk_before(symbol) + dialogue_about(symbol)}
    modules = library_modules(folder or library_folder())
    for position, module in enumerate(modules, start=1):
        watch.step(position, len(modules), f"module {module.name}")
        tree = module.parse()
        if tree is not None:
            for symbol in symbols_of(module, tree):
                yield {"messages": small_talk_before(symbol) + dialogue_about(symbol)}


def dialogue_about(symbol: Symbol) -> list[Message]:
    """Return a question about `symbol` with its answer, and for some a second pair.

    A name without known arguments is asked about only once; of the others every fifth is asked
    for its arguments alone, and every third for its purpose and then its arguments.
    """
    choice = int.from_bytes(hashlib.blake2b(symbol.name.encode(), digest_size=6).digest())
    arguments = arguments_sentence(symbol)
    templates = QUESTIONS[symbol.kind]
    question = templates[choice % len(templates)].format(name=symbol.name)
    choice //= len(templates)
    if arguments and choice % 5 == 0:
        question = ARGUMENT_QUESTIONS[choice // 5 % len(ARGUMENT_QUESTIONS)]
        return _exchange(question.format(name=symbol.name), arguments)
    dialogue = _exchange(question, symbol.summary)
    if arguments and choice % 3 == 0:
        dialogue += _exchange(FOLLOW_UPS[choice // 3 % len(FOLLOW_UPS)], arguments)
    return dialogue


def small_talk_before(symbol: Symbol) -> list[Message]:
    """Return small talk for every sixth name, else nothing.

    Once each, the greetings would be a handful among thousands, and a small model would learn none.
    """
    digest = hashlib.blake2b(symbol.name.encode(), digest_size=6, person=b"small talk").digest()
    choice, rest = divmod(int.from_bytes(digest), SMALL_TALK_EVERY)
    if rest:
        return []
    pairs = [(question, answer) for questions, answer in SMALL_TALK for question in questions]
    return _exchange(*pairs[choice % len(pairs)])


def arguments_sentence(symbol: Symbol) -> str | None:
    """Say in one sentence what a function takes; None where that is unknown or a long list."""
    if symbol.required is None or len(symbol.required + symbol.optional) > MAX_LISTED:
        return None
    required, optional = len(symbol.required), len(symbol.optional)
    if not required and not optional:
        return "It takes no arguments."
    if not required:
        return f"It takes {_counted(optional, 'optional argument')}, {_listed(symbol.optional)}."
    sentence = f"It takes {_counted(required, 'argument')}, {_listed(symbol.required)}"
    return f"{sentence}, and optionally {_listed(symbol.optional)}." if optional else f"{sentence}."


def _counted(number: int, what: str) -> str:
    return f"{NUMBERS[number]} {what}{'' if number == 1 else 's'}"


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
