"""A shard counts once all of it is there, and for the images it was computed for."""

import numpy as np
import pytest

from storage.cache import FeatureCache, ShardTask
from tests.storage.hooked import die


@pytest.mark.parametrize(
    "moment", ["global/c/", "tokens/c/", "tokens_scale/c/", "commits/"], ids=lambda m: m[:-1]
)
def test_a_shard_that_is_written_again_and_killed_is_missing_or_whole(sample, keys, root, moment):
    """Computed again, values may differ in the last bit; files then have the size they had."""
    names = keys(8)
    sample.fill(names)
    (path,) = root.list(f"{sample.cache.base}/tokens/c")
    root.write(path, root.read(path)[:-1])
    (task,) = sample.cache.plan(names)
    arrays = {kind: sample.stacked(names, kind) for kind in ("global", "tokens")}
    changed = {kind: np.nextafter(values, np.float16(9)) for kind, values in arrays.items()}
    root.before("write", moment, die)
    with pytest.raises(KeyboardInterrupt):
        sample.cache.write_shard(task, changed)
    again = FeatureCache.open(root, sample.cache.id)
    assert again.missing(names) == names
    again.write_shard(task, arrays)
    np.testing.assert_array_equal(again.reader(names).all(0), arrays["global"][0])


def test_a_shard_of_other_images_is_written_over(sample, keys):
    names, others = keys(8), keys(8, seed=1)
    sample.fill(names)
    arrays = {kind: sample.stacked(others, kind) for kind in ("global", "tokens")}
    sample.cache.write_shard(ShardTask(0, tuple(others)), arrays)
    # Its record is about other images now than the row table: nothing is read for the first ones.
    assert sample.cache.missing(names) == names
