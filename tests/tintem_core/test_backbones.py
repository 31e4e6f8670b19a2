import subprocess
import sys

import pytest
import timm
import torch

from tintem_core.backbones import BackboneConfig, build_backbone, load_weights, weights_digest
from tintem_core.errors import InputError, UnknownModelError, WeightsError


def test_a_misspelt_model_name_suggests_the_right_one() -> None:
    with pytest.raises(UnknownModelError, match="mobilenetv3_small_100"):
        build_backbone(BackboneConfig(model="mobilenetv3_smal_100"))


def test_an_image_size_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match="65 px"):
        build_backbone(BackboneConfig(model="vit_tiny_patch16_224", image_size=65))


@pytest.mark.parametrize(
    ("name", "tokens", "width"),
    [
        ("vit_tiny_patch16_224", 16, 192),
        ("resnet18", 4, 512),
        ("mobilenetv3_small_050", 4, 576 // 2),
    ],
)
def test_tokens_come_without_prefix_tokens_and_row_by_row(
    name: str, tokens: int, width: int
) -> None:
    backbone = build_backbone(BackboneConfig(model=name, image_size=64)).eval()
    with torch.inference_mode():
        embedding, patches = backbone.forward_with_tokens(torch.rand(2, 3, 64, 64))
        again = backbone(torch.rand(2, 3, 64, 64))
    assert embedding.shape == again.shape == (2, backbone.width)
    assert patches.shape == (2, tokens, width)


def test_weights_load_with_and_without_classifier() -> None:
    torch.manual_seed(0)
    full = timm.create_model("test_resnet", num_classes=10)
    backbone = build_backbone(BackboneConfig(model="test_resnet", image_size=64))
    load_weights(backbone, full.state_dict(), "x.safetensors")
    pixels = torch.rand(1, 3, 64, 64)
    full.eval()
    backbone.eval()
    wanted = full.forward_head(full.forward_features((pixels - backbone.mean) / backbone.std), True)
    torch.testing.assert_close(backbone(pixels), wanted)


def test_a_weight_file_that_does_not_fit_is_named_with_its_first_problems() -> None:
    backbone = build_backbone(BackboneConfig(model="test_resnet", image_size=64))
    tensors = dict(timm.create_model("test_resnet2" if False else "resnet18").state_dict())
    with pytest.raises(
        WeightsError, match=r"other\.safetensors does not fit test_resnet: '.*more\)"
    ):
        load_weights(backbone, tensors, "other.safetensors")


@pytest.mark.parametrize("model", ["xcit_nano_12_p16_224", "efficientvit_m0"])
def test_models_that_give_the_patch_size_as_one_number_can_be_built(model: str) -> None:
    assert build_backbone(BackboneConfig(model=model)).width > 0


def test_a_model_without_one_grid_of_tokens_says_so() -> None:
    backbone = build_backbone(BackboneConfig(model="crossvit_tiny_240", image_size=240)).eval()
    with pytest.raises(InputError, match="no single grid of patch tokens"), torch.inference_mode():
        backbone.forward_with_tokens(torch.zeros(1, 3, 240, 240))


def test_one_changed_bit_of_weights_changes_the_digest() -> None:
    backbone = build_backbone(BackboneConfig(model="test_resnet", image_size=64))
    before = weights_digest(backbone)
    assert weights_digest(backbone) == before
    parameter = next(backbone.parameters())
    with torch.no_grad():
        bits = parameter.view(torch.int32).flatten()
        bits[0] ^= 1
    assert weights_digest(backbone) != before


def test_a_model_on_the_cpu_gets_the_same_memory_again() -> None:
    """In a process of its own: the setting is the process's, and other tests have made it."""
    program = """
import resource, statistics, sys, torch
from tintem_core.backbones import place
if sys.argv[1] == "placed":
    place(torch.nn.Linear(2, 2), "cpu")

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(statistics.median(new_pages() for _ in range(21)))
"""
    # The median: a small block that comes to lie behind a freed one makes a few of them move.
    new_pages = {
        how: float(
            subprocess.run(
                [sys.executable, "-c", program, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("placed", "plain")
    }
    assert new_pages["plain"] > 10 * new_pages["placed"]
