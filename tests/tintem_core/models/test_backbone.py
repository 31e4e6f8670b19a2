import subprocess
import sys

import pytest
import timm
import torch

from tintem_core.errors import InputError, UnknownModelError, WeightsError
from tintem_core.models.backbone import build_backbone, load_weights, weights_digest
from tintem_core.models.config import BackboneConfig, StudentConfig, TeacherConfig
from tintem_core.models.student import build_student, natural_width, warm_start
from tintem_core.models.teacher import Source, build_teacher


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
from tintem_core.models.device import place
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


@pytest.mark.parametrize(
    ("model", "stages"),
    [("test_efficientnet", 3), ("test_resnet", 4), ("test_vit", 2), ("test_convnext", 2)],
)
def test_the_first_stages_of_a_model_are_a_student_of_their_own(model: str, stages: int) -> None:
    size = 64
    whole = build_backbone(BackboneConfig(model=model, image_size=size))
    config = StudentConfig(model=model, image_size=size, stages=stages)
    student = build_student(config, width=16, seed=0)
    assert student.backbone.width == natural_width(config)
    parameters = [sum(p.numel() for p in m.parameters()) for m in (student.backbone, whole)]
    assert parameters[0] < parameters[1]
    assert student.training, "a dry run does not leave it in eval mode"

    taken = warm_start(student, whole.model.state_dict(), "the whole model")
    own = student.backbone.model.state_dict()
    assert taken == len(own) < len(whole.model.state_dict())
    assert all(torch.equal(own[name], whole.model.state_dict()[name]) for name in own)
    pixels = torch.rand(2, 3, size, size)
    embedding, tokens = student.with_tokens(pixels, 4)
    assert embedding.shape == (2, 16)
    assert tokens.shape == (2, 4, 16)
    student(pixels).sum().backward()
    assert all(p.grad is not None for p in student.backbone.parameters()), "nothing is left unused"


def test_weights_of_another_model_do_not_fit_a_cut_one_either() -> None:
    config = StudentConfig(model="test_resnet", image_size=64, stages=3)
    student = build_student(config, width=16, seed=0)
    other = build_backbone(BackboneConfig(model="test_vit", image_size=64)).model.state_dict()
    with pytest.raises(WeightsError, match="does not fit"):
        warm_start(student, other, "other.safetensors")


def test_more_stages_than_a_model_has_are_refused() -> None:
    config = StudentConfig(model="test_resnet", image_size=64, stages=9)
    with pytest.raises(InputError, match="has not so many: timm can cut it into 5 stages"):
        build_student(config, width=16, seed=0)


def test_weights_of_another_image_size_are_resampled_as_timm_does() -> None:
    small = build_backbone(BackboneConfig(model="test_vit", image_size=64))
    large = build_backbone(BackboneConfig(model="test_vit", image_size=160)).model.state_dict()
    load_weights(small, large, "weights of 160 px")
    assert small.model.pos_embed.shape[1] < large["pos_embed"].shape[1]
    torch.testing.assert_close(small.model.blocks[0].attn.qkv.weight,
                               large["blocks.0.attn.qkv.weight"])  # fmt: skip


def test_a_kernel_is_not_taken_for_a_stride() -> None:
    backbone = build_backbone(BackboneConfig(model="pvt_v2_b0", image_size=64)).eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, backbone.width)


@pytest.mark.parametrize("model", ["crossvit_tiny_240", "coat_tiny"])
def test_a_teacher_with_several_token_grids_is_fine_without_tokens(model: str) -> None:
    size = 240 if "240" in model else 64
    teacher = build_teacher(
        TeacherConfig(model=model, image_size=size),
        Source(build_backbone(BackboneConfig(model=model, image_size=size)).model.state_dict()),
    )
    assert list(teacher.describe()) == ["global"]
    with pytest.raises(InputError, match="no single grid of patch tokens"):
        teacher.describe(tokens=True)


def test_a_teacher_that_cannot_be_run_is_one_sentence() -> None:
    name, size = "maxxvit_rmlp_nano_rw_256", 100
    try:
        backbone = build_backbone(BackboneConfig(model=name, image_size=size))
    except InputError as error:
        assert "\n" not in str(error)
        return
    config = TeacherConfig(model=name, image_size=size)
    with pytest.raises(InputError, match="cannot be run on images of 100 px"):
        build_teacher(config, Source(backbone.model.state_dict())).describe()
