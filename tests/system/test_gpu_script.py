"""The script of every check that needs a GPU runs from end to end, with tiny models on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_part_says_what_it_found(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [SCRIPT, str(tmp_path), "--tiny"], env=environment, capture_output=True, text=True
    )
    parts = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert done.returncode == 0, parts
    found = {p["part"]: json.loads((tmp_path / f"{p['part']}.json").read_text()) for p in parts}
    assert len(found) == 8
    assert min(found["embeddings"]["smallest_cosine_to_cpu"].values()) > 0.999
    assert found["embeddings"]["smallest_cosine_of_int8_cache"] > 0.999
    assert found["resume"]["same_bytes"]
    assert found["resume"]["resumed_at_step"] > 0
    losses = found["torchrun"]["final_loss"]
    assert losses["torchrun"] == pytest.approx(losses["plain"], rel=1e-4)
    assert found["memory"]["student_pieces_per_batch"] == 4
    assert found["memory"]["teacher_smallest_cosine_to_small_batches"] > 0.9999
    assert found["sne"]["ours"]["loss"] == pytest.approx(found["sne"]["loop"]["loss"], rel=1e-5)


def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": "false"}
    done = subprocess.run([SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True)
    parts = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert done.returncode == 1
    assert len(parts) == 11
    assert {part["rc"] for part in parts} == {1}
