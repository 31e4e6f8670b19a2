"""EfficientNet weights in the lukemelas naming style, renamed to timm's.

``_blocks.7._depthwise_conv.weight`` counts blocks through the whole network; timm counts them
per stage (``blocks.3.1.conv_dw.weight``). Tensors are untouched: only names change.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from tintem_core.errors import WeightsError

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
            "_fc": "classifier"}  # fmt: skip
_EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
          "_bn2": "bn2"}  # fmt: skip


def timm_names(tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Rename lukemelas-style EfficientNet tensors to timm's names.

    Args:
        tensors: the weights under their old names.
        wanted: the names in timm's model, which tell how blocks are grouped into stages.

    Raises:
        WeightsError: if a name does not follow the lukemelas style.
    """
    blocks = list(
        dict.fromkeys(".".join(n.split(".")[:3]) for n in wanted if n.startswith("blocks."))
    )
    expanded = {name.split(".")[1] for name in tensors if "._expand_conv." in name}
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        try:
            if parts[0] == "_blocks":
                layers = _EXPANDED if parts[1] in expanded else _PLAIN
                new = [blocks[int(parts[1])], layers[parts[2]], *parts[3:]]
            else:
                new = [_OUTSIDE[parts[0]], *parts[1:]]
        except (KeyError, IndexError, ValueError) as error:
            raise WeightsError(
                f"'{name}' is not a tensor name of a lukemelas-style EfficientNet."
            ) from error
        renamed[".".join(new)] = tensor
    return renamed
