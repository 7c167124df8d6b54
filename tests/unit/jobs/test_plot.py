"""The plot is self-contained: nothing to run, nothing to load, the same every time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from shared.base.clock import utc_now
from shared.contracts.views import MetricPoint, MetricsView
from shared.jobs.reading.plot import render_loss_svg

SVG = "{http://www.w3.org/2000/svg}"
NOW = utc_now()


def curves(**series: list[tuple[int, dict[str, float]]]) -> MetricsView:
    points = {
        name: [
            MetricPoint(step=step, attempt=1, tokens=step, at=NOW, values=values)
            for step, values in entries
        ]
        for name, entries in series.items()
    }
    return MetricsView(job_id="job_1", series=points)


BOTH = curves(
    train=[(step, {"loss": 10 / step}) for step in range(1, 50)],
    validation=[(step, {"validation_loss": 11 / step}) for step in range(10, 50, 10)],
)


def test_both_curves_are_drawn() -> None:
    root = ElementTree.fromstring(render_loss_svg(BOTH, title="run"))
    legend = [text.text for text in root.iter(f"{SVG}text")]
    assert {"training loss", "validation loss", "step", "loss (nats a token)", "run"} <= set(legend)
    lines = [path for path in root.iter(f"{SVG}path") if "line" in path.get("class", "")]
    assert len([path for path in lines if "reactive" in path.get("class", "")]) == 2


@pytest.mark.parametrize("title", ["run", "<script>alert(1)</script>", "a\x00b\x1b", "&amp; ü 日"])
def test_nothing_in_it_runs_or_loads(title: str) -> None:
    svg = render_loss_svg(BOTH, title=title)
    root = ElementTree.fromstring(svg)
    assert {element.tag for element in root.iter()}.isdisjoint({f"{SVG}script", f"{SVG}image"})
    attributes = [name for element in root.iter() for name in element.attrib]
    assert [name for name in attributes if name.startswith("on") or "href" in name] == []
    assert set(re.findall(r"https?://[^\s\"<]*", svg)) == {"http://www.w3.org/2000/svg"}
    assert "<?xml-stylesheet" not in svg
    assert "<!--" not in svg
    assert "url(" not in svg


def test_the_same_curves_give_the_same_document() -> None:
    assert render_loss_svg(BOTH, title="run") == render_loss_svg(BOTH, title="run")


def test_no_points_and_one_point_are_drawn_too() -> None:
    assert "no points yet" in render_loss_svg(curves(), title="run")
    one = ElementTree.fromstring(render_loss_svg(curves(train=[(1, {"loss": 2.0})]), title="run"))
    assert len(list(one.iter(f"{SVG}circle"))) == 1
