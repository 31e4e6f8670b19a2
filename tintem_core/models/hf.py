"""Vision models of Hugging Face's transformers as frozen teachers.

DINOv2 with and without registers, DINOv3, SigLIP, SigLIP 2 and CLIP's image side.

Legend: ``B`` batch, ``T`` tokens, ``C`` token width, ``D`` width, ``S`` side in pixels.
"""

import contextlib
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tintem_core.errors import InputError, WeightsError
from tintem_core.models.base import VisionModel, pooled, prefix_tokens

# The published embedding of each family: DINO's CLS token after the last norm, SigLIP's attention
# pool, CLIP's CLS token after the last norm; all of them are what transformers calls the pooler's.
_POOLS = dict.fromkeys(
    (
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "dinov3_convnext",
        "siglip_vision_model",
        "siglip2_vision_model",
        "clip_vision_model",
    ),
    "pooler",
)
# What differs between two copies of one model, or two versions of transformers.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
# SigLIP 2 of any aspect ratio takes patches instead of pixels.
_PATCHES = "siglip2_vision_model"


class HfModel(VisionModel):
    """A vision model of transformers.

    Args:
        model: a vision model; its output has ``last_hidden_state``.
        name: what messages call it.
        mean, std: see :class:`VisionModel`.
        image_size: S.
        pool: ``pooler``, ``cls`` or ``mean``; None: what is right for its family.

    Raises:
        InputError: if it has no such pooled output, or cannot be run at this size.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        pool: str | None,
    ) -> None:
        super().__init__(name, mean, std)
        self.model = model
        config = self.model.config
        self._pool = pool or _default_pool(config.model_type, name)
        self._patch: int = getattr(config, "patch_size", 0)
        if self._patch and image_size % self._patch:
            raise InputError(
                f"{name} cuts images into patches of {self._patch} px, which does not divide "
                f"{image_size} px: choose a multiple of {self._patch} as teacher.image_size."
            )
        parameters = inspect.signature(self.model.forward).parameters
        own = getattr(config, "image_size", image_size)
        self._interpolates = "interpolate_pos_encoding" in parameters and own != image_size
        grey = torch.full((1, 3, image_size, image_size), 0.5)
        try:
            with torch.no_grad():
                found = self._run(self.eval()._normalise(grey))
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"teacher.hf: {name} cannot be run on images of {image_size} px: {said[0]}"
            ) from error
        tokens = getattr(found, "last_hidden_state", None)
        if tokens is None or tokens.ndim not in (3, 4):
            raise InputError(f"teacher.hf: {name} is no vision model that gives patch tokens.")
        self._prefix = 0
        if tokens.ndim == 3:
            # Cutting into patches leaves over what does not come from one.
            patches = (image_size // self._patch) ** 2 if self._patch else None
            count = tokens.shape[1]
            self._prefix = prefix_tokens(count) if patches is None else count - patches
        if self._pool == "cls" and not self._prefix:
            raise InputError(f"teacher.pool: {name} has no CLS token: set pool to pooler or mean.")
        if self._pool == "pooler" and getattr(found, "pooler_output", None) is None:
            raise InputError(f"teacher.pool: {name} has no pooled output: set pool to cls or mean.")
        embedding, tokens = self._both(found)
        self._width, self._token_width = embedding.shape[1], tokens.shape[2]

    @property
    def width(self) -> int:
        return self._width

    @property
    def token_width(self) -> int:
        return self._token_width

    def settings(self) -> dict[str, Any]:
        said = self.model.config.to_diff_dict()
        config = {key: value for key, value in said.items() if key not in _NOT_THE_MODEL}
        return {"config": config, "pool": self._pool, "prefix_tokens": self._prefix}

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_with_tokens(pixels)[0]

    def forward_with_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self._both(self._run(self._normalise(pixels)))

    def _run(self, pixels: Tensor) -> Any:
        if self.model.config.model_type == _PATCHES:
            return self._run_patches(pixels)
        if self._interpolates:
            return self.model(pixel_values=pixels, interpolate_pos_encoding=True)
        return self.model(pixel_values=pixels)

    def _run_patches(self, pixels: Tensor) -> Any:
        side = pixels.shape[-1] // self._patch
        # (B, 3, S, S) to (B, T, P·P·3): of each patch row by row, colours last.
        patches = pixels.unflatten(3, (side, self._patch)).unflatten(2, (side, self._patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        images = len(pixels)
        shapes = torch.full((images, 2), side, device=pixels.device)
        mask = torch.ones(images, side * side, dtype=torch.int64, device=pixels.device)
        return self.model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)

    def _both(self, found: Any) -> tuple[Tensor, Tensor]:
        tokens = found.last_hidden_state
        if tokens.ndim == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        if self._pool == "pooler":
            embedding = found.pooler_output.flatten(1)
        else:
            embedding = pooled(tokens, self._prefix, self._pool)
        return embedding, tokens[:, self._prefix :]


def build_hf(
    source: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: int,
    pool: str | None,
) -> HfModel:
    """Load a model that ``save_pretrained`` wrote, safetensors only, and none of its code.

    Args:
        source: a folder, or a name on the Hugging Face Hub.
        mean, std: None: what its preprocessor_config.json says.
        image_size, pool: see :class:`HfModel`.

    Raises:
        InputError: if it is not there, is no vision model, or does not say its normalisation.
        WeightsError: if weights are missing.
    """
    name = source.rstrip("/").rpartition("/")[2]
    with _quiet():
        model = _load(source, name, pool)
    if mean is None or std is None:
        mean, std = _normalisation(source, name)
    return HfModel(model, name, mean, std, image_size, pool)


def _default_pool(family: str, name: str) -> str:
    if family not in _POOLS:
        raise InputError(
            f"teacher.pool: which output of {name} ({family}) is its embedding is not known: set "
            "pool to pooler, cls or mean."
        )
    return _POOLS[family]


def _load(source: str, name: str, pool: str | None) -> nn.Module:
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        # Of a model of images and texts, the side that sees images.
        config = getattr(config, "vision_config", config)
        model, found = transformers.AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"teacher.hf: {source} cannot be loaded ({said[0].rstrip('.')}): give a folder that "
            "save_pretrained wrote, with model.safetensors inside, or a name on the Hugging Face "
            "Hub, which needs the network once."
        ) from error
    lacking = set(found["missing_keys"]) | {key for key, *_ in found["mismatched_keys"]}
    # Many published ViTs have no pooler, which transformers then makes up.
    if pool != "pooler" and config.model_type not in _POOLS:
        lacking = {key for key in lacking if not key.startswith("pooler.")}
    if lacking:
        raise WeightsError(
            f"teacher.hf: {name} lacks {len(lacking)} tensors of a {type(model).__name__}, "
            f"'{min(lacking)}' among them: its folder is incomplete, or of another kind of model."
        )
    return model


def _normalisation(source: str, name: str) -> tuple[list[float], list[float]]:
    """Return mean and std on a 0..1 scale, of the preprocessing beside a model."""
    try:
        said, _ = transformers.ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        said = {}
    if said.get("do_normalize", True) is False:
        return [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    if not (said.get("image_mean") and said.get("image_std")):
        raise InputError(
            f"teacher.mean: {name} has no preprocessor_config.json that says image_mean and "
            "image_std: give teacher.mean and teacher.std."
        )
    white = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255
    mean, std = ([value / white for value in said[key]] for key in ("image_mean", "image_std"))
    return mean, std


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out inside the block what transformers says of weights that are not needed."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        transformers.logging.enable_progress_bar()
