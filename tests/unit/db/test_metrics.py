"""Thinning of curves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.db.repositories.metric_blocks import CurvePoint
from shared.db.repositories.metrics import extremes

losses = st.floats(-100, 100)


def test_each_interval_keeps_its_lowest_and_highest_point() -> None:
    values = [5.0, 1.0, 9.0, 4.0, 3.0, 3.0, 2.0, 8.0, 7.0, 6.0]
    points = [CurvePoint(100 + step, step, value) for step, value in enumerate(values)]
    assert extremes(points, 4) == {101, 102, 106, 107, 109}
    assert extremes(points, 1) == {101, 102, 109}


@given(st.lists(st.tuples(st.integers(0, 10**9), losses), min_size=1), st.integers(1, 50))
def test_the_extremes_of_the_whole_always_remain(
    drawn: list[tuple[int, float]], max_points: int
) -> None:
    ordered = sorted(drawn, key=lambda point: point[0])
    points = [CurvePoint(seq, step, loss) for seq, (step, loss) in enumerate(ordered)]
    kept = extremes(points, max_points)
    assert len(kept) <= max(2, max_points) + 1
    shown = [points[seq].loss for seq in kept]
    everything = [point.loss for point in points]
    assert (min(shown), max(shown)) == (min(everything), max(everything))
    assert points[-1].seq in kept
