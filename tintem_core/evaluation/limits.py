"""What keeps a student from more: its mapping, its photos, its epochs, or its size."""

from collections.abc import Sequence
from dataclasses import dataclass

# What counts as much, in shares of variance, of a correlation and of a loss.
_ANGLES_KEPT, _GAP, _FALL = 0.95, 0.1, 0.03


@dataclass(frozen=True)
class Limits:
    """The numbers that tell.

    angles: Pearson of the pairwise cosines, mapped teacher against teacher; None where there is no
        mapping. r2_train, r2_test: share of the target's variance that the student explains, on
        the photos it learned from and on unseen ones, evaluation view. fall: by which share the
        training loss fell in the last quarter of the epochs.
    """

    angles: float | None
    r2_train: float
    r2_test: float
    fall: float

    def sentence(self) -> str:
        """Say what limits the student most, the numbers first."""
        said = (
            f"the student explains {self.r2_train:.2f} of its target's variance on the photos it "
            f"learned from and {self.r2_test:.2f} on unseen ones; its loss fell by "
            f"{max(0.0, self.fall):.0%} in the last quarter of the epochs"
        )
        return f"{said}: {self._conclusion()}"

    def _conclusion(self) -> str:
        if self.angles is not None and self.angles < _ANGLES_KEPT:
            return (
                f"the mapping limits it, which keeps the angles to {self.angles:.2f} only: a "
                "larger mapping.width helps"
            )
        if self.r2_train <= 0:
            return (
                "it has learned less than the same answer to every photo would explain: train it "
                "for more epochs, or with another training.learning_rate"
            )
        if self.r2_train - self.r2_test > _GAP:
            return "the photos limit it: more of them help, or more views of each"
        if self.fall > _FALL:
            return "the epochs limit it: more of them help"
        return "the student limits it: a larger one, or larger images, help"


def loss_fall(losses: Sequence[float]) -> float:
    """By which share the loss fell in the last quarter of the epochs; 0 of fewer than 4 epochs."""
    if len(losses) < 4:
        return 0.0
    before = losses[len(losses) - 1 - len(losses) // 4]
    return 1 - losses[-1] / before if before > 0 else 0.0
