"""What docs/serving.md shows is run."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.serving.limits import Limits
from tests.exports import WIDTH, write_export
from tests.flows.serving.conftest import Start
from tests.photos import encoded, photo

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_requests_of_the_page_are_answered(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = start(str(write_export(tmp_path / "root", has_score=True)))
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(photo(0), "JPEG"))
    shown = PAGE.replace("http://127.0.0.1:8000", running.url)
    (code,) = re.findall(r"```python\n(.*?)```", shown, re.DOTALL)
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert re.fullmatch(r"small \[.*\] 0\.\d+\n", capsys.readouterr().out)
    (command,) = re.findall(r"^curl .*$", shown, re.MULTILINE)
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    told = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
    assert told.count(",") > WIDTH
    assert told.startswith('{"object":"list"')


def test_the_limits_of_the_page_are_the_defaults() -> None:
    (table,) = re.findall(r"\| limit \|.*?\n\n", PAGE, re.DOTALL)
    shown = [int(row) for row in re.findall(r"\| (\d+) \|", table)]
    limits = Limits()
    assert shown == [limits.megabytes, limits.images, limits.pixels // 10**6, limits.waiting]
