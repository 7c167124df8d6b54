"""Wikitext to plain text: one pass over the markup with a stack, so the time is linear.

Knows what stands for prose and what does not; knows no dump, no template's meaning and no filter.
Templates, tables, references and pictures are left out with what they hold; of a link its label
stays. Broken markup (a brace too few) loses its signs and keeps its words.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

LEFT_OUT_TAGS = (
    "ref|math|chem|ce|gallery|timeline|score|hiero|imagemap|mapframe|maplink|graph|templatedata|"
    "syntaxhighlight|source|pre|table|references|categorytree|inputbox|noinclude"
)
"""Elements that are left out with what they hold."""
BARE_TAGS = (
    "br|hr|p|div|span|small|big|sub|sup|i|b|u|s|em|strong|strike|del|ins|tt|code|cite|q|kbd|var|"
    "li|ul|ol|dl|dt|dd|td|tr|th|tbody|caption|center|font|blockquote|abbr|bdi|bdo|wbr|nowiki|"
    "includeonly|onlyinclude|poem|section|h[1-6]|rp|rt|ruby|samp|mark|time|data|link|meta"
)
"""Elements that lose their tags only."""
MARKUP = re.compile(
    r"(?P<comment><!--.*?(?:-->|\Z))"
    r"|(?P<open>\{\{|\[\[|^[ \t:*#;]*\{\|)"
    r"|(?P<close>\}\}|\]\]|^[ \t]*\|\}(?!\}))"
    rf"|<(?P<slash>/?)(?:(?P<left_out>{LEFT_OUT_TAGS})|(?P<bare>{BARE_TAGS}))\b[^<>]*>",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
CLOSED_BY = {"}}": "{{", "]]": "[[", "|}": "{|"}
PICTURES = frozenset({"file", "image", "category", "media"})
INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*", re.ASCII)
EXTERNAL_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]+([^\[\]\n]*)\]")
EMPHASIS_AND_SWITCHES = re.compile(r"'{2,}|__[A-Z]{3,30}__")
REMAINS = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?ref\b", re.IGNORECASE)
"""What must never be left, whatever the page looks like."""
BROKEN_MARKS = re.compile(r"[\[\]{}<]")
"""Taken out of a page with remains, one by one: nothing can come together from what is left."""
EMPTY_BRACKETS = re.compile(r"[ \t]*\([\s,;:]*\)")
OPENED_BY_COMMA = re.compile(r"\((?:[ \t]*[,;])+[ \t]*")
SPACES = re.compile(r"[ \t\u00a0\u2000-\u200b\u202f]+")
SPACE_BEFORE = re.compile(r" ([,.;:!?)])(?=[\s\"']|$)", re.MULTILINE)
HEADING = re.compile(r"(={2,6})[ \t]*(.*?)[ \t]*\1")
LIST_MARKERS = "*#:;"


@dataclass(slots=True)
class _Frame:
    """An opened template, table, link or left-out element, and the text in it so far."""

    kind: str
    parts: list[str] = field(default_factory=list)


class _Stripper:
    """Follows opening and closing marks through one page."""

    def __init__(self) -> None:
        self._stack = [_Frame("")]
        self._opened: dict[str, int] = {}

    def text(self, wikitext: str) -> str:
        position = 0
        for match in MARKUP.finditer(wikitext):
            self._add(wikitext[position : match.start()])
            position = match.end()
            self._mark(match)
        self._add(wikitext[position:])
        self._give_up_above(0)
        return "".join(self._stack[0].parts)

    def _mark(self, match: re.Match[str]) -> None:
        if match["open"]:
            self._push(match["open"].lstrip(" \t:*#;"))
        elif match["close"]:
            self._close(CLOSED_BY[match["close"].lstrip()])
        elif match["left_out"] and not match[0].endswith("/>"):
            name = match["left_out"].lower()
            self._close(name) if match["slash"] else self._push(name)
        elif match["bare"] and match["bare"].lower() in ("br", "p", "li", "tr", "div"):
            self._add("\n")

    def _add(self, text: str) -> None:
        if text:
            self._stack[-1].parts.append(text)

    def _push(self, kind: str) -> None:
        self._stack.append(_Frame(kind))
        self._opened[kind] = self._opened.get(kind, 0) + 1

    def _close(self, kind: str) -> None:
        """End the innermost frame of this kind; those opened inside it and left open give up."""
        if not self._opened.get(kind):
            return
        index = len(self._stack) - 1
        while self._stack[index].kind != kind:
            index -= 1
        self._give_up_above(index)
        frame = self._pop()
        if kind == "[[":
            self._add(_label("".join(frame.parts)))

    def _give_up_above(self, index: int) -> None:
        """What was opened in the frame at `index` and never closed: its text belongs there."""
        unclosed: list[str] = []
        for frame in self._stack[index + 1 :]:
            unclosed += frame.parts
        while len(self._stack) > index + 1:
            self._pop()
        self._stack[index].parts += unclosed

    def _pop(self) -> _Frame:
        frame = self._stack.pop()
        self._opened[frame.kind] -= 1
        return frame


def _label(inside: str) -> str:
    """What a reader sees of `[[inside]]`."""
    target, *labels = inside.split("|")
    prefix, colon, rest = target.strip().partition(":")
    if colon and prefix:
        namespace = prefix.strip().lower()
        if namespace in PICTURES or (INTERWIKI.fullmatch(namespace) and not labels):
            return ""
    if not labels:
        return target.strip().removeprefix(":")
    if labels[-1].strip():
        return labels[-1]
    return (rest if colon else target).partition("(")[0].strip()


def plain_text(wikitext: str) -> str:
    """Return the prose of a page: paragraphs, headings and list items on lines of their own.

    A list item begins with `* `. Headings with nothing below them are left out.
    """
    text = _Stripper().text(wikitext)
    text = html.unescape(EXTERNAL_LINK.sub(lambda match: match[1].strip(), text))
    text = EMPHASIS_AND_SWITCHES.sub("", text)
    if REMAINS.search(text):
        text = BROKEN_MARKS.sub("", text)
    text = SPACES.sub(" ", text)
    text = OPENED_BY_COMMA.sub("(", EMPTY_BRACKETS.sub("", text))
    text = SPACE_BEFORE.sub(r"\1", text)
    return "\n".join(reversed(_lines(text))).strip()


def _lines(text: str) -> list[str]:
    """The lines of the result, last first: whether a heading stays depends on what follows."""
    kept: list[str] = []
    below_is_text = False
    for line in reversed(text.split("\n")):
        stripped = line.strip()
        heading = HEADING.fullmatch(stripped)
        if heading:
            if below_is_text and heading[2]:
                kept.append(heading[2])
            below_is_text = False
        elif not stripped:
            if kept and kept[-1]:
                kept.append("")
        elif item := stripped.lstrip(LIST_MARKERS + " "):
            kept.append(f"* {item}" if stripped[0] in "*#" else item)
            below_is_text = True
    return kept
