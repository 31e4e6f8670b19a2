"""The limits of a card say what was measured, and nothing where nothing was."""

from flows.reporting.limits import limits


def test_each_limit_is_a_measure_in_words() -> None:
    found = limits(
        {
            "student/test/r2_to_mapped": 0.707,
            "student/test/same_photo_at_1": 0.329,
            "student/far/fpr95": 0.0,
            "student/far/pairwise_pearson": 0.085,
            "student/near/fpr95": 0.31,
            "student/near/pairwise_pearson": 0.9,
            "teacher/near/fpr95": 0.0,
        }
    )
    assert len(found) == 4
    assert "71% of the variance" in found[0]
    assert "first in 33% of the cases: it is no substitute" in found[1]
    assert found[2].startswith("Among photos of far it does not keep the teacher's angles")
    assert found[2].endswith("but not from each other.")
    assert found[3] == "With 95% of the usual photos let pass, 31% of near pass too."


def test_a_student_that_lacks_nothing_is_not_said_to() -> None:
    found = limits({"student/test/same_photo_at_1": 1.0, "student/near/fpr95": 0.01})
    assert len(found) == 1
    assert "substitute" not in found[0]
    assert limits({}) == []
