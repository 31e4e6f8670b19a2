"""Which code a function of the user's own is known by."""

from pathlib import Path

import pytest

from flows.data import code
from flows.data.code import code_digest
from tintem_core.errors import InputError
from tintem_core.models.config import StudentConfig


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every digest as a process of its own would."""
    monkeypatch.setattr(code, "_imported", {})


def digest(folder: Path, name: str = "nets:make") -> str:
    code._imported.clear()
    return code_digest(StudentConfig(python=f"{folder}/{name}"))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_all_that_is_imported_from_the_folder_counts_and_nothing_else(tmp_path: Path) -> None:
    write(
        tmp_path,
        nets="import torch\nfrom parts import block\ndef make():\n    import late\n",
        parts="from layers import one\nimport yaml\n",
        layers="one = 1\n",
        late="x = 1\n",
        other="x = 1\n",
    )
    before = digest(tmp_path)
    write(tmp_path, other="x = 2\n")
    assert digest(tmp_path) == before
    for name in ("nets", "parts", "layers", "late"):
        file = tmp_path / f"{name}.py"
        was = file.read_text()
        file.write_text(was + "y = 3\n")
        assert digest(tmp_path) != before, name
        file.write_text(was)
    assert digest(tmp_path) == before


def test_a_package_counts_with_what_it_imports_of_itself(tmp_path: Path) -> None:
    write(tmp_path, pack____init__="", pack__nets="from . import tools\ndef make(): ...\n",
          pack__tools="x = 1\n", pack__unused="x = 1\n")  # fmt: skip
    (tmp_path / "pack" / "__init__.py").write_text("")
    before = digest(tmp_path, "pack.nets:make")
    write(tmp_path, pack__unused="x = 2\n")
    assert digest(tmp_path, "pack.nets:make") == before
    write(tmp_path, pack__tools="x = 2\n")
    assert digest(tmp_path, "pack.nets:make") != before


def test_the_place_of_the_folder_does_not_count(tmp_path: Path) -> None:
    places = [write(tmp_path / name, nets="import datasets\nx = 1\n") for name in ("a", "b")]
    # Photos in a folder that is called like a package.
    (tmp_path / "b" / "datasets").mkdir()
    assert digest(places[0]) == digest(places[1])


def test_an_installed_package_counts_as_far_as_its_own_modules_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write(tmp_path / "site", ours_nets="import theirs_nets\n", theirs_nets="x = 1\n")
    monkeypatch.syspath_prepend(str(site))
    before = digest(tmp_path, "ours_nets:make")
    write(site, theirs_nets="x = 2\n")
    assert digest(tmp_path, "ours_nets:make") == before
    write(site, ours_nets="import theirs_nets\nx = 2\n")
    assert digest(tmp_path, "ours_nets:make") != before


def test_code_that_changed_since_it_was_imported_is_refused(tmp_path: Path) -> None:
    write(tmp_path, nets="x = 1\n")
    config = StudentConfig(python=f"{tmp_path}/nets:make")
    assert code_digest(config) == code_digest(config)
    write(tmp_path, nets="x = 2\n")
    with pytest.raises(InputError, match="nets:make: its code has changed since"):
        code_digest(config)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "nets cannot be imported: No module named nets"),
        ({"nets": "def :\n"}, "invalid syntax"),
    ],
)
def test_a_module_that_is_none_is_one_sentence(
    tmp_path: Path, files: dict[str, str], told: str
) -> None:
    write(tmp_path, **files)
    with pytest.raises(InputError, match=told) as error:
        digest(tmp_path)
    assert "nets:make" in str(error.value)
    assert "\n" not in str(error.value)
