"""What lies beside the caches is checked byte for byte; each kind is here, as small as it is."""

import json
from pathlib import Path

import pytest

from flows.data.progress import checkpoint_folder, checkpoint_suffix, save_progress
from flows.maintenance.status import collect, hints
from flows.maintenance.things import check_things
from storage.artifacts import write_artifact
from storage.images import SourceConfig, build_manifest
from storage.registry import promote
from storage.root import Root, open_root
from tests.flows.maintenance.command import Tintem
from tests.flows.maintenance.finished import DAMAGES
from tests.photos import photo
from tests.storage.test_registry import model

KINDS = ("mappings", "students", "evaluations", "exports", "nights", "sweeps")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = open_root(tmp_path / "root")
    for number in (0, 1):
        folder = tmp_path / f"photos-{number}"
        folder.mkdir()
        for i in range(number, number + 3):
            photo(i).save(folder / f"{i}.png")
        build_manifest(SourceConfig(name=f"set-{number}", uri=str(folder))).save(root)
        for kind in KINDS:
            record = {"metrics": {"loss": 0.5 + number}}
            write_artifact(root, kind, f"thing-{number}", {"file.bin": b"%d" % number * 9}, record)
        for line in ("line", "other"):
            promote(root, line, model(root, "ab"[number]), "better", number or None)
        data = b"weights %d" % number
        name = f"step-000000001{checkpoint_suffix(f'half-{number}', data)}"
        root.write(f"{checkpoint_folder(f'half-{number}')}/{name}", data)
        save_progress(root, f"half-{number}", 1 + number, 4)
    # Of the exports that the registry points to.
    for name in "ab":
        data = root.read(f"exports/{name}/student.onnx")
        write_artifact(root, "exports", name, {"student.onnx": data}, {})
    return root


def files(root: Root) -> list[str]:
    return [path for path in root.list() if not path.endswith("progress.json")]


def test_a_sound_root_is_sound(root: Root) -> None:
    checked = check_things(root)
    assert all(thing.sound for thing in checked)
    assert {thing.id.split("/")[0] for thing in checked} == {*KINDS, "manifests", "latest"}


@pytest.mark.parametrize("way", DAMAGES)
def test_every_damaged_file_is_named_and_no_command_fails(
    root: Root, way: str, tmp_path: Path
) -> None:
    for path in files(root):
        if way == "deleted" and "/checkpoints/" in path:
            continue
        data = root.read(path)
        another = next(
            root.read(other)
            for other in files(root)
            if Path(other).suffix == Path(path).suffix
            and [other.split("/")[0], other.count("/")] == [path.split("/")[0], path.count("/")]
            and root.read(other) != data
        )
        DAMAGES[way](tmp_path / "root" / path, another)
        problems = [each for thing in check_things(root) for each in thing.problems]
        name = path.rsplit("/", 1)[-1]
        assert any(name in f"{each.file} {each.reason}" for each in problems), (path, problems)
        listed = {
            f"{kind}/{thing['id']}": thing["metrics"]
            for kind, things in collect(root.url).items()
            for thing in things
            if thing["progress"] == 1 and kind != "latest"
        }
        thing = "/".join(path.split("/")[:2])
        is_one_of_many = thing.split("/")[0] in ("mappings", "students", "evaluations", "exports")
        if is_one_of_many and (name == "record.json" or way in ("truncated", "deleted")):
            assert thing not in listed, path
        root.write(path, data)
    assert all(thing.sound for thing in check_things(root))


def test_the_command_names_the_file_and_the_cure(root: Root, tintem: Tintem) -> None:
    code, printed, told = tintem("verify", root.url)
    assert (code, told) == (0, "")
    assert "18 of 18 other stored things are as they were recorded" in printed
    root.write("mappings/thing-0/file.bin", b"000000001")
    code, printed, told = tintem("verify", root.url)
    assert code == 1
    assert "17 of 18 other stored things are as they were recorded" in printed
    assert told == (
        "mappings/thing-0 is damaged: mappings/thing-0/file.bin: its digest differs. "
        "`tintem run CONFIG.yaml` makes it again.\n"
    )
    code, printed, _ = tintem("verify", root.url, "--json")
    damaged = [thing for thing in json.loads(printed) if not thing["sound"]]
    assert [thing["id"] for thing in damaged] == ["mappings/thing-0"]
    assert damaged[0]["problems"] == [
        {"file": "mappings/thing-0/file.bin", "reason": "its digest differs"}
    ]


def test_the_status_says_why_something_is_not_whole(root: Root) -> None:
    root.delete("mappings/thing-0/file.bin")
    root.write("evaluations/thing-1/record.json", b"{")
    root.write("students/half-0/progress.json", b"no JSON")
    root.delete("exports/b/student.onnx")
    root.write("caches/begun/README.md", b"killed before its record was there")
    things = collect(root.url)
    unfinished = [
        f"{kind}/{thing['id']}"
        for kind, found in things.items()
        for thing in found
        if thing["progress"] == 0
    ]
    assert unfinished == [
        "caches/begun", "mappings/thing-0", "students/half-0", "evaluations/thing-1", "exports/b",
        "latest/line", "latest/other",
    ]  # fmt: skip
    told = "\n".join(hints(things))
    for said in (
        "holds no caches/begun. Run `tintem extract`",
        "mappings/thing-0 is not whole: file.bin is missing",
        "evaluations/thing-1/record.json is not readable JSON",
        "the model in force as line is not whole: exports/b/student.onnx",
    ):
        assert said in told


def test_a_training_is_never_done_before_its_record_is_there(root: Root) -> None:
    save_progress(root, "half-1", 4, 4)
    (half,) = (thing for thing in collect(root.url)["students"] if thing["id"] == "half-1")
    assert half["progress"] < 1
