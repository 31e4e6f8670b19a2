"""Who holds a lease, who has ended, and what of theirs is only left over."""

import json
import os
import subprocess
import sys

import pytest

from storage import holders as module
from storage.errors import HeldError
from storage.holders import hold_at_once, holders
from storage.lease import hold
from storage.root import open_root

NAME = "students/vit-tiny-0123abcd"


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    place = tmp_path / "root" if request.param == "folder" else request.getfixturevalue("s3_url")
    return open_root(place)


def killed(root, name=NAME, **changes):
    """A claim of a process that has ended, or that seems to be of elsewhere."""
    with hold(root, "example"):
        (path,) = root.list("leases")
        claim = json.loads(root.read(path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    root.write(
        f"leases/{name}.000001.json", json.dumps(claim | {"pid": gone.pid} | changes).encode()
    )
    root.write(f"leases/{name}.000001.{claim['token']}.beat", b"3")


def test_a_lease_of_this_process_is_live_until_it_ends(root):
    with hold(root, NAME):
        found = holders(root)
        assert f"process {os.getpid()} on " in found.live[NAME]
        assert found.ended == {}
        assert found.of(NAME) == found.of("students") == found.live[NAME]
        assert found.of("students/vit") is None
    assert holders(root).live == {}


def test_what_a_killed_process_left_is_told_and_its_place_is_free(root):
    killed(root)
    found = holders(root)
    assert found.live == {}
    assert sorted(found.ended[NAME]) == root.list("leases")
    with hold_at_once(root, NAME):
        # Taken over: nothing of the one before is left.
        assert len(root.list("leases")) == 1
    assert root.list("leases") == []


def test_nobody_waits_for_a_live_holder(root):
    held = pytest.raises(HeldError, match=f"process {os.getpid()} on .* works on {NAME}")
    with hold(root, NAME):
        with held, hold_at_once(root, NAME):
            pytest.fail("held twice")
        assert len(root.list("leases")) == 1


def test_a_holder_of_another_machine_counts_as_live_until_it_was_silent_for_a_day(
    root, monkeypatch
):
    killed(root, place="elsewhere")
    assert list(holders(root).live) == [NAME]
    monkeypatch.setattr(module, "_SILENT_SECONDS", -1)
    assert list(holders(root).ended) == [NAME]


def test_a_beat_without_its_claim_is_left_over(root):
    killed(root)
    root.delete(f"leases/{NAME}.000001.json")
    assert list(holders(root).ended) == [NAME]


def test_of_a_live_and_an_ended_claim_the_name_is_live(root):
    killed(root)
    claim = root.read(f"leases/{NAME}.000001.json")
    living = json.loads(claim) | {"place": "elsewhere"}
    root.write(f"leases/{NAME}.000002.json", json.dumps(living).encode())
    found = holders(root)
    assert list(found.live) == [NAME]
    assert found.ended == {}
