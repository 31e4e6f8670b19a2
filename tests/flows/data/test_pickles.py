"""A pickle that would run code, under every name that a run reads: none of it runs."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.config.load import load_config
from flows.data.latents_file import open_latents_file
from flows.data.weights import read_tensors
from flows.inference.model import open_export
from storage.errors import StorageError
from storage.images import Manifest
from storage.root import open_root
from tests.exports import write_export
from tintem_core.errors import TintemError
from tintem_pixels import verify


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def archive(payload: Payload, form: str) -> bytes:
    """Write a payload as a pickle by itself, as torch does, or inside an array of NumPy."""
    packed = io.BytesIO()
    if form == "pickle":
        packed.write(pickle.dumps(payload))
    elif form == "torch":
        torch.save({"model": payload}, packed)
    elif form == "old torch":
        torch.save({"model": payload}, packed, _use_new_zipfile_serialization=False)
    elif form == "npy":
        np.save(packed, np.array([payload], object), allow_pickle=True)
    else:
        np.savez(packed, images=np.array([payload], object))
    return packed.getvalue()


FORMS = ("pickle", "torch", "old torch", "npy", "npz")
READERS: dict[str, Callable[[Path], object]] = {
    "weights.pth": read_tensors,
    "weights.pt": read_tensors,
    "weights.bin": read_tensors,
    "weights.safetensors": read_tensors,
    "latents.npy": lambda path: open_latents_file(str(path), None),
    "latents.npz": lambda path: open_latents_file(str(path), None),
    "latents.parquet": lambda path: open_latents_file(str(path), None),
    "run.yaml": load_config,
    "root/manifests/id.json": lambda path: Manifest.load(open_root(path.parents[1]), "id"),
    "student.onnx": lambda path: open_export(str(path)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READERS)
def test_what_reads_a_file_runs_nothing_of_it(name: str, form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive(Payload(marker), form))
    with pytest.raises((TintemError, StorageError)) as told:
        READERS[name](path)
    assert "\n" not in str(told.value)
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
def test_the_vectors_of_an_export_run_nothing(form: str, tmp_path: Path) -> None:
    marker, folder = tmp_path / "ran", write_export(tmp_path / "root")
    (folder / verify.VECTORS).write_bytes(archive(Payload(marker), form))
    with pytest.raises(verify.NoExportError):
        verify.check(folder)
    assert not marker.exists()


def test_the_payload_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(archive(Payload(tmp_path / "ran"), "pickle"))
    assert (tmp_path / "ran").exists()
