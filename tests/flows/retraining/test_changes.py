"""A photo that was saved anew, with the same pixels, is no news."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from flows.config.retraining import NightlyConfig
from flows.data.dataset import Dataset
from flows.retraining.changes import Changes
from flows.retraining.decision import trigger
from storage.images import SourceConfig, build_manifest


def listed(folder: Path) -> Dataset:
    return Dataset(build_manifest(SourceConfig(name="shapes", uri=str(folder), test_share=0.3)))


def test_photos_saved_anew_are_not_new_and_are_counted(
    photo_folder: Callable[..., Path],
) -> None:
    folder = photo_folder(20)
    known = listed(folder)
    for path in sorted(folder.iterdir())[:5]:
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    photo_folder(2, first=20)

    news = Changes(known, listed(folder))

    assert len(news.new.keys()) == 2
    assert (news.saved_anew, news.gone) == (5, 0)
    assert news.as_record()["saved_anew"] == 5
    assert "5 are saved anew" in news.aside


def test_a_test_photo_that_was_learned_from_is_found_by_its_pixels(
    photo_folder: Callable[..., Path],
) -> None:
    folder = photo_folder(30)
    known = listed(folder)
    for path in sorted(folder.iterdir()):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    tonight = listed(folder)
    pixels = {
        split: set(dataset.manifest.select(split)["pixels"])
        for split, dataset in (("train", known), ("test", tonight))
    }

    news = Changes(known, tonight)

    assert not news.new.keys()
    assert news.learned_and_tested == len(pixels["train"] & pixels["test"]) > 0


def test_nothing_is_said_where_nothing_was_saved_anew(photo_folder: Callable[..., Path]) -> None:
    same = listed(photo_folder(20))
    assert "saved_anew" not in Changes(same, same).as_record()
    assert Changes(same, same).aside == ""


def test_growth_is_new_photos_to_learn_from_and_just_enough_is_enough(
    photo_folder: Callable[..., Path],
) -> None:
    known = listed(photo_folder(30))
    news = Changes(known, listed(photo_folder(12, first=30)))
    learned = [len(news.new.keys("train")), len(known.keys("train"))]
    assert 0 < learned[0] < len(news.new.keys()) == 12
    assert news.growth == learned[0] / learned[1]
    for wanted, reasons in ((news.growth, 1), (news.growth + 1e-9, 0)):
        nightly = NightlyConfig(growth=wanted, drift=None, gates=())
        assert len(trigger(nightly, news, None, force=False).reasons) == reasons
