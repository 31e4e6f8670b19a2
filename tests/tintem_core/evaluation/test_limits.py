"""What limits a student, in words."""

import pytest

from tintem_core.evaluation.limits import Limits, loss_fall


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(0.8, 0.5, 0.2, 0.2), "the mapping limits it, which keeps the angles to 0.80"),
        (Limits(0.99, -0.1, -0.4, 0.2), "less than the same answer to every photo"),
        (Limits(0.99, 0.9, 0.6, 0.2), "the photos limit it"),
        (Limits(0.99, 0.7, 0.65, 0.2), "the epochs limit it"),
        (Limits(None, 0.7, 0.65, 0.0), "the student limits it"),
        (Limits(None, 0.7, 0.65, -0.2), "its loss fell by 0% in the last quarter"),
    ],
)
def test_the_first_that_holds_is_named_with_its_numbers(limits: Limits, said: str) -> None:
    assert said in limits.sentence()
    assert f"{limits.r2_train:.2f} of its target's variance" in limits.sentence()


def test_the_fall_is_that_of_the_last_quarter() -> None:
    assert loss_fall([8, 4, 3, 2, 2, 2, 2, 1]) == 0.5
    assert loss_fall([1, 1, 1]) == 0
    assert loss_fall([2.0, 1.0, 1.0, 2.0]) == -1
