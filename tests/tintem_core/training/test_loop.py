"""Training, killed and resumed in one process: the same bytes; and what each setting does."""

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from timm.optim import list_optimizers

from tintem_core.errors import InputError, TintemError
from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.module import Mapping
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student
from tintem_core.objectives.base import Parts
from tintem_core.objectives.registry import build_objective
from tintem_core.training.config import TrainingConfig
from tintem_core.training.loop import train
from tintem_core.training.state import (
    Batch,
    Learner,
    TrainingState,
    check_optimizer,
    start_training,
)

STUDENT = StudentConfig(
    model="test_vit", image_size=32, options={"drop_path_rate": 0.2, "proj_drop_rate": 0.1}
)
CONVNET = StudentConfig(model="test_resnet", image_size=32)
DIM, WIDTH, TOKENS, STEPS_PER_EPOCH = 48, 32, 9, 5
JOINT = MappingConfig(fit="joint", objective="cosine", head="orthogonal")


def batches(first: int, size: int = 8) -> Iterator[Batch]:
    step = first
    while True:
        rng = np.random.default_rng(step)
        yield Batch(
            torch.from_numpy(rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)),
            torch.from_numpy(rng.normal(1, 1, (size, DIM)).astype(np.float16)),
            torch.from_numpy(rng.normal(1, 1, (size, TOKENS, DIM)).astype(np.float16)),
            torch.from_numpy(rng.integers(0, 3, size)),
        )
        step += 1


def start(
    config: TrainingConfig,
    joint: MappingConfig | None = None,
    student: StudentConfig = STUDENT,
    first_epoch: int = 0,
) -> TrainingState:
    head = "linear" if joint is None else joint.head
    objective = build_objective(
        config.objective, Parts(Mapping(DIM, WIDTH, head), config, joint, classes=3), config.seed
    )
    built = build_student(student, WIDTH, config.seed, tokens=config.needs_tokens)
    return start_training(built, objective, config, STEPS_PER_EPOCH, first_epoch=first_epoch)


class KilledError(Exception):
    pass


def run_on(
    run: TrainingState,
    config: TrainingConfig,
    kill_at: int | None = None,
    *,
    kept_at: int | None = None,
    validate: Callable[[Learner], float] | None = None,
) -> bytes | None:
    """Train to the end, or until killed just after a checkpoint; return the last checkpoint.

    Args:
        kept_at: the step whose checkpoint is returned, where it is not the last.
    """
    last: list[bytes] = []

    def keep(step: int, checkpoint: bytes) -> None:
        if kept_at in (None, step):
            last[:] = [checkpoint]
        if step == kill_at:
            raise KilledError

    data = (
        batch if config.needs_tokens else batch._replace(tokens=None)
        for batch in batches(run.step, config.batch_size)
    )
    try:
        train(run, data, config, STEPS_PER_EPOCH, save=keep, save_every_s=-1, validate=validate)
    except KilledError:
        pass
    else:
        assert run.step == config.epochs * STEPS_PER_EPOCH
    return last[0] if last else None


def weights(run: TrainingState) -> bytes:
    tensors = run.result.state_dict()
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def test_int8_embeddings_teach_what_their_float32_values_do() -> None:
    config = TrainingConfig.model_validate(
        {"epochs": 2, "batch_size": 8, "warmup_epochs": 0, "local_weight": 1.0, "accumulation": 3}
    )

    def small(seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        for batch in batches(0):
            yield batch._replace(
                latents=torch.from_numpy(rng.integers(-127, 128, (8, DIM), dtype=np.int8)),
                tokens=torch.from_numpy(rng.integers(-127, 128, (8, TOKENS, DIM), dtype=np.int8)),
                latent_scales=torch.from_numpy(rng.uniform(0.01, 0.1, 8).astype(np.float32)),
                token_scales=torch.from_numpy(rng.uniform(0.01, 0.1, 8).astype(np.float32)),
            )

    def wide(seed: int) -> Iterator[Batch]:
        for batch in small(seed):
            assert batch.tokens is not None
            assert batch.latent_scales is not None
            assert batch.token_scales is not None
            yield Batch(
                batch.pixels,
                batch.latents.float() * batch.latent_scales[:, None],
                batch.tokens.float() * batch.token_scales[:, None, None],
                batch.labels,
            )

    trained = []
    for data in (small(0), wide(0), small(1)):
        run = start(config)
        train(run, data, config, STEPS_PER_EPOCH, save=lambda _step, _data: None)
        trained.append(weights(run))
    assert trained[0] == trained[1]
    assert trained[0] != trained[2]


RECIPES: dict[str, tuple[dict[str, Any], MappingConfig | None]] = {
    "plain": ({}, None),
    "bfloat16": ({"precision": "bfloat16"}, None),
    "float16": ({"precision": "float16", "clip_norm": 1.0}, None),
    "average": ({"ema_decay": 0.9}, None),
    "pieces": ({"accumulation": 3}, None),
    "clipped sgd": (
        {"optimizer": "sgd", "optimizer_options": {"momentum": 0.8}, "clip_norm": 0.1}, None,
    ),
    "everything": (
        {
            "precision": "bfloat16", "ema_decay": 0.9, "accumulation": 2, "clip_norm": 1.0,
            "local_weight": 1.0,
        },
        JOINT,
    ),
    "joint sne": ({}, MappingConfig(fit="joint", objective="sne", head="layernorm")),
    "proteus": ({"objective": "proteus", "local_weight": 0.5}, None),
    "linear-cosine": ({"objective": "linear-cosine", "ema_decay": 0.9}, None),
    "supervised": ({"objective": "supervised"}, None),
    "tanh schedule": ({"schedule": "tanh"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_training_ends_with_the_same_bytes(name: str) -> None:
    changes, joint = RECIPES[name]
    config = TrainingConfig(epochs=3, batch_size=8, **changes)
    whole = start(config, joint)
    run_on(whole, config)
    checkpoint = run_on(start(config, joint), config, kill_at=7)
    resumed = start(config, joint)
    torch.manual_seed(99)
    assert checkpoint is not None
    resumed.restore(checkpoint)
    assert resumed.step == 7
    run_on(resumed, config)
    assert weights(resumed) == weights(whole)
    assert resumed.history == whole.history


def spiky(learner: Learner) -> float:
    """A score that rises and falls from one look at the weights to the next."""
    assert not learner.training
    parameters = learner.student.parameters()
    return math.sin(1e3 * sum(weight.detach().double().sum().item() for weight in parameters))


@pytest.mark.parametrize("name", ["plain", pytest.param("everything", marks=pytest.mark.slow)])
def test_a_choice_of_weights_survives_a_kill_after_any_step(name: str) -> None:
    """Killed after every second step, whose checkpoint is lost, too."""
    changes, joint = RECIPES[name]
    config = TrainingConfig(epochs=5, batch_size=8, validate_every=2, **changes)
    whole = start(config, joint)
    last = run_on(whole, config, validate=spiky)
    seen = [row["validation"] for row in whole.history]
    assert [score is not None for score in seen] == [False, True, False, True, True]
    assert whole.best is not None
    assert whole.best.score == max(score for score in seen if score is not None)
    assert seen[whole.best.epoch - 1] == whole.best.score
    assert spiky(whole.result) == whole.best.score

    kept, end = start(config, joint).to_bytes(), 5 * STEPS_PER_EPOCH
    for step in range(end - 1):
        part = start(config, joint)
        torch.manual_seed(99)
        part.restore(kept)
        assert part.step == step
        kept = run_on(part, config, validate=spiky, kept_at=step + 1, kill_at=step + 2) or b""
    resumed = start(config, joint)
    resumed.restore(kept)
    run_on(resumed, config, validate=spiky)
    assert weights(resumed) == weights(whole)
    assert resumed.history == whole.history
    assert resumed.best is not None
    assert (resumed.best.epoch, resumed.best.score) == (whole.best.epoch, whole.best.score)
    # Killed after its last checkpoint, before anything else was stored.
    ended = start(config, joint)
    ended.restore(last or b"")
    run_on(ended, config, validate=spiky)
    assert weights(ended) == weights(whole)


def test_looking_at_the_weights_does_not_change_the_last_ones() -> None:
    config = TrainingConfig(epochs=4, batch_size=8, validate_every=1)
    run_on(plain := start(config), config)
    looked_at = start(config)
    run_on(looked_at, config, validate=lambda _learner: float(len(looked_at.history)))
    assert looked_at.best is not None
    assert looked_at.best.epoch == 4
    assert weights(plain) == weights(looked_at)


def test_of_equal_scores_the_earliest_counts() -> None:
    config = TrainingConfig(epochs=4, batch_size=8, validate_every=1)
    run = start(config)
    run_on(run, config, validate=lambda _learner: 0.5)
    assert run.best is not None
    assert run.best.epoch == 1


def test_a_checkpoint_without_a_choice_of_weights_still_counts() -> None:
    """As older versions wrote it."""
    config = TrainingConfig(epochs=1, batch_size=8)
    state = torch.load(io.BytesIO(start(config).to_bytes()), weights_only=True)
    del state["best"]
    data = io.BytesIO()
    torch.save(state, data)
    run = start(config)
    run.restore(data.getvalue())
    assert run.best is None


def test_the_random_state_matters_to_the_students_used_here() -> None:
    config = TrainingConfig(epochs=2, batch_size=8)
    first, other = start(config), start(config)
    torch.manual_seed(0)
    run_on(first, config)
    torch.manual_seed(1)
    run_on(other, config)
    assert weights(first) != weights(other)


def test_a_checkpoint_of_another_training_is_refused() -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    checkpoint = start(config, student=CONVNET).to_bytes()
    with pytest.raises(TintemError, match="does not fit this training"):
        start(config).restore(checkpoint)
    with pytest.raises(TintemError, match="does not fit this training"):
        start(config).restore(b"torn")


def with_memory_for(run: TrainingState, images: int) -> TrainingState:
    """Let the student fail as on a GPU whose memory holds no more images than these."""

    def look(_module: torch.nn.Module, pixels: tuple[torch.Tensor]) -> None:
        if len(pixels[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run.learner.student.register_forward_pre_hook(look)
    return run


def test_a_batch_that_does_not_fit_is_computed_in_more_pieces(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = TrainingConfig(epochs=2, batch_size=8)
    told = config.model_copy(update={"accumulation": 4})
    run = with_memory_for(start(config), 2)
    run_on(run, config)
    expected = start(told)
    run_on(expected, told)
    assert run.pieces == 4
    assert weights(run) == weights(expected)
    assert "computed in 4 pieces" in caplog.text


def test_a_resumed_training_remembers_its_pieces() -> None:
    config = TrainingConfig(epochs=2, batch_size=8)
    checkpoint = run_on(with_memory_for(start(config), 3), config, kill_at=7)
    assert checkpoint is not None
    resumed = start(config)
    resumed.restore(checkpoint)
    assert resumed.pieces == 4


def test_a_student_too_large_for_two_images_is_refused() -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    with pytest.raises(TintemError, match="does not hold two images"):
        run_on(with_memory_for(start(config), 0), config)


def test_pieces_of_a_batch_train_like_the_whole_batch() -> None:
    exact = STUDENT.model_copy(update={"options": {}})
    students = []
    for pieces in (1, 3):
        config = TrainingConfig(
            epochs=2, batch_size=8, accumulation=pieces, optimizer="sgd", learning_rate=0.1
        )
        run = start(config, student=exact)
        run_on(run, config)
        students.append(run)
    for one, three in zip(*(run.result.parameters() for run in students), strict=True):
        torch.testing.assert_close(three, one, rtol=1e-4, atol=1e-6)
    assert students[1].history[-1]["loss"] == pytest.approx(students[0].history[-1]["loss"], 1e-5)


def test_the_average_lies_between_the_weights_it_saw_and_batch_norm_is_averaged_too() -> None:
    config = TrainingConfig(epochs=2, batch_size=8, ema_decay=0.8)
    run = start(config, student=CONVNET)
    run_on(run, config)
    assert run.ema is not None
    assert run.result is run.ema.module
    assert not run.result.training
    last, averaged = run.learner.state_dict(), run.result.state_dict()
    moving = [name for name in last if name.endswith("running_mean")]
    assert moving
    for name in moving:
        assert torch.isfinite(averaged[name]).all()
        assert not torch.equal(averaged[name], last[name])


def test_an_average_of_no_memory_is_the_last_weights() -> None:
    config = TrainingConfig(epochs=1, batch_size=8, ema_decay=1e-12)
    run = start(config)
    run_on(run, config)
    for averaged, last in zip(run.result.parameters(), run.learner.parameters(), strict=True):
        torch.testing.assert_close(averaged, last, rtol=1e-5, atol=1e-7)


def test_a_frozen_mapping_stays_and_a_joint_one_is_trained() -> None:
    for joint in (None, JOINT):
        config = TrainingConfig(epochs=1, batch_size=8, ema_decay=0.5)
        run = start(config, joint)
        before = run.learner.objective.mapping.linear.weight.detach().clone()
        run_on(run, config)
        objective = run.result.objective
        after = objective.mapping.linear.weight.detach()
        assert torch.equal(before, after) == (joint is None)
        state = objective.trained_state()
        assert set(state) == (set() if joint is None else {"linear.weight"})
        if joint is not None:
            gram = state["linear.weight"] @ state["linear.weight"].T
            torch.testing.assert_close(gram, torch.eye(WIDTH), rtol=0, atol=1e-5)


def test_the_schedule_warms_up_and_ends_low() -> None:
    config = TrainingConfig(epochs=10, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-6)
    run = start(config)
    rates = []
    for step in range(50):
        run.scheduler.step_update(step)
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(config.warmup_learning_rate)
    assert max(rates) == rates[10] == pytest.approx(1e-3)
    assert rates[-1] < 1e-5


# The last steps of `step` and `multistep` come after four and two decays by 0.1.
ENDS = {
    "cosine": 1e-5, "tanh": 1e-5, "poly": 1e-5, "wsd": 1e-5, "rsqrt": 1e-5,
    "step": 3e-7, "multistep": 3e-5, "constant": 3e-3,
}  # fmt: skip


@pytest.mark.parametrize("schedule", ENDS)
def test_every_schedule_goes_from_the_peak_to_its_end(schedule: Any) -> None:
    config = TrainingConfig(
        epochs=4, batch_size=8, schedule=schedule, warmup_epochs=1,
        decay_epochs=1, decay_milestones=(2, 3),
    )  # fmt: skip
    run = start(config)
    rates = []
    for step in range(4 * STEPS_PER_EPOCH + 1):
        run.scheduler.step_update(step)
        rates.append(run.optimizer.param_groups[0]["lr"])
    after_warm_up = rates[STEPS_PER_EPOCH:]
    assert np.all(np.diff(rates[:STEPS_PER_EPOCH]) > 0)
    assert np.all(np.diff(after_warm_up) <= 0)
    if schedule != "step":
        assert after_warm_up[0] == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(ENDS[schedule], rel=0.01)


def test_settings_that_change_nothing_do_not_change_the_identity() -> None:
    plain = TrainingConfig().identity(cached_views=4)
    same = TrainingConfig(views=4, decay_rate=0.5, power=2.0, local_per_token=True)
    assert same.identity(cached_views=4) == plain
    assert TrainingConfig().identity(cached_views=8) != plain
    for changed in ({"schedule": "poly"}, {"learning_rate": 1e-3}, {"seed": 1}, {"clip_norm": 1}):
        assert TrainingConfig.model_validate(changed).identity(cached_views=4) != plain
    assert TrainingConfig.model_validate(plain).identity(cached_views=4) == plain


def test_a_checkpoint_that_does_not_fit_leaves_the_training_as_it_is() -> None:
    fresh, other = start(TrainingConfig(batch_size=8)), start(TrainingConfig(batch_size=8, seed=1))
    other.step = 7
    state = torch.load(io.BytesIO(other.to_bytes()), weights_only=True)
    for broken in ("pieces", "optimizer", "learner"):
        torn = {**state, broken: {}}
        if broken == "pieces":
            del torn[broken]
        data = io.BytesIO()
        torch.save(torn, data)
        before = {name: tensor.clone() for name, tensor in fresh.learner.state_dict().items()}
        with pytest.raises(TintemError, match="does not fit this training"):
            fresh.restore(data.getvalue())
        assert fresh.step == 0
        for name, tensor in fresh.learner.state_dict().items():
            assert torch.equal(tensor, before[name])


def test_an_optimiser_of_second_order_is_refused() -> None:
    check_optimizer(TrainingConfig(optimizer="lookahead_adamw"))
    with pytest.raises(InputError, match="second derivatives"):
        check_optimizer(TrainingConfig(optimizer="adahessian"))


@pytest.mark.parametrize("name", list_optimizers())
def test_a_check_of_an_optimiser_agrees_with_the_student_and_draws_nothing(name: str) -> None:
    config = TrainingConfig(optimizer=name, batch_size=8)
    before = torch.random.get_rng_state()
    try:
        check_optimizer(config)
    except InputError:
        refused = True
    else:
        refused = False
    assert torch.equal(torch.random.get_rng_state(), before)
    if refused:
        with pytest.raises(InputError):
            start(config)
    else:
        assert start(config).optimizer.param_groups


def test_options_that_an_optimiser_does_not_take_are_named() -> None:
    check_optimizer(TrainingConfig(optimizer="sgd", optimizer_options={"momentum": 0.8}))
    wanted = r"timm cannot build 'lamb' with the options \{'beta': 2\} \(.*beta"
    with pytest.raises(InputError, match=wanted):
        check_optimizer(TrainingConfig(optimizer="lamb", optimizer_options={"beta": 2}))


def test_a_schedule_that_follows_from_the_warm_up_needs_one() -> None:
    with pytest.raises(ValueError, match=r"set training\.warmup_epochs above 0"):
        TrainingConfig(schedule="rsqrt", warmup_epochs=0)
    # Less than half a step.
    run = start(TrainingConfig(epochs=4, batch_size=8, schedule="rsqrt", warmup_epochs=0.01))
    run.scheduler.step_update(STEPS_PER_EPOCH)
    assert 0 < run.optimizer.param_groups[0]["lr"] < 3e-3


def test_an_extension_counts_its_epochs_on_and_starts_a_schedule_of_its_own() -> None:
    config = TrainingConfig(epochs=5, extends=3, batch_size=8, warmup_epochs=0)
    run = start(config, first_epoch=3)
    assert run.step == 3 * STEPS_PER_EPOCH
    rates = []
    data = (batch._replace(tokens=None) for batch in batches(run.step))
    train(
        run, data, config, STEPS_PER_EPOCH,
        save=lambda _step, _data: None,
        on_step=lambda _step, _loss: rates.append(run.optimizer.param_groups[0]["lr"]),
    )  # fmt: skip
    assert len(rates) == 2 * STEPS_PER_EPOCH
    assert rates[0] == pytest.approx(config.learning_rate)
    assert [row["epoch"] for row in run.history] == [4, 5]


def test_an_extension_must_be_longer() -> None:
    with pytest.raises(ValueError, match="extends \\(5\\) must be below epochs \\(5\\)"):
        TrainingConfig(epochs=5, extends=5)


def test_embeddings_that_are_not_a_number_stop_the_training() -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    run = start(config)
    bad = next(batches(0))._replace(tokens=None, latents=torch.full((8, DIM), torch.nan))
    with pytest.raises(TintemError, match="the loss is nan at step 1"):
        train(run, iter([bad]), config, STEPS_PER_EPOCH, save=lambda _s, _d: None)


def test_timms_own_wish_about_weight_decay_is_heard() -> None:
    run = start(TrainingConfig(batch_size=8))
    decays = {
        id(p): group["weight_decay"]
        for group in run.optimizer.param_groups
        for p in group["params"]
    }
    named = dict(run.learner.named_parameters())
    assert decays[id(named["student.backbone.model.pos_embed"])] == 0
    assert decays[id(named["student.backbone.model.blocks.0.attn.qkv.weight"])] == 0.05


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_losses() -> None:
    losses = []
    for compiled in (False, True):
        config = TrainingConfig(epochs=1, batch_size=8)
        run = start(config, student=STUDENT.model_copy(update={"options": {}}))
        data = (batch._replace(tokens=None) for batch in batches(0))
        train(
            run, data, config, STEPS_PER_EPOCH, compiled=compiled,
            save=lambda _step, _data: None,
        )  # fmt: skip
        losses.append(run.history[-1]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
