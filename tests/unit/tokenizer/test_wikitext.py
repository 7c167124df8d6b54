"""Wikitext to prose: what stays, what goes, and that broken pages cost no more time than others."""

from __future__ import annotations

import time

import pytest

from services.tokenizer.wikitext import plain_text


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("[[Paris]] is in [[France|the country]].", "Paris is in the country."),
        ("A [[Mercury (planet)|]] b", "A Mercury b"),
        ("See [[:Category:Cats]]", "See Category:Cats"),
        ("One[[Category:Cats]][[fr:Chat]] two", "One two"),
        ("a [[File:Cat.jpg|thumb|A [[cat]] with {{a|[[b]]}}]] b", "a b"),
        ("x {{infobox\n| a = {{nested|1}}\n| b = 2\n}} y", "x y"),
        ("Before\n{| class=x\n|-\n| cell {{t}}\n{|\n| inner\n|}\n|}\nAfter", "Before\n\nAfter"),
        ("{{box\n|a=1\n|}} text", "text"),
        ('Fact.<ref name="a">{{cite}}</ref><ref name="a" /> More.', "Fact. More."),
        ("a<!-- hidden [[ {{ -->b", "ab"),
        ("E <math>x < y</math> is", "E is"),
        ("H<sub>2</sub>O<br/>line", "H2O\nline"),
        ("[https://a.test/x a label] and [https://a.test]", "a label and"),
        ("&quot;5&nbsp;km&quot; &ndash; far", '"5 km" – far'),
        ("Born ({{lang|fr}}; 1900) ({{x}})", "Born (1900)"),
        ("== Empty ==\n== Full ==\ntext\n=== Last ===", "Full\ntext"),
        ("* one\n** two\n# three\n: four", "* one\n* two\n* three\nfour"),
        ("__NOTOC__\na\n\n\n\n\nb", "a\n\nb"),
        ("a < b and c > d", "a < b and c > d"),
    ],
)
def test_prose_stays_and_markup_goes(wikitext: str, prose: str) -> None:
    assert plain_text(wikitext) == prose


@pytest.mark.parametrize(
    "broken",
    [
        "text {{never closed | a",
        "text [[never closed | a",
        "text <ref>never closed a",
        "text {| never closed a",
        "text }} ]] |} a",
        "text {{{{{{ b }}} a",
        "text &lt;ref&gt; &#123;&#123; a",
        "text [''[ {''{ |''} <''ref> <<ref a",
        "text [[a|{{b]]}} a",
    ],
)
def test_a_broken_page_keeps_its_words_and_loses_its_signs(broken: str) -> None:
    prose = plain_text(broken)
    assert prose.startswith("text")
    assert prose.endswith("a")
    assert not any(mark in prose for mark in ("{{", "}}", "[[", "]]", "{|", "|}", "<ref"))


@pytest.mark.parametrize(
    "unit",
    ["[[a", "{{a", "\n{|a", "<ref>", "<!--", "[//", "''[", "(", "= ", "<div ", "[[a]]"],
)
def test_time_grows_with_the_page_and_not_with_its_square(unit: str) -> None:
    def cost(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            plain_text(unit * count)
            best = min(best, time.process_time() - started)
        return best

    # Sixteen times the text: a square would cost 256 times as much.
    assert cost(64_000) < 80 * max(cost(4_000), 1e-3)
