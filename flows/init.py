"""Write a commented config for a folder of photos."""

import json
from pathlib import Path

from storage.identity import slugify
from tintem_core.errors import InputError


def write_config(images: Path, target: Path) -> None:
    """Write a config that `tintem run` accepts as it is.

    Raises:
        InputError: if the folder is missing or the target exists already.
    """
    if not images.is_dir():
        raise InputError(f"there is no folder {images}: give the folder that holds your photos.")
    if target.exists():
        raise InputError(f"{target} exists already: remove it, or choose another with --config.")
    name = slugify(images.resolve().name)
    # Strings of JSON are strings of YAML, whatever is in them.
    uri = json.dumps(str(images.resolve()), ensure_ascii=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(TEMPLATE.format(name=json.dumps(name), uri=uri), encoding="utf-8")


TEMPLATE = """\
# A TinTeM run: everything that the result depends on. Run it with `tintem run`.
# Relative paths are relative to this file.

root: tintem-data              # folder or s3://bucket/prefix where everything is kept

data:
  name: {name}
  uri: {uri}
  # Photos directly inside, or one folder per class; labels are only used for the kNN score.
  # max_images: 1000           # try a run on a part first
  # test_share: 0.2            # photos kept apart to measure the student

teacher:                       # any timm model
  model: vit_small_patch14_dinov2.lvd142m
  weights: pretrained          # fetched by timm; or a path to a .safetensors file
  image_size: 224
  # precision: bfloat16        # faster on a GPU

views:
  count: 4                     # training views cached per photo: more is better and larger
  recipe:
    name: light                # crop and flip; `timm` adds RandAugment and erasing

mapping:
  # width: 256                 # the student's embedding; default: its natural width
  objective: cosine            # keeps angles between photos

student:                       # any timm model
  model: vit_tiny_patch16_224
  image_size: 224

training:
  epochs: 100
  batch_size: 64
  learning_rate: 1.0e-3

# evaluation:
#   ood:                       # photos the student should find strange
#     - name: other-things
#       uri: path/to/other/photos
"""
