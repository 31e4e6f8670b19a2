import numpy as np
import pytest

from tests.photos import photo
from tintem_core.errors import NotApplicableError
from tintem_core.evaluation.ood import Bank, nearest_cosine
from tintem_core.export.formats import OutlierBank, Subject
from tintem_core.export.onnx import UINT8
from tintem_core.export.outliers import OUTLIERS
from tintem_core.export.runtime import session
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student
from tintem_pixels import centre_crop

SIZE = 32


def test_the_graph_scores_as_the_evaluation_does() -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=SIZE), 16, seed=0).eval()
    images = np.stack([centre_crop(photo(i), SIZE) for i in range(9)])
    plain = UINT8.open(UINT8.files(Subject(student, SIZE)))(images)
    bank = plain[:4] / np.linalg.norm(plain[:4], axis=1, keepdims=True)
    wanted = nearest_cosine(Bank(bank))(plain)
    least = float(np.median(wanted[4:]))
    files = OUTLIERS.files(Subject(student, SIZE, outliers=OutlierBank(bank, least)))
    opened = session(files["student_ood.onnx"])
    embedding, score, is_ood = opened.run(["embedding", "ood_score", "is_ood"], {"image": images})
    np.testing.assert_allclose(embedding, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(score, wanted, atol=1e-5)
    np.testing.assert_allclose(score[:4], 1, atol=1e-5)
    assert is_ood.dtype == bool
    far = np.abs(score - least) > 1e-5
    assert (is_ood == (score < least))[far].all()
    assert 0 < is_ood.sum() < 5
    assert opened.run(["ood_score"], {"image": images[:1]})[0].shape == (1,)


def test_without_a_bank_there_is_no_such_file() -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=SIZE), 16, seed=0)
    with pytest.raises(NotApplicableError, match="no embeddings"):
        OUTLIERS.files(Subject(student, SIZE))
