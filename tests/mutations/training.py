"""Mutations of views, batches, training, checkpoints and exports."""

from tests.mutations.mutation import Mutation

_VIEWS = "tintem_core/views.py"
_DECODE = "tintem_pixels/decode.py"
_STATE = "tintem_core/training/state.py"
_LOOP = "tintem_core/training/loop.py"
_LOADER = "flows/data/loader.py"
_ONNX = "tintem_core/export/onnx.py"
_CROP_TESTS = ("tests/tintem_core/test_crops.py",)
_STATE_TESTS = ("tests/tintem_core/training/test_state.py",)
_ORDER_TESTS = ("tests/tintem_core/training/test_order.py",)
_LOADER_TESTS = ("tests/flows/data/test_loader.py",)
_EXPORT_TESTS = ("tests/tintem_core/export/test_onnx.py",)

VIEWS = (
    Mutation(
        "flip-upside-down", _VIEWS,
        "upright.flip(1) if mirrored",
        "upright.flip(0) if mirrored",
        "Views stand on their heads instead of being mirrored.",
        ("tests/tintem_core/test_views.py::test_flips_happen_as_often_as_asked",),
    ),
    Mutation(
        "flip-probability", _VIEWS,
        "mirrored = rng.random() < recipe.flip",
        "mirrored = rng.random() < 0.5",
        "The setting flip has no effect.",
        _CROP_TESTS,
    ),
    Mutation(
        "view-index-in-the-seed", _VIEWS,
        'text = f"{key}/{view}/{',
        'text = f"{key}/0/{',
        "All views of an image are the same.",
        ("tests/tintem_core/test_views.py::test_views_differ_between_indices_keys_and_recipes",),
    ),
    Mutation(
        "seed-from-the-identity", _VIEWS,
        "sorted(recipe.cutting().items())",
        "sorted(recipe.identity().items())",
        "Views are cut elsewhere than where the teacher's cached embeddings were.",
        _CROP_TESTS,
    ),
    Mutation(
        "crop-aspect-ratio", _VIEWS,
        "min(float(np.sqrt(area / ratio)), float(height))",
        "min(float(np.sqrt(area * ratio)), float(height))",
        "Every crop is a square, whatever max_ratio says.",
        _CROP_TESTS,
    ),
    Mutation(
        "crop-smallest-area", _VIEWS,
        "rng.uniform(recipe.min_scale, 1.0)",
        "rng.uniform(0.0, 1.0)",
        "Crops are smaller than min_scale.",
        _CROP_TESTS,
    ),
    Mutation(
        "crop-place", _VIEWS,
        "left = rng.uniform(0, 1) * (width - crop_width)",
        "left = rng.uniform(0, 0) * (width - crop_width)",
        "Every crop begins at the left edge.",
        _CROP_TESTS,
    ),
    Mutation(
        "augmented-at-the-students-size", _VIEWS,
        "base = _cut(image, base_size, box, mirrored=mirrored)",
        "base = _cut(image, size, box, mirrored=mirrored)",
        "Student and teacher see other augmentations of the same view.",
        ("tests/tintem_core/test_views.py::test_two_resolutions_show_the_same_crop",),
    ),
    Mutation(
        "resampling-not-in-the-identity", _VIEWS,
        'return found if is_first else {**found, "resampling": _RESAMPLING_VERSION}',
        "return found",
        "Embeddings of views that were resampled otherwise are reused.",
        _CROP_TESTS,
    ),
    Mutation(
        "no-antialiasing", _VIEWS,
        'mode="bicubic", antialias=True)',
        'mode="bicubic", antialias=False)',
        "Small views of large photos hold noise that no device will see.",
        ("tests/tintem_core/test_views.py::test_crops_are_resampled_as_pillow_does",),
    ),
    Mutation(
        "decoded-too-small", _VIEWS,
        "math.sqrt(self.max_ratio / self.min_scale)",
        "math.sqrt(self.min_scale / self.max_ratio)",
        "Crops of large photos are blurred, as they were decoded smaller than needed.",
        ("tests/tintem_core/test_views.py::test_a_large_jpeg_is_decoded_smaller_and_shows_the_same_crop",),
    ),
    Mutation(
        "turned-photos-unpacked", _DECODE,
        "unpacked(data, opened) if _is_upright(opened) else None",
        "unpacked(data, opened)",
        "Students learn photos of upright cameras lying on their sides.",
        ("tests/tintem_pixels/test_jpeg.py::test_turned_photos_stand_upright",),
    ),
)  # fmt: skip

BATCHES = (
    Mutation(
        "same-order-every-epoch", "tintem_core/training/order.py",
        "_permute(positions, self.rows, (self.seed, epoch))",
        "_permute(positions, self.rows, (self.seed, 0))",
        "Batches are the same in every epoch.",
        _ORDER_TESTS,
    ),
    Mutation(
        "row-beyond-the-last", "tintem_core/training/order.py",
        "inside = out[todo] < size",
        "inside = out[todo] <= size",
        "An order may hold a row that does not exist.",
        _ORDER_TESTS,
    ),
    Mutation(
        "ranks-see-the-same-photos", _LOADER,
        "first = (position * self._processes + self._rank) * self._photos",
        "first = position * self._processes * self._photos",
        "Every process trains on the same part of a batch.",
        _LOADER_TESTS,
    ),
    Mutation(
        "views-take-no-turns", _LOADER,
        "views = (rows + epoch - before)[seen] % self._views",
        "views = rows[seen] % self._views",
        "A photo is seen in one of its views only.",
        _LOADER_TESTS,
    ),
    Mutation(
        "latents-of-another-view", _LOADER,
        "getattr(taught, kind).take_stored(views, numbers)",
        "getattr(taught, kind).take_stored(np.zeros_like(views), numbers)",
        "The student is asked for the embedding of other pixels than it sees.",
        _LOADER_TESTS,
    ),
    Mutation(
        "labels-of-other-photos", _LOADER,
        "torch.from_numpy(self._labels[rows])",
        "torch.from_numpy(self._labels[np.sort(rows)])",
        "Labels do not belong to the photos beside them.",
        _LOADER_TESTS,
    ),
    Mutation(
        "evaluation-view-of-no-photo", _LOADER,
        "np.floor(count * self._evaluation_share + phase)",
        "np.floor(count * self._evaluation_share)",
        "All photos are seen in their evaluation view in the same epoch, and in no other.",
        _LOADER_TESTS,
    ),
)  # fmt: skip

TRAINING = (
    Mutation(
        "resume-without-random-state", _STATE,
        "self.is_exact = set_random_state(random)",
        "self.is_exact = True",
        "A resumed training drops other paths than one that was never killed.",
        ("tests/tintem_core/training/test_loop.py::test_a_killed_training_ends_with_the_same_bytes",),
    ),
    Mutation(
        "resume-without-average", _STATE,
        'self.ema.module.load_state_dict(state["ema"])',
        'self.ema.module.load_state_dict(state["learner"])',
        "A resumed training forgets the average of its weights.",
        ("tests/tintem_core/training/test_loop.py::test_a_killed_training_ends_with_the_same_bytes",),
    ),
    Mutation(
        "resume-without-epoch-loss", _STATE,
        "self.epoch_loss.fill_(epoch_loss)",
        "self.epoch_loss.fill_(0)",
        "The loss of the epoch in which a training was resumed is too low.",
        ("tests/tintem_core/training/test_loop.py::test_a_killed_training_ends_with_the_same_bytes",),
    ),
    Mutation(
        "resume-without-loss-scale", _STATE,
        "self.scaler.load_state_dict(scaler)",
        "self.scaler.load_state_dict(self.scaler.state_dict())",
        "A resumed float16 training scales its loss otherwise than one never killed.",
        _STATE_TESTS,
    ),
    Mutation(
        "resume-without-the-best", _STATE,
        "self.best = pieces, step, history, best",
        "self.best = pieces, step, history, None",
        "A resumed training may end with worse weights than it had seen.",
        ("tests/tintem_core/training/test_loop.py::test_a_choice_of_weights_survives_a_kill_after_any_step",),
    ),
    Mutation(
        "extension-counts-from-zero", _LOOP,
        "run.scheduler.step_update(run.step - run.first_step)",
        "run.scheduler.step_update(run.step)",
        "An extended training begins in the midst of its learning-rate schedule.",
        ("tests/tintem_core/training/test_loop.py::test_an_extension_counts_its_epochs_on_and_starts_a_schedule_of_its_own",),
    ),
    Mutation(
        "latest-of-equal-scores", _LOOP,
        "score > run.best.score",
        "score >= run.best.score",
        "Of equally good weights those trained longest are kept, not the first.",
        ("tests/tintem_core/training/test_loop.py::test_of_equal_scores_the_earliest_counts",),
    ),
    Mutation(
        "best-weights-go-on-learning", _LOOP,
        'tensor.detach().to("cpu", copy=True)',
        "tensor.detach()",
        "The best weights are overwritten by the last ones.",
        ("tests/tintem_core/training/test_loop.py::test_a_choice_of_weights_survives_a_kill_after_any_step",),
    ),
    Mutation(
        "pieces-weigh-the-same", _LOOP,
        "share = len(piece[0]) / images",
        "share = 1 / count",
        "Images in a smaller piece of a batch count more.",
        ("tests/tintem_core/training/test_loop.py::test_pieces_of_a_batch_train_like_the_whole_batch",),
    ),
    Mutation(
        "clips-scaled-gradients", _LOOP,
        "run.scaler.unscale_(run.optimizer)",
        "pass",
        "In float16, gradients are clipped to a small part of clip_norm.",
        _STATE_TESTS,
    ),
    Mutation(
        "int8-tokens-unscaled", "tintem_core/training/state.py",
        "tokens = _scaled(tokens, there.token_scales)",
        "tokens = tokens.float()",
        "Patch tokens of an int8 cache are learnt without their scales.",
        ("tests/flows/data/test_loader.py",),
    ),
    Mutation(
        "int8-batch-mixes-scales", "flows/data/loader.py",
        "None if scales[0] is None else gathered(scales)",
        "None if scales[0] is None else torch.from_numpy(np.concatenate(scales))",
        "Embeddings of an int8 cache get the scales of other photos of the batch.",
        ("tests/flows/data/test_loader.py",),
    ),
    Mutation(
        "running-variance-biased", "tintem_core/training/batch_norm.py",
        "unbiased = variance * count / max(1, count - 1)",
        "unbiased = variance",
        "Batch norm over several processes keeps other statistics than on one.",
        ("tests/tintem_core/training/test_batch_norm.py",),
    ),
)  # fmt: skip

EXPORT = (
    Mutation(
        "export-multiplies-by-std", _ONNX,
        'helper.make_node("Div", ["front_centred", "front_std"], [NORMALISED])',
        'helper.make_node("Mul", ["front_centred", "front_std"], [NORMALISED])',
        "The exported model sees pixels of another contrast than the student was trained on.",
        _EXPORT_TESTS,
    ),
    Mutation(
        "export-std-is-the-mean", _ONNX,
        '"front_std": backbone.std.numpy',
        '"front_std": backbone.mean.numpy',
        "The exported model divides by the wrong numbers.",
        _EXPORT_TESTS,
    ),
    Mutation(
        "export-normalises-twice", _ONNX,
        "alike.backbone.mean.zero_()",
        "alike.backbone.mean.add_(0)",
        "The mean is subtracted in the graph and in front of it.",
        _EXPORT_TESTS,
    ),
    Mutation(
        "export-turns-images", _ONNX,
        "perm=[0, 3, 1, 2]",
        "perm=[0, 3, 2, 1]",
        "The model that takes whole numbers sees images mirrored along their diagonal.",
        ("tests/tintem_core/export/test_formats.py", "tests/tintem_core/export/test_outliers.py"),
    ),
    Mutation(
        "parity-lets-nan-pass", "tintem_core/export/parity.py",
        "if not worst >= minimum_cosine:",
        "if worst < minimum_cosine:",
        "A model that gives NaN is published.",
        _EXPORT_TESTS,
    ),
    Mutation(
        "parity-of-the-mean", "tintem_core/export/parity.py",
        "worst = float(cosine.min())",
        "worst = float(cosine.max())",
        "A model that is wrong on all photos but one is published.",
        _EXPORT_TESTS,
    ),
    Mutation(
        "outliers-are-the-usual", "tintem_core/export/outliers.py",
        'helper.make_node("Less", [SCORE',
        'helper.make_node("Greater", [SCORE',
        "A device takes the photos of the training for strange.",
        ("tests/tintem_core/export/test_outliers.py",),
    ),
    Mutation(
        "web-pixels-not-rescaled", "tintem_core/export/web.py",
        '"rescale_factor": 1 / 255',
        '"rescale_factor": 1 / 256',
        "transformers.js gives the model other numbers than it was trained on.",
        ("tests/tintem_core/export/test_formats.py",),
    ),
)  # fmt: skip
