"""timm models as embedders: build, load weights, describe; one global vector and a token grid.

Legend: ``B`` batch, ``T`` tokens, ``D`` width, ``S`` side in pixels.
"""

import difflib
import hashlib
import math
import sys
from collections.abc import Collection, Mapping
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from tintem_core.errors import InputError, UnknownModelError, WeightsError
from tintem_core.models.base import VisionModel
from tintem_core.models.config import BackboneConfig
from tintem_core.models.pretrained import require_reachable

# What timm fetches from elsewhere, or reads from a folder.
_HUBS = ("hf-hub:", "hf_hub:", "local-dir:")


class Backbone(VisionModel):
    """A timm model without its classifier, with pixel normalisation inside.

    Args:
        model: a timm model built with ``num_classes=0``.
        mean: per-channel mean of the pixels on a 0..1 scale.
        std: per-channel standard deviation, same scale.
    """

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        # timm's models differ in their attributes: to the type checker this one can be anything.
        found: Any = model
        super().__init__(found.pretrained_cfg["architecture"], mean, std)
        self.model = found

    @property
    def width(self) -> int:
        """D, the width of the global embedding."""
        return int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)

    @property
    def token_width(self) -> int:
        """C, the width of a patch token."""
        return int(self.model.num_features)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.model.forward_features(self._normalise(pixels))
        return self.model.forward_head(features, pre_logits=True)

    def forward_with_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        # Of a CNN, the tokens are the last feature map; their width may differ from D.
        features = self.model.forward_features(self._normalise(pixels))
        if not isinstance(features, Tensor):
            raise self._has_no_tokens()
        embedding = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
                return embedding, features.flatten(1, 2)
            return embedding, features.flatten(2).transpose(1, 2)
        return embedding, features[:, getattr(self.model, "num_prefix_tokens", 0) :]

    def keep_stages(self, count: int, image_size: int) -> None:
        """Keep only the first stages of the model, in place; its embedding is their pooled output.

        Args:
            count: of the stages, as timm's ``feature_info`` lists them (the blocks of a ViT).
            image_size: S.

        Raises:
            InputError: if the model has not so many, or cannot do without its last ones.
        """
        model, name = self.model, self.name
        available = len(getattr(model, "feature_info", ()))
        if not hasattr(model, "prune_intermediate_layers") or not 1 <= count <= available:
            has = f"timm can cut it into {available} stages" if available else "timm cannot cut it"
            raise InputError(f"student.stages is {count}, but {name} has not so many: {has}.")
        before = set(model.state_dict())
        pool = getattr(model, "global_pool", "avg")
        try:
            model.prune_intermediate_layers([count - 1], prune_norm=False, prune_head=True)
            model.reset_classifier(0, pool if isinstance(pool, str) else pool.pool_type)
            with torch.no_grad():
                width = self.eval()(torch.zeros(1, 3, image_size, image_size)).shape[-1]
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise InputError(
                f"{name} does not run with its first {count} stages alone: set student.stages to "
                "null, or choose another model."
            ) from error
        self.train()
        # timm leaves the width of the whole model in some families.
        model.num_features = model.head_hidden_size = width
        self.removed = frozenset(before - set(model.state_dict()))


def resample_tokens(tokens_BTC: Tensor, count: int) -> Tensor:
    """Resample patch tokens from one square grid to another, bilinear with antialiasing.

    Args:
        tokens_BTC: tokens of a square grid, row by row, shape (B, T, C).
        count: number of tokens wanted, a square.

    Returns:
        Float32, shape (B, count, C).

    Raises:
        InputError: if one of the grids is not square.
    """
    sides = [math.isqrt(number) for number in (tokens_BTC.shape[1], count)]
    if [side * side for side in sides] != [tokens_BTC.shape[1], count]:
        raise InputError(
            f"{tokens_BTC.shape[1]} tokens cannot be brought to {count}: only square grids can be "
            "compared; choose a student and a teacher whose tokens form one."
        )
    tokens = tokens_BTC.float()
    if sides[0] == sides[1]:
        return tokens
    grid = tokens.mT.unflatten(2, (sides[0], sides[0]))
    resized = nn.functional.interpolate(
        grid, size=(sides[1], sides[1]), mode="bilinear", antialias=True
    )
    return resized.flatten(2).mT


def build_backbone(
    config: BackboneConfig,
    *,
    pretrained: bool = False,
    options: Mapping[str, bool | int | float | str] | None = None,
) -> Backbone:
    """Build a timm model without classifier; ``options`` go to `timm.create_model`.

    Raises:
        UnknownModelError: if timm does not know the name.
        InputError: if the model cannot take this image size, or its weights cannot be fetched.
    """
    name = config.name
    if not name.startswith(_HUBS) and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise UnknownModelError(
            f"timm {timm.__version__} knows no model named '{name}'.{hint} "
            "`python -c 'import tintem_core, timm; print(timm.list_models())'` lists them all."
        )
    if pretrained:
        require_reachable(name)
    try:
        model = _create(name, config.image_size, pretrained, dict(options or {}))
    except TypeError as error:
        raise InputError(f"{name} does not take these options: {error}.") from error
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"{name} cannot be built for {config.image_size} px images: {error}"
        ) from error
    except OSError as error:
        raise InputError(
            f"the pretrained weights of {name} could not be fetched ({type(error).__name__}): "
            "check the network, or give `weights: path/to/file.safetensors`."
        ) from error
    embed = getattr(model, "patch_embed", None)
    # Others overlap their patches, or pad them.
    patch = embed.patch_size if isinstance(embed, PatchEmbed) else (1, 1)
    if any(config.image_size % side for side in patch):
        raise InputError(
            f"{name} cuts images into patches of {patch[0]} px, which does not divide "
            f"{config.image_size} px: choose a multiple of {patch[0]} as image_size."
        )
    cfg = model.pretrained_cfg
    return Backbone(model, tuple(cfg["mean"]), tuple(cfg["std"]))


def _create(name: str, image_size: int, pretrained: bool, options: dict[str, Any]) -> Any:
    wanted = {"pretrained": pretrained, "num_classes": 0, **options}
    try:
        return timm.create_model(name, img_size=image_size, **wanted)
    except TypeError as error:
        # Only models with a fixed grid take img_size; a CNN says so like this.
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **wanted)


def load_weights(backbone: VisionModel, tensors: Mapping[str, Tensor], source: str) -> int:
    """Load timm-style weights strictly; returns how many tensors.

    Those of the classifier and of removed stages, which the backbone does not have, are dropped.

    Raises:
        WeightsError: naming the first tensors that are missing, unexpected or of another shape.
    """
    model = backbone.model
    # A module of the user's own has no such notes.
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    dropped = tuple(f"{prefix}." for prefix in prefixes)
    kept = {
        k: v for k, v in tensors.items() if k not in backbone.removed and not k.startswith(dropped)
    }
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    if {k: tuple(v.shape) for k, v in kept.items()} != wanted:
        kept = _converted(model, kept)
    found = {k: tuple(v.shape) for k, v in kept.items()}
    problems = [f"'{k}' is missing" for k in wanted if k not in found]
    problems += [f"'{k}' is not part of the model" for k in found if k not in wanted]
    problems += [
        f"'{k}' has shape {found[k]}, the model wants {wanted[k]}"
        for k in wanted
        if k in found and found[k] != wanted[k]
    ]
    if problems:
        shown = "; ".join(problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(
            f"{source} does not fit {backbone.name}: {shown}{more}. "
            "Give the weight file of this very model, with its own tensor names."
        )
    model.load_state_dict(kept)
    return len(kept)


def _converted(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename what authors published, and resample position embeddings, as timm does it."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        converted: dict[str, Tensor] = convert(dict(tensors), model)
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError):
        # What does not fit is told by name below.
        return tensors
    return converted


def load_matching(module: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Load the tensors that a module has under the same name and shape; return how many."""
    own = module.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    module.load_state_dict(fitting, strict=False)
    return len(fitting)


def weights_digest(module: nn.Module, without: Collection[str] = ()) -> str:
    """Return the sha256 (hex) of parameters and buffers, but for some: names, shapes, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name in without:
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
