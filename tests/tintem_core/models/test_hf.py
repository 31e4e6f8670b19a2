"""Small models of transformers with random weights, against transformers' own output."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from tintem_core.errors import InputError, WeightsError  # noqa: E402
from tintem_core.models.hf import build_hf  # noqa: E402

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 99}  # fmt: skip


def write(folder: Path, config: Any, model: Any) -> str:
    torch.manual_seed(0)
    model(config).save_pretrained(folder)
    said = {"image_mean": MEAN, "image_std": STD, "image_processor_type": "BitImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return str(folder)


def small(family: str, folder: Path, **more: Any) -> str:
    config, model, extra = {
        "dinov2": ("Dinov2Config", "Dinov2Model", {"image_size": 32}),
        "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel",
                      {"image_size": 32, "num_register_tokens": 4}),
        "dinov3": ("DINOv3ViTConfig", "DINOv3ViTModel",
                   {"image_size": 32, "num_register_tokens": 4, "intermediate_size": 64}),
        "siglip": ("SiglipVisionConfig", "SiglipVisionModel",
                   {"image_size": 32, "intermediate_size": 64}),
        "clip": ("CLIPVisionConfig", "CLIPVisionModel",
                 {"image_size": 32, "intermediate_size": 64}),
        "siglip2": ("Siglip2VisionConfig", "Siglip2VisionModel",
                    {"num_patches": 16, "intermediate_size": 64}),
        "vit": ("ViTConfig", "ViTModel", {"image_size": 32, "intermediate_size": 64}),
    }[family]  # fmt: skip
    made = getattr(transformers, config)(**{**SMALL, **extra, **more})
    return write(folder, made, getattr(transformers, model))


def pixels_of(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels 0..1, and as the models want them."""
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return pixels, (pixels - mean) / std


@pytest.mark.parametrize(
    ("family", "prefix"),
    [("dinov2", 1), ("registers", 5), ("dinov3", 5), ("siglip", 0), ("clip", 1)],
)
def test_a_family_gives_what_transformers_gives(tmp_path: Path, family: str, prefix: int) -> None:
    folder = small(family, tmp_path)
    model = build_hf(folder, None, None, 32, None).eval()
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    pixels, normalised = pixels_of()
    with torch.inference_mode():
        embedding, tokens = model.forward_with_tokens(pixels)
        wanted = plain(pixel_values=normalised)
    torch.testing.assert_close(embedding, wanted.pooler_output)
    torch.testing.assert_close(tokens, wanted.last_hidden_state[:, prefix:])
    assert tokens.shape == (2, 16, 32)
    assert (model.width, model.token_width) == (32, 32)
    for pool in ("mean", "cls") if prefix else ("mean",):
        other = build_hf(folder, None, None, 32, pool).eval()
        rows = wanted.last_hidden_state
        with torch.inference_mode():
            found = other(pixels)
        torch.testing.assert_close(
            found, rows[:, prefix:].mean(1) if pool == "mean" else rows[:, 0]
        )


def test_siglip_2_is_given_patches_as_its_own_processor_cuts_them(tmp_path: Path) -> None:
    folder = small("siglip2", tmp_path)
    model = build_hf(folder, None, None, 32, None).eval()
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    pixels, normalised = pixels_of()
    patches = torch.stack([
        image[:, y : y + 8, x : x + 8].permute(1, 2, 0).flatten()
        for image in normalised for y in range(0, 32, 8) for x in range(0, 32, 8)
    ]).view(2, 16, -1)  # fmt: skip
    with torch.inference_mode():
        embedding, tokens = model.forward_with_tokens(pixels)
        wanted = plain(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(2, 16, dtype=torch.int64),
            spatial_shapes=torch.full((2, 2), 4),
        )
    torch.testing.assert_close(embedding, wanted.pooler_output)
    torch.testing.assert_close(tokens, wanted.last_hidden_state)


@pytest.mark.parametrize("family", ["dinov2", "siglip", "clip"])
def test_another_size_interpolates_the_positions(tmp_path: Path, family: str) -> None:
    model = build_hf(small(family, tmp_path), None, None, 48, None).eval()
    with torch.inference_mode():
        _, tokens = model.forward_with_tokens(pixels_of(48)[0])
    assert tokens.shape == (2, 36, 32)


def test_of_clip_the_side_that_sees_images_is_taken(tmp_path: Path) -> None:
    vision = {**SMALL, "image_size": 32, "intermediate_size": 64}
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=8)
    folder = write(tmp_path, config, transformers.CLIPModel)
    model = build_hf(folder, None, None, 32, None).eval()
    whole = transformers.CLIPModel.from_pretrained(folder).eval()
    pixels, normalised = pixels_of()
    with torch.inference_mode():
        wanted = whole.vision_model(pixel_values=normalised).pooler_output
        torch.testing.assert_close(model(pixels), wanted)


def test_a_vit_without_a_pooler_is_never_given_a_made_up_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = small("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "pooler" not in k}, file,
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(InputError, match=r"teacher\.pool: which output of .* \(vit\)"):
        build_hf(folder, None, None, 32, None)
    with pytest.raises(WeightsError, match=r"lacks 2 tensors of a ViTModel, 'pooler\."):
        build_hf(folder, None, None, 32, "pooler")
    assert build_hf(folder, None, None, 32, "cls").width == 32


def test_normalisation_is_that_of_the_folder_unless_it_is_given(tmp_path: Path) -> None:
    folder = small("dinov2", tmp_path)
    assert build_hf(folder, None, None, 32, None).normalisation == {"mean": MEAN, "std": STD}
    given = build_hf(folder, (0.1, 0.1, 0.1), (0.9, 0.9, 0.9), 32, None)
    assert given.normalisation == {"mean": [0.1] * 3, "std": [0.9] * 3}
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config\.json that says"):
        build_hf(folder, None, None, 32, None)


def test_what_differs_between_copies_is_no_part_of_a_model(tmp_path: Path) -> None:
    one = small("dinov2", tmp_path / "one")
    other = small("dinov2", tmp_path / "other")
    found = [build_hf(folder, None, None, 32, None).settings() for folder in (one, other)]
    assert found[0] == found[1]
    changed = small("dinov2", tmp_path / "third", layer_norm_eps=1e-3)
    assert build_hf(changed, None, None, 32, None).settings() != found[0]


def test_a_folder_with_pickles_alone_is_refused(tmp_path: Path) -> None:
    folder = small("dinov2", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot be loaded .*model\.safetensors inside") as told:
        build_hf(folder, None, None, 32, None)
    assert "\n" not in str(told.value)


def test_a_size_that_patches_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="patches of 8 px, which does not divide 36 px"):
        build_hf(small("dinov2", tmp_path), None, None, 36, None)


def test_a_family_without_a_first_token_has_no_cls(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no CLS token: set pool to pooler or mean"):
        build_hf(small("siglip", tmp_path), None, None, 32, "cls")
