"""Configs that were made to do harm: each is refused at once, in one sentence."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main
from flows.config.load import load_config
from flows.config.settings import refuse_missing
from storage.errors import StorageInputError
from tintem_core.errors import InputError


def bomb(levels: int) -> str:
    """Nine aliases of nine aliases of nine aliases: a few lines that stand for 9^levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


CONFIGS = {
    "aliases that stand for a billion values": f"{bomb(9)}\ntraining: {{optimizer_options: *a8}}",
    "a value that contains itself": "data: &a {uri: *a}",
    "lists of lists of lists": "data: " + "[" * 20_000,
    "tables of tables of tables": "data: " + "{a: " * 20_000,
    "a number of thousands of digits": "root: " + "9" * 10_000,
    "code": "root: !!python/object/apply:os.system ['touch MARKER']",
    "an object": "root: !!python/object/new:subprocess.Popen [['touch', 'MARKER']]",
    "bytes": "\0\1\2",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("read", [load_config, refuse_missing])
def test_a_hostile_config_is_refused_and_runs_nothing(
    name: str,
    read: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(CONFIGS[name])
    with pytest.raises(
        (InputError, StorageInputError), match=r"run\.yaml cannot be read as YAML"
    ) as e:
        read(path)
    assert "\n" not in str(e.value)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "endless", "huge"])
def test_what_is_no_file_of_settings_is_refused_without_reading_it(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as stream:
            stream.truncate(2**40)
    monkeypatch.setattr("sys.argv", ["tintem", "run", str(path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert "cannot be read as YAML: it " in said
    assert said.count("\n") == 1


def test_aliases_as_people_use_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    with pytest.raises(InputError, match=r"'a' is not a setting.*'b' is not a setting"):
        load_config(path)
