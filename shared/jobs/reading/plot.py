"""A run's loss curves as one SVG that needs no script, no font and no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pygal
from pygal.etree import etree
from pygal.style import Style

from shared.contracts.views import MetricPoint, MetricsView

CURVES = (
    ("train", "loss", "training loss"),
    ("validation", "validation_loss", "validation loss"),
)
"""Series, value in it, name in the legend."""
STYLE = Style(
    background="#ffffff",
    plot_background="#ffffff",
    colors=("#2563eb", "#dc2626"),
    font_family="system-ui, sans-serif",
    title_font_size=18,
    label_font_size=12,
    major_label_font_size=12,
    legend_font_size=13,
)
LOADED_FROM_ELSEWHERE = frozenset({"script", "image", "foreignObject", "a"})


def render_loss_svg(curves: MetricsView, *, title: str) -> str:
    """Draw training and validation loss (nats a token) over steps; without points, empty axes."""
    chart = pygal.XY(
        style=STYLE,
        title=_printable(title),
        x_title="step",
        y_title="loss (nats a token)",
        width=900,
        height=480,
        show_dots=False,
        show_x_guides=False,
        legend_at_bottom=True,
        stroke_style={"width": 2},
        js=[],
        no_data_text="no points yet",
    )
    chart.uuid = "loss"  # the same curves give the same document
    for series, value, label in CURVES:
        points = list(_values(curves.series.get(series, []), value))
        if points:
            chart.add(label, points, show_dots=len(points) == 1)
    root = chart.render_tree()
    _remove_active_parts(root)
    return str(etree.tostring(root, encoding="unicode"))


def _values(points: Iterable[MetricPoint], value: str) -> Iterator[tuple[int, float]]:
    return ((point.step, point.values[value]) for point in points if value in point.values)


def _remove_active_parts(element: Any) -> None:
    """Drop pygal's script, its comments (which carry addresses) and whatever loads something."""
    for child in list(element):
        name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else None
        if name is None or name in LOADED_FROM_ELSEWHERE:
            element.remove(child)
        else:
            _remove_active_parts(child)


def _printable(text: str) -> str:
    """XML has no way to write most control characters."""
    return "".join(char for char in text if char.isprintable())
