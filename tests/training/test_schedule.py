"""How fast a stage learns: warm-up, and two ways down."""

from __future__ import annotations

import pytest

from medsr.training.schedule import learning_rate
from medsr.training.setup import Stage

PEAK = 8e-4
LATE = 10**5  # steps, long after the warm-up
SCHEDULES = ("cosine", "constant-then-decay")


def stage(schedule: str) -> Stage:
    return Stage(part="mean", minutes=1, learning_rate=PEAK, schedule=schedule)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_warms_up_and_ends_at_a_hundredth(schedule):
    rate = stage(schedule)
    assert learning_rate(rate, 0.0, 0) == pytest.approx(PEAK / 200)
    assert learning_rate(rate, 0.0, 199) == pytest.approx(PEAK)
    assert learning_rate(rate, 1.0, LATE) == learning_rate(rate, 3.0, LATE) == pytest.approx(PEAK / 100)


def test_a_cosine_is_half_way_down_in_the_middle():
    assert learning_rate(stage("cosine"), 0.5, LATE) == pytest.approx(PEAK * (0.01 + 0.99 / 2))


def test_constant_until_the_last_fifth_and_then_a_straight_line():
    rate = stage("constant-then-decay")
    assert [learning_rate(rate, share, LATE) for share in (0.1, 0.8)] == pytest.approx([PEAK, PEAK])
    assert learning_rate(rate, 0.9, LATE) == pytest.approx(PEAK * (0.01 + 0.99 / 2))
