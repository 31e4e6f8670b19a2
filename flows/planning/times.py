"""How long the stages of a run take, from rates that were measured. All times in seconds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.config.run import RunConfig
from flows.planning.rates import Rate
from flows.stages.cache_requests import taught_views


@dataclass(frozen=True)
class Seconds:
    """A time, and between which it lies as far as the timed calls differ among each other."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.value + other.value, self.low + other.low, self.high + other.high)


NOTHING = Seconds(0.0, 0.0, 0.0)


def exactly(seconds: float) -> Seconds:
    return Seconds(seconds, seconds, seconds)


def lasting(units: float, rate: Rate | None) -> Seconds:
    """How long so many units take; nothing at a rate that is not known."""
    if rate is None or not units:
        return NOTHING
    return Seconds(units / rate.value, units / rate.high, units / rate.low)


def slowest(steps: Mapping[str, Seconds]) -> tuple[str, Seconds]:
    """Return the step that decides how long steps take that overlap, and its time."""
    name = max(steps, key=lambda step: steps[step].value)
    return name, steps[name]


def extraction(
    teacher: Seconds, decoding: Seconds, writing: Seconds, device: str
) -> tuple[str, Seconds]:
    """Return what limits an extraction, and how long it takes.

    Teacher, decoding and writing overlap; on a CPU the first two share its cores.
    """
    limit, longest = slowest({"the teacher": teacher, "decoding": decoding, "writing": writing})
    if device == "cpu" and limit != "writing":
        longest = teacher + decoding
    return limit, longest


def rendered_photos(
    config: RunConfig, photos: Mapping[str, int], steps: int, batch: int
) -> dict[str, int]:
    """Count how often a training opens a photo to render views of it, by data set.

    Args:
        photos: that students learn from, by data set.
        steps: of the training.
        batch: images per step.
    """
    memory, size = config.runtime.memory_gb * 1e9, config.student.image_size
    kept, streamed = Counter[str](), Counter[str]()
    for number, (source, _) in enumerate(taught_views(config)):
        views = 1 if number else config.training.views or config.views.count
        taken = photos[source.name] * views * size * size * 3
        if taken <= memory:
            memory -= taken
            kept[source.name] += photos[source.name]
        else:
            streamed[source.name] += photos[source.name]
    shown = steps * batch
    # Sets are seen about as often as they have photos; what is kept is opened once.
    once = min(1.0, shown / max(1, kept.total()))
    often = shown / max(1, kept.total() + streamed.total())
    return {name: round(once * kept[name] + often * streamed[name]) for name in (kept + streamed)}


def training(stepping: Seconds, rendering: Seconds, device: str) -> Seconds:
    """How long a training takes: on a GPU, views are rendered while it computes."""
    if device == "cpu":
        return stepping + rendering
    return slowest({"steps": stepping, "views": rendering})[1]


def together(stages: Sequence[Seconds]) -> Seconds:
    return sum(stages, start=NOTHING)
