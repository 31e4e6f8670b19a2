"""Any ONNX model as a frozen teacher, run by ONNX Runtime.

Legend: ``B`` batch, ``T`` tokens, ``C`` token width, ``D`` width, ``S`` side in pixels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from tintem_core.errors import InputError
from tintem_core.models.base import VisionModel, pooled, prefix_tokens

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "bad allocation", "out of memory")


class OnnxSettings(NamedTuple):
    """What is said of a file beside the file itself; None: found out from the file."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int = 1
    """What a white pixel is before mean and std: 1 or 255."""
    layout: str | None = None
    """NCHW or NHWC."""
    input: str | None = None
    output: str | None = None
    tokens: str | None = None
    prefix_tokens: int | None = None
    pool: str | None = None


class OnnxModel(VisionModel):
    """An ONNX model; its sessions hold the weights.

    Args:
        path: of the file.
        settings: what is said of it.
        image_size: S.
        device: where it computes; ONNX Runtime must have a provider for it, else the CPU does.
        parameters: how many it has.

    Raises:
        InputError: if ONNX Runtime cannot run it at this size, or inputs, outputs or settings do
            not fit each other; the sentence names the setting.
    """

    def __init__(
        self, path: str, settings: OnnxSettings, image_size: int, device: str, parameters: int
    ) -> None:
        name = path.rpartition("/")[2]
        # On the model's own scale.
        super().__init__(name, settings.mean, settings.std)
        self._scale, self._weights = settings.scale, parameters
        self._session = _open(path, name, device)
        self._input = self._find_input(settings.input)
        self._dtype = self._find_dtype()
        self._layout = self._find_layout(settings.layout, image_size)
        first = self._input.shape[0]
        self._batch = first if isinstance(first, int) else None
        outputs = [output.name for output in self._session.get_outputs()]
        for setting in ("output", "tokens"):
            wanted = getattr(settings, setting)
            if wanted is not None and wanted not in outputs:
                raise InputError(
                    f"teacher.{setting}: {name} has no output '{wanted}': it has "
                    f"{self._listed(self._session.get_outputs())}."
                )
        found = self._run(torch.full((2, 3, image_size, image_size), 0.5), outputs)
        self._choose(settings, {output: tuple(value.shape) for output, value in found.items()})

    def _choose(self, settings: OnnxSettings, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Decide which output is what, from the shapes that they had for two images."""
        flat = [name for name, shape in shapes.items() if _is_flat(shape)]
        sequences = [name for name, shape in shapes.items() if len(shape) == 3]
        told = ", ".join(f"'{name}' {list(shape)}" for name, shape in shapes.items())
        output = settings.output
        if output is None:
            candidates = flat or sequences
            if len(candidates) != 1:
                raise InputError(
                    f"teacher.output: {self.name} gives {told} for 2 images: name the embedding."
                )
            output = candidates[0]
        self._output, self._tokens = output, settings.tokens
        self._pool: str | None = None
        if _is_flat(shapes[output]):
            if settings.pool is not None:
                raise InputError(f"teacher.pool: '{output}' is one vector already: leave pool out.")
        elif len(shapes[output]) == 3:
            if settings.pool not in ("cls", "mean"):
                raise InputError(
                    f"teacher.pool: '{output}' of {self.name} gives a sequence of tokens, "
                    f"{list(shapes[output])} for 2 images: set pool to cls (its first token) or "
                    "mean (over the patches)."
                )
            self._pool, self._tokens = settings.pool, self._tokens or output
        else:
            raise InputError(
                f"teacher.output: '{output}' of {self.name} has shape {list(shapes[output])} for "
                f"2 images, not (2, width): it gives {told}."
            )
        self._width = shapes[output][2 if self._pool else 1]
        self._prefix, self._token_width = 0, self._width
        if self._tokens is not None:
            shape = shapes[self._tokens]
            if len(shape) not in (3, 4) or shape[0] != 2:
                raise InputError(
                    f"teacher.tokens: '{self._tokens}' of {self.name} has shape {list(shape)} for "
                    "2 images, not (2, tokens, width)."
                )
            if len(shape) == 3:
                self._prefix = _prefix(settings.prefix_tokens, shape[1], self.name)
            self._token_width = shape[2] if len(shape) == 3 else shape[1]

    @property
    def width(self) -> int:
        return self._width

    @property
    def token_width(self) -> int:
        return self._token_width

    @property
    def parameter_count(self) -> int:
        return self._weights

    def settings(self) -> dict[str, Any]:
        return {
            "input": self._input.name,
            "output": self._output,
            "tokens": self._tokens,
            "prefix_tokens": self._prefix,
            "pool": self._pool,
            "scale": self._scale,
            "layout": self._layout,
        }

    def forward(self, pixels: Tensor) -> Tensor:
        return self._pooled(self._run(pixels, [self._output])[self._output])

    def forward_with_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self._tokens is None:
            raise self._has_no_tokens()
        found = self._run(pixels, list(dict.fromkeys((self._output, self._tokens))))
        tokens = found[self._tokens]
        if tokens.ndim == 4:
            return self._pooled(found[self._output]), tokens.flatten(2).transpose(1, 2)
        return self._pooled(found[self._output]), tokens[:, self._prefix :]

    def _pooled(self, found: Tensor) -> Tensor:
        return found.flatten(1) if self._pool is None else pooled(found, self._prefix, self._pool)

    def _run(self, pixels: Tensor, outputs: list[str]) -> dict[str, Tensor]:
        """Run some images; returns float32 tensors on the device of the pixels.

        Raises:
            InputError: if ONNX Runtime refuses them.
            torch.OutOfMemoryError: if its memory does not hold them at once.
        """
        batch = (pixels * self._scale - self.mean) / self.std
        if self._layout == "NHWC":
            batch = batch.permute(0, 2, 3, 1)
        if self._dtype is np.uint8:
            batch = batch.round().clamp(0, 255)
        array: NDArray[Any] = batch.cpu().contiguous().numpy().astype(self._dtype, copy=False)
        size = self._batch or len(array)
        pieces = [self._run_piece(array[i : i + size], outputs) for i in range(0, len(array), size)]
        joined = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return {
            name: torch.from_numpy(values.astype(np.float32, copy=False)).to(pixels.device)
            for name, values in zip(outputs, joined, strict=True)
        }

    def _run_piece(self, array: NDArray[Any], outputs: list[str]) -> list[NDArray[Any]]:
        images = len(array)
        if self._batch is not None and images < self._batch:
            # The file was exported for this many at once.
            array = np.concatenate([array, np.repeat(array[-1:], self._batch - images, axis=0)])
        try:
            found = self._session.run(outputs, {self._input.name: array})
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
                raise torch.OutOfMemoryError(said[0]) from error
            raise InputError(
                f"teacher.onnx: ONNX Runtime cannot run {self.name} on pixels of shape "
                f"{array.shape} ({_said(said)}): check teacher.image_size and teacher.layout."
            ) from error
        return [np.atleast_1d(value)[:images] for value in found]

    def _find_input(self, wanted: str | None) -> Any:
        inputs = self._session.get_inputs()
        found = [i for i in inputs if i.name == wanted] if wanted else inputs
        if not found:
            raise InputError(
                f"teacher.input: {self.name} has no input '{wanted}': it has "
                f"{self._listed(inputs)}."
            )
        others = [i.name for i in inputs if i.name != found[0].name]
        if others:
            raise InputError(
                f"teacher.onnx: {self.name} takes {self._listed(inputs)}, but TinTeM has nothing "
                "to give it but pixels: export the part alone that takes images."
            )
        return found[0]

    def _find_dtype(self) -> type:
        dtype = _DTYPES.get(self._input.type)
        if dtype is None:
            raise InputError(
                f"teacher.onnx: the input '{self._input.name}' of {self.name} takes "
                f"{self._input.type}, not pixels: {', '.join(_DTYPES)} are known."
            )
        if dtype is np.uint8 and self._scale == 1:
            raise InputError(
                f"teacher.scale: the input '{self._input.name}' of {self.name} takes whole numbers "
                "0..255: set scale to 255, mean to [0, 0, 0] and std to [1, 1, 1]."
            )
        return dtype

    def _find_layout(self, wanted: str | None, image_size: int) -> str:
        shape, name = self._input.shape, self._input.name
        if len(shape) != 4:
            raise InputError(
                f"teacher.onnx: the input '{name}' of {self.name} has shape {shape}, not that of "
                "images, (batch, 3, side, side)."
            )
        fixed = {place: side for place, side in enumerate(shape) if isinstance(side, int)}
        fitting = [
            layout
            for layout, channels in (("NCHW", 1), ("NHWC", 3))
            if fixed.get(channels, 3) == 3 and wanted in (None, layout)
        ]
        if not fitting:
            raise InputError(
                f"teacher.layout: the input '{name}' of {self.name} has shape {shape}, which is "
                f"not that of colour images{f' in {wanted}' if wanted else ''}."
            )
        sides = [fixed.get(place) for place in ((2, 3) if fitting[0] == "NCHW" else (1, 2))]
        if any(side not in (None, image_size) for side in sides):
            cure = "export it for a square input"
            if sides[0] == sides[1]:
                cure = f"set teacher.image_size to {sides[0]}"
            raise InputError(
                f"teacher.image_size is {image_size}, but the input '{name}' of {self.name} has "
                f"shape {shape}: {cure}."
            )
        return fitting[0]

    @staticmethod
    def _listed(values: Any) -> str:
        return ", ".join(f"'{value.name}' {value.shape}" for value in values)


def _open(path: str, name: str, device: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    on_gpu = "CUDAExecutionProvider"
    if device.startswith("cuda") and on_gpu in onnxruntime.get_available_providers():
        providers.insert(0, (on_gpu, {"device_id": torch.device(device).index or 0}))
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:
        raise InputError(
            f"teacher.onnx: ONNX Runtime {onnxruntime.__version__} cannot open {name} "
            f"({_said(str(error).strip().splitlines())}): export it again."
        ) from error


def _said(lines: list[str]) -> str:
    """Leave out where in ONNX Runtime's sources something was noticed."""
    return " ".join(line.strip() for line in lines).rpartition(" : ")[2][:300]


def _is_flat(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and shape[0] == 2 and all(side == 1 for side in shape[2:])


def _prefix(wanted: int | None, count: int, name: str) -> int:
    if wanted is None:
        return prefix_tokens(count)
    if wanted >= count:
        raise InputError(f"teacher.prefix_tokens is {wanted}, but {name} gives {count} tokens.")
    return wanted
