import hashlib

import pytest

from storage.errors import StorageInputError
from storage.identity import canonical_json, content_key, digest, file_digest, make_id, slugify


def test_key_order_does_not_change_the_digest():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_values_without_one_spelling_are_refused(value):
    with pytest.raises(StorageInputError, match="cannot be identified"):
        digest({"a": value})


def test_ids_are_readable_and_differ_with_content():
    name = make_id("EfficientNet Lite0 / 128px", {"a": 1})
    assert name.startswith("efficientnet-lite0-128px-")
    assert len(name.rsplit("-", 1)[1]) == 10
    assert name != make_id("EfficientNet Lite0 / 128px", {"a": 2})
    assert slugify("***") == "x"


def test_content_key_is_blake2b_of_the_bytes():
    assert content_key(b"abc") == hashlib.blake2b(b"abc", digest_size=16).hexdigest()
    assert len(content_key(b"")) == 32


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
