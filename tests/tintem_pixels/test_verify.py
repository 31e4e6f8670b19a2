import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from storage.records import seal
from tests.photos import photo
from tintem_core.export.formats import Subject, export_format
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student
from tintem_pixels import centre_crop, verify

SIZE = 32


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with the files that a device looks at."""
    folder = tmp_path_factory.mktemp("student")
    student = build_student(StudentConfig(model="test_resnet", image_size=SIZE), 16, seed=0).eval()
    subject = Subject(student, SIZE)
    images = np.stack([centre_crop(photo(i), SIZE) for i in range(4)])
    files: dict[str, bytes] = {}
    formats: dict[str, Any] = {}
    for name in ("onnx", "uint8", "web"):
        form = export_format(name)
        files |= form.files(subject)
        formats[name] = {"file": form.file, "minimum_cosine": 0.9999}
    embeddings = export_format("onnx").open(files)(images)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    np.savez(folder / verify.VECTORS, images=images, embeddings=embeddings)
    shutil.copy(verify.__file__, folder / "verify.py")
    write_record(folder, formats, student.backbone.normalisation)
    return folder


def write_record(folder: Path, formats: Any, normalisation: Any) -> None:
    """Record every file's digest, as a store does it."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != verify.RECORD]
    files = {
        str(path.relative_to(folder)): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in paths
    }
    content = {"formats": formats, "normalisation": normalisation, "files": files}
    (folder / verify.RECORD).write_text(json.dumps(content))


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "student"))


def record_again(folder: Path) -> None:
    told = json.loads((folder / verify.RECORD).read_text())
    write_record(folder, told["formats"], told["normalisation"])


def test_the_file_in_the_folder_checks_it_without_anything_of_ours(folder: Path) -> None:
    blocked = "".join(
        f"sys.modules['{name}'] = None; "
        for name in ("torch", "timm", "tintem_core", "tintem_pixels", "storage", "flows", "onnx")
    )
    code = f"import sys, runpy; {blocked}runpy.run_path('verify.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("CPUExecutionProvider, 4 photos, smallest cosine 1.000000") == 3
    (folder / "onnx" / "model.onnx").unlink()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "onnx/model.onnx is missing\n"


def flip_a_byte(folder: Path) -> None:
    path = folder / "student_uint8.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_weights(folder: Path) -> None:
    """Publish other weights, with digests that fit them."""
    path = folder / "student_uint8.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = np.flip(numpy_helper.to_array(tensor)).tobytes()
    onnx.save(model, path)
    record_again(folder)


def tear(folder: Path) -> None:
    path = folder / "student_uint8.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    record_again(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_byte, "student_uint8.onnx is not the file that was published"),
        (change_weights, r"student_uint8.onnx: CPUExecutionProvider, 4 photos, smallest cosine"),
        (tear, "student_uint8.onnx cannot be run here"),
    ],
)
def test_what_was_changed_is_named(folder: Path, change: Callable[[Path], None], said: str) -> None:
    change(folder)
    (problem,) = verify.check(folder).problems
    assert problem.startswith(said)


def test_a_folder_without_an_export_is_no_verdict(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(verify.NoExportError, match=r"holds no record\.json"):
        verify.check(tmp_path / "nowhere")
    (folder / verify.VECTORS).unlink()
    record_again(folder)
    with pytest.raises(verify.NoExportError, match="a release that wrote none"):
        verify.check(folder)
    (folder / verify.RECORD).write_text("{")
    with pytest.raises(verify.NoExportError, match="is damaged"):
        verify.check(folder)


def test_a_record_that_is_not_as_it_was_written_is_no_record(folder: Path) -> None:
    path = folder / verify.RECORD
    content = json.loads(path.read_text())
    path.write_bytes(seal(content))
    assert verify.check(folder).problems == []
    for old, new in ((b"0.9999", b"0.1999"), (b'"check"', b'"chick"'), (b"{", b"[")):
        path.write_bytes(seal(content).replace(old, new))
        with pytest.raises(
            verify.NoExportError, match=r"record\.json is damaged: fetch the folder"
        ):
            verify.check(folder)
    path.write_text("[]")
    with pytest.raises(verify.NoExportError, match=r"record\.json is damaged"):
        verify.check(folder)
