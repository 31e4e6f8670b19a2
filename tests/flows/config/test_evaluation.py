"""What may be asked for in the section that says what is measured."""

from typing import Any

import pytest

from tests.flows.stages.test_pipeline import configured
from tintem_core.errors import InputError


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (["site", "camera", "site"], "'site' is named twice"),
        (["uri"], "every photo has a uri of its own"),
        ([""], "at least 1 character"),
    ],
)
def test_groups_that_cannot_be_are_refused(
    settings: dict[str, Any], groups: list[str], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        configured(settings, evaluation__groups=groups)


def test_groups_change_no_other_measure(settings: dict[str, Any]) -> None:
    by_site = configured(settings, evaluation__groups=["site"]).evaluation
    assert by_site.identity() == configured(settings).evaluation.identity()
