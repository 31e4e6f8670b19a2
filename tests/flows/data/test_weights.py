"""Weight files, wrapped as training code wraps them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flows.data.weights import read_tensors
from tintem_core.errors import WeightsError

PLAIN = {"conv.weight": torch.ones(2, 2), "head.bias": torch.zeros(3)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in PLAIN.items()}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"state_dict": PLAIN, "epoch": 3},
        {"state_dict": prefixed("module."), "optimizer": {}},
        {"model_ema": PLAIN, "epoch": 3},
        {"model": prefixed("_orig_mod.module.")},
        {
            "teacher": {**prefixed("module.backbone."), "module.head.last.weight": torch.ones(1)},
            "student": prefixed("module.backbone.other."),
        },
    ],
)
def test_wrappers_are_taken_off(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth")
    assert found.keys() == PLAIN.keys()
    assert torch.equal(found["conv.weight"], PLAIN["conv.weight"])


def test_a_student_of_tintem_keeps_its_names(tmp_path: Path) -> None:
    ours = {"backbone.model.conv.weight": torch.ones(1), "projection.weight": torch.ones(2)}
    save_file(ours, tmp_path / "student.safetensors")
    assert read_tensors(tmp_path / "student.safetensors").keys() == ours.keys()


@pytest.mark.parametrize("content", [{1: torch.ones(1)}, {"a": 1}, [1], {"state_dict": {"a": "b"}}])
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="no plain table of tensors"):
        read_tensors(tmp_path / "odd.pth")


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x02}q\x00.", b"\x93NUMPY", b"x" * 1000])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_other_file_is_one_sentence(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"odd{suffix}").write_bytes(data)
    with pytest.raises(WeightsError) as told:
        read_tensors(tmp_path / f"odd{suffix}")
    assert "\n" not in str(told.value)
