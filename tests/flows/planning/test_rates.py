"""Rates are those of the batch that the run itself has at once."""

from collections.abc import Callable

import pytest

from flows.planning import rates


class Device:
    """Takes so long for a call, and so long for each view of it; its clock is the only one."""

    def __init__(self, call: float, view: float, first: float = 0.0) -> None:
        self.now, self._call, self._view, self._first = 0.0, call, view, first
        self._sizes: set[int] = set()

    def work(self, count: int) -> None:
        if count not in self._sizes:
            self._sizes.add(count)
            self.now += self._first
        self.now += self._call + self._view * count


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Device, int], rates.Rate]:
    def measure(device: Device, most: int) -> rates.Rate:
        monkeypatch.setattr(rates.time, "perf_counter", lambda: device.now)
        return rates.rate(device.work, most, seconds=1.0)

    return measure


@pytest.mark.parametrize("most", [1, 64, 512])
def test_the_cost_of_a_call_is_not_taken_for_the_cost_of_an_image(
    most: int, timed: Callable[[Device, int], rates.Rate]
) -> None:
    found = timed(Device(call=0.010, view=0.000_05), most)
    assert found.at_once == most
    assert found.value == pytest.approx(most / (0.010 + 0.000_05 * most))


def test_what_a_batch_of_a_size_costs_the_first_time_is_no_part_of_the_rate(
    timed: Callable[[Device, int], rates.Rate],
) -> None:
    found = timed(Device(call=0.010, view=0.000_05, first=5.0), 512)
    assert found.value == pytest.approx(512 / (0.010 + 0.000_05 * 512))


def test_a_batch_that_takes_longer_than_there_is_time_is_not_waited_for(
    timed: Callable[[Device, int], rates.Rate],
) -> None:
    device = Device(call=0.0, view=0.2)
    found = timed(device, 1024)
    assert found.value == pytest.approx(5.0)
    assert found.at_once == 4
    assert device.now < 6


def test_calls_that_differ_give_the_rate_an_error_bar(
    timed: Callable[[Device, int], rates.Rate], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(call=0.010, view=0.001)

    def uneven(count: int) -> None:
        device.now += 0.010 if int(device.now * 1000) % 2 else 0.0
        device.now += 0.001 + 0.010 * count

    monkeypatch.setattr(device, "work", uneven)
    found = timed(device, 8)
    assert found.low < found.value < found.high
