"""What a config allows ends with an export; other seeds: `python -m tests.system.drawn_runs`."""

from pathlib import Path

import pytest

from tests.system.drawn_runs import run_drawn


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_with_drawn_settings_end_with_an_export(tmp_path: Path) -> None:
    assert run_drawn(tmp_path, 20261130, 20, print) == []
