"""Mutations of the losses, the objectives and the mapping."""

from tests.mutations.mutation import Mutation

_COSINE = "tintem_core/losses/cosine.py"
_SNE = "tintem_core/losses/sne.py"
_MAPPED = "tintem_core/objectives/mapped.py"
_FIT = "tintem_core/mapping/fit.py"
_CLOSED = "tintem_core/mapping/closed_form.py"
_LOSS_TESTS = ("tests/tintem_core/losses/test_losses.py",)
_OBJECTIVE_TESTS = ("tests/tintem_core/objectives/test_objectives.py",)
_CLOSED_TESTS = ("tests/tintem_core/mapping/test_closed_form.py",)
_ROWS_TESTS = ("tests/tintem_core/mapping/test_fit_rows.py",)
_MAPPING_TESTS = ("tests/tintem_core/mapping/test_fit.py",)

LOSSES = (
    Mutation(
        "cosine-sign", _COSINE,
        "return 1 - cosines.mean()",
        "return 1 + cosines.mean()",
        "The student turns away from its target.",
        _LOSS_TESTS,
    ),
    Mutation(
        "cosine-per-token", _COSINE,
        "if not per_token:",
        "if per_token:",
        "Tokens are compared one by one where they should count as one vector, and vice versa.",
        _LOSS_TESTS,
    ),
    Mutation(
        "cosine-target-learns", _COSINE,
        "wide(student_BK), wide(target_BK.detach())",
        "wide(student_BK), wide(target_BK)",
        "The target moves towards the student: both may collapse.",
        _LOSS_TESTS,
    ),
    Mutation(
        "centred-cosine-sign", _COSINE,
        "(unit(wide(x)) - centre_K for x",
        "(unit(wide(x)) + centre_K for x",
        "Cosines are taken from the wrong side of the mean target.",
        _OBJECTIVE_TESTS,
    ),
    Mutation(
        "centred-cosine-lengths", _COSINE,
        "(unit(wide(x)) - centre_K for x",
        "(wide(x) - centre_K for x",
        "The centre of unit vectors is taken from vectors of any length.",
        _OBJECTIVE_TESTS,
    ),
    Mutation(
        "pair-cosine-count", _COSINE,
        "(squares / (count * (count - 1)))",
        "(squares / (count * count))",
        "The mean over pairs counts each image with itself.",
        _LOSS_TESTS,
    ),
    Mutation(
        "pair-cosine-precision", _COSINE,
        "unit(mapped_BK.double()), unit(teacher_BD.detach().double())",
        "unit(mapped_BK.float()), unit(teacher_BD.detach().float())",
        "The small gaps of a good mapping drown in rounding.",
        _LOSS_TESTS,
    ),
    Mutation(
        "sne-self-neighbour", _SNE,
        "square.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)",
        "square.diagonal(dim1=-2, dim2=-1).fill_(1.0)",
        "Each image is its own nearest neighbour and leaves the others no probability.",
        _LOSS_TESTS,
    ),
    Mutation(
        "sne-temperature-of-the-gap", _SNE,
        "gap.flatten()) * (scale / tau)",
        "gap.flatten()) * scale",
        "The divergence is no longer one: temperatures count in one of its parts only.",
        _LOSS_TESTS,
    ),
    Mutation(
        "sne-sum-over-temperatures", _SNE,
        "scale = 1 / (2 * count * len(temperatures))",
        "scale = 1 / (2 * count)",
        "The loss is the sum over temperatures instead of their mean.",
        _LOSS_TESTS,
    ),
    Mutation(
        "sne-warmest-temperature", _SNE,
        "0.07, 0.08, 0.09, 0.10)",
        "0.07, 0.08, 0.09, 1.0)",
        "One temperature is ten times the paper's.",
        _LOSS_TESTS,
    ),
    Mutation(
        "sne-radial-gradient", _SNE,
        "(slope_SnK - radial * units_SnK)",
        "slope_SnK",
        "The gradient also points along the vectors, whose lengths the loss does not see.",
        _LOSS_TESTS,
    ),
    Mutation(
        "proteus-sum", "tintem_core/losses/regression.py",
        ".square().mean()",
        ".square().sum()",
        "The baseline's loss grows with the batch and the width.",
        _OBJECTIVE_TESTS,
    ),
)  # fmt: skip

OBJECTIVES = (
    Mutation(
        "centred-weight-ignored", _MAPPED,
        "loss + self._weights.centred_weight * centred",
        "loss + centred",
        "The setting centred_weight has no effect.",
        _OBJECTIVE_TESTS,
    ),
    Mutation(
        "local-weight-ignored", _MAPPED,
        "loss + self._weights.local_weight * local",
        "loss + local",
        "The setting local_weight has no effect.",
        _OBJECTIVE_TESTS,
    ),
    Mutation(
        "head-local-weight-ignored", "tintem_core/objectives/head.py",
        "loss + self._local_weight * local",
        "loss + local",
        "A baseline weighs its tokens otherwise than TinTeM: the comparison is unfair.",
        _OBJECTIVE_TESTS,
    ),
    Mutation(
        "joint-mapping-frozen", _MAPPED,
        "mapping.requires_grad_(joint is not None)",
        "mapping.requires_grad_(False)",
        "A mapping that should be fitted in the student's step stays as it started.",
        _OBJECTIVE_TESTS,
    ),
    Mutation(
        "joint-fit-twice-in-the-student", _MAPPED,
        "return loss + mapping_loss(self._joint, self.mapping, teacher, mapped)",
        "return loss - mapping_loss(self._joint, self.mapping, teacher, mapped)",
        "A joint fit moves the mapping away from the teacher's angles.",
        (*_OBJECTIVE_TESTS, "tests/tintem_core/training/test_loop.py"),
    ),
)  # fmt: skip

MAPPING = (
    Mutation(
        "svd-weakest-first", _CLOSED,
        "vectors[:, ::-1][:, :width].T",
        "vectors[:, :width].T",
        "The mapping keeps the directions in which images hardly differ.",
        _MAPPING_TESTS,
    ),
    Mutation(
        "svd-signs", _CLOSED,
        "basis_KD * np.sign(np.take_along_axis(basis_KD, largest, axis=1))",
        "basis_KD",
        "The mapping depends on the linear algebra library of the machine.",
        _CLOSED_TESTS,
    ),
    Mutation(
        "random-basis-signs", _CLOSED,
        "(q * np.sign(np.diagonal(r))).T",
        "q.T",
        "A random basis is not uniform: its first direction always points to one side.",
        _CLOSED_TESTS,
    ),
    Mutation(
        "pca-centre", _CLOSED,
        "np.outer(mean, mean) / count**2",
        "np.outer(mean, mean) / count",
        "The centre of pca-basis is not the mean.",
        _MAPPING_TESTS,
    ),
    Mutation(
        "orthogonality-scale", _CLOSED,
        "scale = gram.diagonal().mean()",
        "scale = gram.diagonal().max()",
        "The reported orthogonality is not that of the best scale.",
        _MAPPING_TESTS,
    ),
    Mutation(
        "svd-of-rows-as-they-are", _FIT,
        "(batch.numpy() if centre else unit(batch).numpy() for batch in batches)",
        "(batch.numpy() for batch in batches)",
        "Images of long latents decide on the mapping alone, though cosines ignore lengths.",
        _MAPPING_TESTS,
    ),
    Mutation(
        "mixing-leaves-the-bias", "tintem_core/mapping/module.py",
        "self.linear.bias.copy_(rotation_KK @ self.linear.bias.double())",
        "self.linear.bias.copy_(self.linear.bias.double())",
        "A rotation changes angles, as weight and bias turn apart.",
        ("tests/tintem_core/mapping/test_config.py", *_MAPPING_TESTS),
    ),
    Mutation(
        "layernorm-bias-sign", _FIT,
        "linear.weight.sum(dim=1) * ratio",
        "linear.weight.sum(dim=1) * -ratio",
        "A layernorm head starts twice as far from the closed form instead of at it.",
        _MAPPING_TESTS,
    ),
    Mutation(
        "tokens-instead-of-images", _FIT,
        "loss = loss + mapping_loss(config, mapping, tokens)",
        "loss = mapping_loss(config, mapping, tokens)",
        "With tokens at hand, the angles between images are not fitted any more.",
        _ROWS_TESTS,
    ),
    Mutation(
        "moments-of-the-first-rows", _FIT,
        "np.sort(rng.choice(rows, config.moment_rows, replace=False))",
        "np.arange(config.moment_rows)",
        "Of a large cache only its first images, maybe of one class, decide on the closed form.",
        _ROWS_TESTS,
    ),
    Mutation(
        "fit-ignores-the-seed", _FIT,
        "np.random.default_rng([config.seed, 1])",
        "np.random.default_rng([0, 1])",
        "Fits of several seeds see the same batches: their spread is understated.",
        _ROWS_TESTS,
    ),
)  # fmt: skip
