"""What docs/serving.md shows is run."""

import re
import shlex
from pathlib import Path

import httpx
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
    # What curl sends for this line, wherever curl is not installed too.
    _, option, form, address = shlex.split(command)
    name, at, file = form.partition("=@")
    assert (option, at) == ("--form", "=@")
    told = httpx.post(address, files={name: Path(file).read_bytes()}, trust_env=False).json()
    assert len(told["data"][0]["embedding"]) == WIDTH


def test_the_limits_of_the_page_are_the_defaults() -> None:
    (table,) = re.findall(r"\| limit \|.*?\n\n", PAGE, re.DOTALL)
    shown = [int(row) for row in re.findall(r"\| (\d+) \|", table)]
    limits = Limits()
    assert shown == [limits.megabytes, limits.images, limits.pixels // 10**6, limits.waiting]
