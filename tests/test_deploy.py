import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.conftest import photo
from tintem_core.export import run_onnx, session, to_onnx
from tintem_core.students import StudentConfig, build_student
from tintem_core.views import EVAL, render_view

SCRIPT = Path(__file__).parent.parent / "deploy" / "embed_photos.py"


def test_the_device_script_sees_what_the_evaluation_saw_and_needs_no_torch(tmp_path: Path) -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    model = to_onnx(student, 64, {"tintem.image_size": "64"})
    (tmp_path / "student.onnx").write_bytes(model)
    images = [photo(seed, (90, 70)) for seed in range(3)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    blocked = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    done = subprocess.run(
        [
            sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0], run_name='__main__')",
            str(SCRIPT), str(tmp_path / "student.onnx"), str(tmp_path), "--out",
            str(tmp_path / "out.npz"),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    found = np.load(tmp_path / "out.npz")["embeddings"]
    pixels = np.stack([render_view(image, "k", 0, EVAL, 64, 64) for image in images])
    np.testing.assert_allclose(found, run_onnx(session(model), pixels), rtol=1e-3, atol=1e-4)
