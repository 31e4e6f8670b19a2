"""What a holder does to claims that are not its own."""

import json

import pytest

from storage.errors import LeaseLostError
from storage.lease import hold
from storage.root import open_root

NAME = "students/vit-tiny-0123abcd"
FIRST, SECOND = (f"leases/{NAME}.{generation:06d}.json" for generation in (1, 2))


def test_a_holder_beside_a_newer_claim_has_lost(tmp_path):
    """Whoever takes over creates its claim first, and removes the older one a moment later."""
    root = open_root(tmp_path)
    with hold(root, NAME) as held:
        held.confirm()
        other = {**json.loads(root.read(FIRST)), "pid": 1, "token": "00"}
        root.create(SECOND, json.dumps(other).encode())
        with pytest.raises(LeaseLostError, match=r"process 1 on .* has taken over"):
            held.confirm()


def test_the_end_of_a_holder_leaves_a_claim_of_the_same_generation_to_its_owner(tmp_path):
    """Another took over, ended, and a third one began anew, while this machine was suspended."""
    root = open_root(tmp_path)
    with hold(root, NAME):
        other = {**json.loads(root.read(FIRST)), "token": "00"}
        root.write(FIRST, json.dumps(other).encode())
    assert json.loads(root.read(FIRST)) == other
