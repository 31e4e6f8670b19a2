"""Files seen as one stretch of memory lie beside each other, whatever their sizes."""

import numpy as np
import pytest

from storage.cache.region import Region


@pytest.mark.parametrize("sizes", [[5 * 2**20 + 3, 1, 4097, 3 * 2**20, 70], [3] * 20])
@pytest.mark.parametrize("is_mapped", [True, False])
def test_no_file_lies_over_another(tmp_path, sizes, is_mapped):
    region = Region(np.array(sizes, np.int64), loaded=not is_mapped)
    rng = np.random.default_rng(0)
    contents = [rng.bytes(size) for size in sizes]
    for place, content in enumerate(contents):
        if is_mapped and region.can_map:
            path = tmp_path / str(place)
            path.write_bytes(content)
            region.map_file(place, path, len(content))
        else:
            region.load(place, content)
    for place, content in enumerate(contents):
        assert region.view(place, len(content)).tobytes() == content
    region.clear(1)
    for place in (0, 2):
        assert region.view(place, sizes[place]).tobytes() == contents[place]
