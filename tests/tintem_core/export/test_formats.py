import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
from onnx import load_from_string

from tests.photos import photo
from tintem_core.errors import NotApplicableError
from tintem_core.export.formats import Subject, export_format
from tintem_core.export.loaders import timm_view
from tintem_core.export.mapping import mapping_to_onnx
from tintem_core.export.parity import answers, verify
from tintem_core.export.runtime import session
from tintem_core.mapping.module import Mapping
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student
from tintem_core.views import EVAL, render_view

SIZE = 64
PIXELS = np.stack([render_view(photo(i), "k", 0, EVAL, SIZE, SIZE) for i in range(40)])


def subject(model: str = "test_resnet", width: int = 32, size: int = SIZE, **more: Any) -> Subject:
    config = StudentConfig(model=model, image_size=size, **more)
    return Subject(build_student(config, width, seed=0).eval(), size, {}, lambda: PIXELS)


@pytest.fixture(scope="module")
def shared() -> Subject:
    return subject()


@pytest.mark.parametrize("name", ["onnx", "uint8", "web"])
def test_every_front_of_the_graph_gives_the_same_embeddings(shared: Subject, name: str) -> None:
    form = export_format(name)
    embed = form.open(form.files(shared))
    found = verify(embed, answers(shared.student, PIXELS), PIXELS, batch_sizes=form.batch_sizes)
    assert found.smallest_cosine > 0.999999
    assert found.largest_difference < 1e-5


def test_the_default_takes_whole_pixels_and_nothing_else(shared: Subject) -> None:
    form = export_format("uint8")
    opened = session(form.files(shared)[form.file])
    (given,) = opened.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(uint8)", [64, 64, 3])
    for wrong in (PIXELS[:1].astype(np.float32), PIXELS[:1].transpose(0, 3, 1, 2)):
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            opened.run(None, {"image": wrong})


@pytest.mark.parametrize(
    ("model", "width"), [("test_resnet", 32), ("test_efficientnet", 256), ("test_vit", 24)]
)
def test_timm_loads_the_folder_with_the_projection_as_its_classifier(
    model: str, width: int
) -> None:
    exported = subject(model, width)
    form = export_format("timm")
    files = form.files(exported)
    found = verify(
        form.open(files), answers(exported.student, PIXELS), PIXELS, batch_sizes=form.batch_sizes
    )
    assert found.smallest_cosine >= 0.999999
    assert found.largest_difference <= 1e-5
    told = json.loads(files["config.json"])
    assert told["num_classes"] == (width if exported.student.has_projection else 0)
    assert told["pretrained_cfg"]["input_size"] == [3, SIZE, SIZE]


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("test_efficientnet", {"stages": 2}, "first stages alone"),
        ("deit_tiny_distilled_patch16_224", {}, "not one linear layer"),
    ],
)
def test_what_timm_has_no_place_for_is_said(model: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(NotApplicableError, match=said):
        export_format("timm").files(subject(model, **more))


def test_half_precision_is_half_as_large_and_nearly_as_exact(shared: Subject) -> None:
    form, whole = export_format("fp16"), export_format("web")
    files = form.files(shared)
    found = verify(form.open(files), answers(shared.student, PIXELS), PIXELS, minimum_cosine=0.999)
    assert 1e-6 < found.largest_difference < 0.01
    assert len(files[form.file]) < 0.6 * len(whole.files(shared)[whole.file])


def test_integers_are_calibrated_per_channel_on_training_views(shared: Subject) -> None:
    form = export_format("int8")
    files = form.files(shared)
    found = verify(form.open(files), answers(shared.student, PIXELS), PIXELS, minimum_cosine=0.99)
    assert found.largest_difference > 1e-4
    graph = load_from_string(files[form.file]).graph
    kinds = [node.op_type for node in graph.node]
    assert "QuantizeLinear" in kinds
    assert "QLinearConv" not in kinds
    scales = [each for each in graph.initializer if each.name.endswith("_scale")]
    assert max(int(np.prod(each.dims)) for each in scales) > 1
    with pytest.raises(NotApplicableError, match="calibrated on training views"):
        form.files(Subject(shared.student, SIZE))


def test_the_view_that_is_said_to_be_timms_is_the_one_that_timm_cuts() -> None:
    transform = timm.data.create_transform(
        input_size=(3, SIZE, SIZE), crop_pct=1.0, interpolation="bicubic", crop_mode="center",
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    for size in ((90, 70), (71, 120), (64, 64), (50, 41)):
        wanted = transform(photo(3, size)).permute(1, 2, 0) * 255
        np.testing.assert_allclose(timm_view(photo(3, size), SIZE), wanted, atol=1e-3)


@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
def test_the_mapping_is_a_file_too(head: Any) -> None:
    mapping = Mapping(24, 16, head).eval()
    latents = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    found = session(mapping_to_onnx(mapping)).run(None, {"latents": latents.numpy()})[0]
    wanted = mapping(latents).numpy(force=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# Convolutions, transformers, and what is between them; how each reads its smallest usual input.
FAMILIES = {
    "resnet18": 64, "mobilenetv4_conv_small": 64, "repvgg_a0": 64, "fastvit_t8": 64,
    "convnext_atto": 64, "efficientnet_b0": 64, "tf_efficientnet_lite0": 64, "regnety_002": 64,
    "mobilevit_xxs": 64, "efficientvit_b0": 64, "tiny_vit_5m_224": 64, "coatnet_nano_rw_224": 64,
    "vit_tiny_patch16_224": 64, "vit_small_patch16_dinov3": 64, "vit_base_patch16_siglip_224": 64,
    "beit_base_patch16_224": 64, "eva02_tiny_patch14_224": 56, "swin_tiny_patch4_window7_224": 56,
    "nest_tiny": 64, "hiera_tiny_224": 64, "maxvit_rmlp_pico_rw_256": 64,
    "deit_tiny_patch16_224": 64,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_a_family_of_timm_is_exported_as_it_is(model: str) -> None:
    size = FAMILIES[model]
    exported = subject(model, 64, size)
    pixels = np.stack([render_view(photo(i), "k", 0, EVAL, size, size) for i in range(33)])
    for name in ("uint8", "timm"):
        form = export_format(name)
        files = form.files(exported)
        found = verify(
            form.open(files),
            answers(exported.student, pixels),
            pixels,
            batch_sizes=form.batch_sizes,
        )
        assert found.smallest_cosine >= 0.9999


def test_the_numbers_beside_a_web_model_are_those_that_it_was_trained_with(shared: Subject) -> None:
    form = export_format("web")
    files = form.files(shared)
    told = json.loads(files["preprocessor_config.json"])
    values = PIXELS[:4].astype(np.float64) * told["rescale_factor"]
    values = (values - told["image_mean"]) / told["image_std"]
    planes = np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)
    (found,) = session(files[form.file]).run(["image_embeds"], {"pixel_values": planes})
    np.testing.assert_allclose(found, answers(shared.student, PIXELS[:4]), atol=1e-5)
