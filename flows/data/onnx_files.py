"""What the files of an ONNX model hold, without running it."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage.identity import file_digest
from tintem_core.errors import InputError

# What weights are stored as; shapes and indices are whole numbers of 32 and 64 bits.
_WEIGHTS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT4", "UINT4")


@dataclass(frozen=True)
class OnnxFiles:
    """The ONNX file first, then those beside it that hold weights."""

    files: tuple[Path, ...]
    parameters: int

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes; a model in one file has the digest of the file."""
        digests = [file_digest(file) for file in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def onnx_files(path: Path) -> OnnxFiles:
    """Find out which files an ONNX model has.

    Raises:
        InputError: if it is none, or a file of it is missing.
    """
    if not path.is_file():
        raise InputError(f"teacher.onnx: there is no file {path}: give the path of an ONNX model.")
    found = _read(path, path.stat().st_mtime_ns)
    for file in found.files:
        if not file.is_file():
            raise InputError(
                f"teacher.onnx: {path.name} keeps weights in {file.name}, which is not beside it: "
                f"copy both into {path.parent}."
            )
    return found


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> OnnxFiles:
    # Only here: machines that train need none of it.
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:
        raise InputError(
            f"teacher.onnx: {path} is no ONNX model, or is torn ({type(error).__name__}): export "
            "or copy it again."
        ) from error
    tensors = list(_tensors(model.graph))
    beside = sorted({ExternalDataInfo(t).location for t in tensors if uses_external_data(t)})
    kinds = {getattr(onnx.TensorProto, name) for name in _WEIGHTS}
    return OnnxFiles(
        (path, *(path.parent / name for name in beside)),
        sum(math.prod(tensor.dims) for tensor in tensors if tensor.data_type in kinds),
    )


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the tensors of a graph and of the graphs inside of it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)
