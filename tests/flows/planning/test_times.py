"""Times of stages add up where they share a machine's cores, and overlap where they do not."""

import pytest

from flows.planning.rates import Rate
from flows.planning.times import Seconds, exactly, extraction, lasting, slowest, training


def test_the_slowest_of_overlapping_steps_decides() -> None:
    steps = {"a": exactly(1.0), "b": exactly(3.0), "c": exactly(2.0)}
    assert slowest(steps) == ("b", exactly(3.0))


def test_a_time_has_the_error_bar_of_its_rate() -> None:
    assert lasting(100, Rate(10, 5, 20, 1)) == Seconds(10.0, 5.0, 20.0)


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 5.0), ("cuda", 3.0)])
def test_decoding_takes_cores_from_a_teacher_on_the_cpu_alone(device: str, seconds: float) -> None:
    parts = exactly(3.0), exactly(2.0)
    assert extraction(*parts, exactly(1.0), device) == ("the teacher", exactly(seconds))
    assert training(*parts, device) == exactly(seconds)
