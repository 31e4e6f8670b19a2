"""A user's mistake: one sentence that says what, where and the cure; exit code 2; no traceback."""

import os
import re
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from storage.errors import StorageInputError
from tests.photos import photo
from tests.runs import write_config
from tintem_core.errors import InputError

Change = Callable[[dict[str, Any], Path], None]


def _set(*path_and_value: Any) -> Change:
    *path, last, value = path_and_value

    def change(settings: dict[str, Any], _: Path) -> None:
        for part in path:
            settings = settings[part]
        settings[last] = value

    return change


def _empty_folder(settings: dict[str, Any], folder: Path) -> None:
    (folder / "empty").mkdir()
    settings["data"]["uri"] = str(folder / "empty")


def _wrong_weights(settings: dict[str, Any], folder: Path) -> None:
    settings["teacher"]["model"] = "test_vit"


def _torn_weights(settings: dict[str, Any], folder: Path) -> None:
    path = folder / "torn.safetensors"
    path.write_bytes(Path(settings["teacher"]["weights"]).read_bytes()[:500])
    settings["teacher"]["weights"] = str(path)


def _all_unreadable(settings: dict[str, Any], folder: Path) -> None:
    for path in Path(settings["data"]["uri"]).rglob("*.png"):
        path.write_text("no photo")


def _ood(name: str, photos: str) -> Change:
    def change(settings: dict[str, Any], _: Path) -> None:
        settings["evaluation"]["ood"] = [{"name": name, "uri": photos or settings["data"]["uri"]}]

    return change


MISTAKES: dict[str, tuple[Change, str]] = {
    "unknown key": (_set("training", "epoch", 5), r"'training\.epoch' is not a setting.*epochs"),
    "nearly a key": (_set("training", "learning_rates", 1), r"did you mean 'learning_rate'\?"),
    "unknown section": (_set("trainings", {}), r"'trainings' is not a setting.*training"),
    "wrong value": (_set("training", "epochs", -1), r"'training\.epochs' is -1: .*greater"),
    "missing folder": (_set("data", "uri", "/no/such/folder"), r"/no/such/folder"),
    "empty folder": (_empty_folder, r"empty.*\.jpg"),
    "nothing readable": (_all_unreadable, r"photo-0000\.png"),
    "unknown student": (_set("student", "model", "resnet_18"),
        r"no model named 'resnet_18'.*resnet18"),
    "unknown teacher": (_set("teacher", "model", "dino"), r"no model named 'dino'"),
    "missing weights": (_set("teacher", "weights", "none.safetensors"),
        r"no file .*none\.safetensors"),
    "weights that do not fit": (_wrong_weights, r"teacher\.safetensors does not fit test_vit"),
    "torn weights": (_torn_weights, r"torn\.safetensors is not a readable weight file"),
    "too wide": (_set("mapping", "width", 5000), r"set mapping\.width to at most"),
    "no such optimiser": (_set("training", "optimizer", "adamx"), r"no optimiser 'adamx'"),
    "no such gpu": (_set("runtime", "device", "cuda:9"), r"sees 0 GPUs here"),
    "odd device": (_set("runtime", "device", "gpu"), r"'runtime\.device' is 'gpu'"),
    "odd augmentation": (_set("views", "recipe", {"name": "timm", "augment": "foo"}),
        r"'foo' is no"),
    "no list of sets": (_set("evaluation", "ood", 5), r"'evaluation\.ood' is 5"),
    "an ood set named test": (_ood("test", "x"), r"cannot be named 'train' or 'test'"),
    "a name used twice": (_ood("shapes", "x"), r"two datasets are named 'shapes'"),
    "nothing strange": (_ood("strange", ""), r"has 0 photos that are not in shapes"),
    "patches do not fit": (_set("student", {"model": "vit_tiny_patch16_224", "image_size": 65}),
                           r"choose a multiple of 16"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_sentence(
    mistake: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    change, message = MISTAKES[mistake]
    change(settings, tmp_path)
    with pytest.raises((InputError, StorageInputError), match=message) as caught:
        config = load_config(write_config(tmp_path, settings))
        preflight(config)
        assert Pipeline(config).trained
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b", "a: [", "a: b: c", "\x00"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=r"run\.yaml"):
        load_config(tmp_path / "run.yaml")


def test_several_mistakes_are_all_told_at_once(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["training"]["epoch"] = 1
    settings["views"]["count"] = 0
    settings["colour"] = "blue"
    with pytest.raises(InputError, match="found 3 errors"):
        load_config(write_config(tmp_path, settings))


def tintem(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_DATA_HOME": str(home)}
    return subprocess.run(
        [str(Path(sys.executable).parent / "tintem"), *arguments],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.yaml"), "tintem init"),
        (("status", "/no/such/root"), "/no/such/root"),
        (("init", "/no/such/folder"), "/no/such/folder"),
        (("frobnicate",), "frobnicate"),
        (("run",), "CONFIG.yaml"),
    ],
    ids=lambda a: a[0] if isinstance(a, tuple) else "",
)
def test_the_command_exits_with_2_and_no_traceback(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = tintem(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["run", "plan", "nightly"])
@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("data", "uri", r"data\.uri: there is no /no/such"),
        ("teacher", "weights", r"teacher\.weights: there is no file /no/such"),
    ],
)
def test_what_is_not_there_is_missed_before_torch_and_a_server_start(
    command: str,
    section: str,
    key: str,
    message: str,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from flows.cli import main

    def started(*_: object) -> None:
        pytest.fail("too late")

    settings[section][key] = "/no/such"
    monkeypatch.setattr("flows.orchestration.ephemeral.LocalServer", started)
    monkeypatch.setattr("flows.config.load.load_config", started)
    monkeypatch.setattr(sys, "argv", ["tintem", command, str(write_config(tmp_path, settings))])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_version_is_told() -> None:
    from importlib.metadata import version

    from typer.testing import CliRunner

    from flows.cli.commands import app

    said = CliRunner().invoke(app, ["--version"])
    assert said.output.strip() == f"tintem {version('tintem')}"


def test_reading_settings_needs_no_torch() -> None:
    code = "import sys, flows.config.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_photos_without_labels_are_refused_before_the_models_are_built(
    settings: dict[str, Any], tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    settings["data"]["uri"] = str(photo_folder(40, name="flat"))
    settings["training"]["objective"] = "supervised"
    settings["teacher"]["model"] = "no-such-model"
    with pytest.raises(InputError, match="40 of 40 photos of shapes have none"):
        preflight(load_config(write_config(tmp_path, settings)))


def test_photos_partly_without_labels_are_refused_before_the_extraction(
    settings: dict[str, Any], tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photo_folder(8, name="photos", first=60)
    settings["training"]["objective"] = "supervised"
    pipeline = Pipeline(load_config(write_config(tmp_path, settings)))
    with pytest.raises(InputError, match="photos of shapes have none"):
        _ = pipeline.extracted
    assert not pipeline.root.exists("caches")


def test_weights_that_cannot_be_fetched_are_refused_without_a_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tintem_core.models import pretrained

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(pretrained.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match=r"cannot be reached \(Name or service not known\)"):
        pretrained.require_reachable("resnet18")
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: "/cache/model.safetensors")
    pretrained.require_reachable("resnet18")


def test_init_writes_a_config_that_is_valid_and_never_overwrites(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos = photo_folder(2)
    target = tmp_path / "new" / "run.yaml"
    assert tintem("init", str(photos), "--config", str(target), home=tmp_path).returncode == 0
    assert load_config(target).data.uri == str(photos)
    again = tintem("init", str(photos), "--config", str(target), home=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_weight_file_with_a_training_state_around_it_is_unwrapped(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    from flows.stages.models import load_teacher

    plain = load_config(write_config(tmp_path, settings)).teacher
    tensors = load_file(plain.weights)
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "wrapped.pth")
    wrapped = plain.model_copy(update={"weights": str(tmp_path / "wrapped.pth")})
    assert load_teacher(wrapped, "cpu").digest == load_teacher(plain, "cpu").digest
    torch.save({"optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "other.pth")
    other = plain.model_copy(update={"weights": str(tmp_path / "other.pth")})
    with pytest.raises(InputError, match=r"other\.pth holds no plain table of tensors"):
        load_teacher(other, "cpu")


@pytest.mark.parametrize("name", ["2024", "yes", "photos [new] & 'more'", "a" * 60 + " b " * 20])
def test_init_finds_the_folder_again_whatever_its_name(name: str, tmp_path: Path) -> None:
    from flows.config.init import write_config as init

    (tmp_path / name).mkdir()
    photo(0).save(tmp_path / name / "one.png")
    init(tmp_path / name, tmp_path / "run.yaml")
    assert load_config(tmp_path / "run.yaml").data.uri == str(tmp_path / name)
