"""Mutations of what is recorded: artifacts, ids, leases, the model registry."""

from tests.mutations.mutation import Mutation

_ARTIFACTS = "storage/artifacts.py"
_LEASE, _CLAIM = "storage/lease.py", "storage/claim.py"
_REGISTRY = "storage/registry.py"
_RECORDS = "storage/records.py"
_ARTIFACT_TESTS = ("tests/storage/test_artifacts.py",)
_RACE_TESTS = ("tests/storage/test_lease_races.py",)
_REGISTRY_TESTS = ("tests/storage/test_registry.py",)

ARTIFACTS = (
    Mutation(
        "artifact-record-first", _ARTIFACTS,
        '    for name, data in files.items():\n        root.write(f"{kind}/{id}/{name}", data)\n'
        "    _write_record(root, kind, id, full)\n",
        "    _write_record(root, kind, id, full)\n"
        '    for name, data in files.items():\n        root.write(f"{kind}/{id}/{name}", data)\n',
        "An artifact counts before its files are there.",
        _ARTIFACT_TESTS,
    ),
    Mutation(
        "artifact-rewritten-in-place", _ARTIFACTS,
        'root.delete(f"{kind}/{id}/{RECORD}")',
        "del taken",
        "While its files are replaced, an artifact still counts as whole.",
        _ARTIFACT_TESTS,
    ),
    Mutation(
        "artifact-digest-ignored", _ARTIFACTS,
        'known["sha256"] != hashlib.sha256(data).hexdigest():',
        'known["bytes"] != len(data):',
        "A damaged model of the right size is used.",
        _ARTIFACT_TESTS,
    ),
    Mutation(
        "artifact-digest-not-verified", _ARTIFACTS,
        'elif hashlib.sha256(data).hexdigest() != fact["sha256"]:',
        'elif not fact["sha256"]:',
        "tintem verify finds no damage that leaves a file its size.",
        _ARTIFACT_TESTS,
    ),
    Mutation(
        "artifact-without-a-file", _ARTIFACTS,
        'if sizes.get(f"{base}/{name}") != fact["bytes"]]',
        'if sizes.get(f"{base}/{name}", 0) > fact["bytes"]]',
        "An artifact that lost a file is reused.",
        _ARTIFACT_TESTS,
    ),
    Mutation(
        "artifact-of-another-id", _ARTIFACTS,
        'if found != f"{kind}/{id}":',
        'if not found.startswith(f"{kind}/"):',
        "A record that was copied here stands for something that was never made.",
        _ARTIFACT_TESTS,
    ),
    Mutation(
        "seal-not-compared", _RECORDS,
        "if payload.pop(_SEAL, None) != digest(payload)[:16]:",
        "if payload.pop(_SEAL, None) is None:",
        "A record in which a number was changed is believed.",
        (*_ARTIFACT_TESTS, *_REGISTRY_TESTS),
    ),
    Mutation(
        "id-depends-on-the-order-of-keys", "storage/identity.py",
        'spec, sort_keys=True, separators=(",", ":")',
        'spec, separators=(",", ":")',
        "The same settings in another order are made anew.",
        ("tests/storage/test_identity.py",),
    ),
    Mutation(
        "keys-that-share-a-hash", "storage/keys.py",
        'return found.select(row=pl.when(is_same).then("row"))["row"]',
        'return found["row"]',
        "An image that is not there gets the row of another one.",
        ("tests/storage/test_keys.py",),
    ),
    Mutation(
        "keys-in-any-order", "storage/keys.py",
        'text = keys.str.join("\\n")[0] if isinstance(keys, pl.Series) else "\\n".join(keys)',
        'text = "\\n".join(sorted(keys))',
        "A shard of the same images in another order counts as theirs.",
        ("tests/storage/test_keys.py",),
    ),
)  # fmt: skip

LEASES = (
    Mutation(
        "lease-no-patience", _LEASE,
        "return self._silent[generation] > self._patience.silent_seconds",
        "return self._silent[generation] > 0",
        "Work is taken from a process that is alive.",
        ("tests/storage/test_lease.py::test_a_claim_that_cannot_be_read_is_waited_for_like_a_silent_one",),
    ),
    Mutation(
        "lease-same-generation", _LEASE,
        "generation = max(over, default=0) + 1",
        "generation = max(over, default=1)",
        "Work of a process that was killed is never taken over.",
        ("tests/storage/test_lease.py::test_one_killed_between_its_claim_and_its_second_look_stands_in_nobodys_way",),
    ),
    Mutation(
        "lease-confirms-always", _LEASE,
        "if claims.get(self._generation) == self._claim and newest == self._generation:",
        "if newest >= 0:",
        "A process that was suspended writes over the one that took over.",
        ("tests/storage/test_lease.py::test_a_holder_that_slept_too_long_is_told_before_it_writes",),
    ),
    Mutation(
        "lease-confirms-beside-a-newer-claim", _LEASE,
        "if claims.get(self._generation) == self._claim and newest == self._generation:",
        "if claims.get(self._generation) == self._claim:",
        "Two work at once between a claim and the removal of the one before.",
        _RACE_TESTS,
    ),
    Mutation(
        "lease-no-second-look", _LEASE,
        "if any(over.get(g) != data for g, data in others.items()):",
        "if any(g not in over for g in others):",
        "A claim that has changed hands meanwhile is taken from the living.",
        ("tests/storage/test_lease.py::test_a_claim_made_while_the_last_one_changed_hands_is_withdrawn",),
    ),
    Mutation(
        "lease-withdraws-what-is-anothers", _LEASE,
        "if self._root.read_or_none(self._path) == self._claim:",
        "if self._root.read_or_none(self._path) is not None:",
        "Who was taken over from ends the lease of the other one.",
        _RACE_TESTS,
    ),
    Mutation(
        "lease-elsewhere-is-dead", _CLAIM,
        "if self.place != _place():\n            return False",
        "if self.place != _place():\n            return True",
        "Work is taken from a process on another machine.",
        ("tests/storage/test_lease.py::test_a_silent_holder_elsewhere_is_waited_for_as_long_as_its_beat_may_take",),
    ),
    Mutation(
        "lease-process-numbers-used-again", _CLAIM,
        "return abs(_started(process) - self.started) > _START_SECONDS",
        "return False",
        "A name stays held by whoever got the number of a killed process.",
        ("tests/storage/test_lease.py::test_a_process_number_that_is_used_again_does_not_keep_a_dead_holder_alive",),
    ),
    Mutation(
        "lease-waiter-slept", _LEASE,
        "min(time.monotonic() - self._looked_at, 2 * self._patience.longest_pause)",
        "time.monotonic() - self._looked_at",
        "A waiter that was suspended takes over from a process that is alive.",
        ("tests/storage/test_lease.py::test_a_waiter_that_slept_does_not_take_over_from_a_holder_that_beats",),
    ),
    Mutation(
        "lease-without-beats", _LEASE,
        "self._root.write(self._beat_path, str(beats).encode())",
        "self._root.exists(self._beat_path)",
        "Long work is taken over in its midst.",
        ("tests/storage/test_lease.py::test_the_second_waits_for_the_first_and_is_told_for_whom",),
    ),
)  # fmt: skip

REGISTRY = (
    Mutation(
        "promotion-over-another", _REGISTRY,
        "if (current and current.number) != over:",
        "if over is None and current:",
        "A student is promoted over one that it was not compared with.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "version-overwritten", _REGISTRY,
        'if not root.create(f"{FOLDER}/{name}/{version.number:06d}.json", owned):',
        'if root.write(f"{FOLDER}/{name}/{version.number:06d}.json", owned):  # type: ignore',
        "Of two promotions at once one vanishes from the history.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "pointer-written-once", _REGISTRY,
        "        root.write(pointer, pack_version(version))\n",
        "        root.write(pointer, pack_version(version))\n        return version\n",
        "Devices fetch an old model, as a slow writer came last.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "pointer-before-the-version", _REGISTRY,
        '    if not root.create(f"{FOLDER}/{name}/{version.number:06d}.json", owned):',
        '    root.write(f"{FOLDER}/{name}.json", pack_version(version))\n'
        '    if not root.create(f"{FOLDER}/{name}/{version.number:06d}.json", owned):',
        "Devices fetch a model that never came into force.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "model-not-checked", _REGISTRY,
        "if data is None or hashlib.sha256(data).hexdigest() != model.sha256:",
        "if data is None:",
        "A model that is another file comes into force.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "rollback-to-the-number-before", _REGISTRY,
        "target = versions.get(current.before if to is None else to)",
        "target = versions.get(current.number - 1 if to is None else to)",
        "A second rollback returns to what the first one left.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "rejected-for-ever", _REGISTRY,
        "found.pop(version.model.student, None)",
        "found.get(version.model.student, None)",
        "A student that was taken again is turned away.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "rollback-rejects-nobody", _REGISTRY,
        "passed, at = [current], current",
        "passed, at = [], current",
        "What was rolled back comes back by itself the next night.",
        _REGISTRY_TESTS,
    ),
    Mutation(
        "missing-version-is-no-matter", "storage/versions.py",
        "lost = {n for n in range(1, max(number, pointed + 1)) if n not in paths}",
        "lost: set[int] = set()",
        "With its newest version gone, an older model comes into force.",
        _REGISTRY_TESTS,
    ),
)  # fmt: skip
