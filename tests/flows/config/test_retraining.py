"""A nightly section that could only fail in the night is refused when it is read."""

from typing import Any

import pytest

from flows.config.checks import metrics_of
from flows.config.load import load_config, parse_config
from flows.config.run import RunConfig
from flows.config.variants import keeps_mapping, retrained_students
from tests.runs import write_config
from tintem_core.errors import InputError
from tintem_core.evaluation.metrics import known_metrics

BASE: dict[str, Any] = {
    "data": {"name": "solar cells", "uri": "/photos"},
    "teacher": {"model": "t"},
    "student": {"model": "small"},
    "evaluation": {"ood": [{"name": "textiles", "uri": "/textiles"}]},
}


def run(nightly: dict[str, Any], **sections: Any) -> RunConfig:
    return parse_config({**BASE, **sections, "nightly": nightly}, "run.yaml")


def test_a_run_has_a_night_without_saying_so() -> None:
    (student,) = retrained_students(parse_config(BASE, "run.yaml"))
    assert (student.name, student.line) == ("small", "small-solar-cells")
    assert student.config.nightly.gates[0].metric == "student/test/pairwise_pearson"


def test_students_are_runs_with_other_settings_and_lines_of_their_own() -> None:
    first, second = retrained_students(
        run({"students": [{"training.epochs": 3}, {"name": "tiny", "student": {"image_size": 32}}]})
    )
    assert (first.line, first.config.training.epochs) == ("small-solar-cells", 3)
    assert (second.line, second.config.student.image_size) == ("tiny-solar-cells", 32)
    assert second.config.student.model == "small"


def line_of(data: str, student: str = "test_resnet") -> str:
    sections = {"data": {"name": data, "uri": "/photos"}, "student": {"model": student}}
    (found,) = retrained_students(parse_config({**BASE, **sections}, "run.yaml"))
    return found.line


def test_data_and_students_whose_letters_differ_share_no_line() -> None:
    assert line_of("shapes") == "test-resnet-shapes"
    names = ["cells", "Cells", "太陽電池", "織物", "zelle-ä", "zelle-a"]
    lines = {name: line_of(name) for name in names}
    assert len(set(lines.values())) == len(names)
    assert lines["cells"] == "test-resnet-cells"
    assert lines["Cells"].startswith("test-resnet-cells-")
    assert line_of("zelle-a\N{COMBINING DIAERESIS}") == lines["zelle-ä"]
    small, large = retrained_students(run({"students": [{"name": "小"}, {"name": "大"}]}))
    assert small.line != large.line


@pytest.mark.parametrize(
    ("nightly", "said"),
    [
        ({"gates": [{"metric": "student/test/pearson", "minimum": 0.5}]},
            r"nightly\.gates\[0\]: 'student/test/pearson' is not measured for small \(known, "
            r"closest first: student/test/pairwise_pearson, .*student/textiles/auroc"),
        ({"gates": [{"metric": "student/test/knn"}]}, "student/test/knn asks for nothing: give"),
        ({"gates": [{"metric": "student/test/knn", "minimum": 0.9, "maximum": 0.8}]},
            "can never open: minimum 0.9 is above maximum 0.8"),
        ({"students": [{}, {"training.epochs": 2}]}, "two students are named 'small': give each"),
        ({"students": [{"name": "a b"}, {"name": "a_b"}]},
            "'a b' and 'a_b' would both be kept under latest/a-b-solar-cells: give one of them"),
        ({"students": [{"student.modell": "x"}]},
            r"^found 1 error in run.yaml: nightly.students\[0\]: 'student.modell' is not"),
        ({"students": [{"data.uri": "/x"}]}, "'data.uri' is the same for all students of a night"),
        ({"students": [{"name": 3}]}, "named 3: a name is a text"),
        ({"students": [{"training.objective": "proteus"}],
          "gates": [{"metric": "student/test/cosine_to_mapped", "minimum": 0.5}]},
            r"not measured for small \(known, closest first: head/test/cosine_to_mapped,"),
        ({"keep_mapping": False, "warm_start": True}, "set keep_mapping to true, or warm_start"),
        ({"warm_start": True, "students": [{"mapping.fit": "joint"}]},
            r"warm_start: small fits its mapping while it learns .*set warm_start to false"),
        ({"growth": 0}, r"'nightly\.growth' is 0"),
        ({"growht": 1}, r"'nightly\.growht' is not a setting: did you mean 'growth'\?"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_a_sentence(nightly: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(nightly)


def test_tokens_through_a_mapping_that_changes_every_night_are_refused() -> None:
    cache = {"tokens": True, "keep_mapped": True}
    assert run({"growth": 0.5}, cache=cache).nightly.keep_mapping
    with pytest.raises(InputError, match="every night that trains would embed all of them again"):
        run({"keep_mapping": False}, cache=cache)


def test_a_config_that_says_every_default_is_the_same_run() -> None:
    joint = run({"growth": 0.5}, mapping={"fit": "joint"})
    assert not keeps_mapping(joint)
    assert parse_config(joint.model_dump(mode="json"), "form") == joint


def test_initial_weights_of_a_student_are_relative_to_the_file(
    tmp_path: Any, settings: dict[str, Any]
) -> None:
    settings["nightly"] = {"students": [{"student.weights": "start.safetensors"}]}
    (student,) = retrained_students(load_config(write_config(tmp_path, settings)))
    assert student.config.student.weights == str(tmp_path / "start.safetensors")


def test_the_heads_of_baselines_and_single_teachers_are_measured_too() -> None:
    assert "head/test/cosine_to_mapped" in known_metrics("head")
    assert "student/test/cosine_to_mapped" not in known_metrics("head")
    assert not any(name.startswith("head") for name in known_metrics(None))
    two = run({"growth": 1}, other_teachers=[{"model": "t"}])
    assert "student against t (2)/textiles/cka_linear" in metrics_of(two)
