"""Mutations of roots, of copies of remote shards, of manifests, and of what a kill leaves."""

from tests.mutations.mutation import Mutation

_ROOT = "storage/root"
_LOCAL = f"{_ROOT}/local.py"
_LOCAL_TESTS = (f"tests/{_ROOT}/test_local.py",)
_COPY_TESTS = ("tests/storage/test_copies.py",)
_MANIFEST_TESTS = ("tests/storage/images/test_manifest.py",)

ROOTS = (
    Mutation(
        "create-replaces", _LOCAL,
        "os.link(part, target)",
        "part.replace(target)",
        "Two processes both believe that they were first.",
        _LOCAL_TESTS,
    ),
    Mutation(
        "write-in-place", _LOCAL,
        "part = _write_aside(target, data)\n            try:\n                part.replace(target)",
        "part = target\n            try:\n                target.parent.mkdir(parents=True, "
        "exist_ok=True)\n                target.write_bytes(data)",
        "A killed writer leaves half an object.",
        _LOCAL_TESTS,
    ),
    Mutation(
        "write-without-flush", _LOCAL,
        "os.fsync(stream.fileno())",
        "stream.fileno()",
        "After a power cut an object may be there, and be empty.",
        _LOCAL_TESTS,
    ),
    Mutation(
        "rename-without-flush", _LOCAL,
        "                part.unlink(missing_ok=True)\n                raise\n"
        "        _flush_folder(target.parent)",
        "                part.unlink(missing_ok=True)\n                raise",
        "After a power cut an object that was recorded as written may be gone.",
        _LOCAL_TESTS,
    ),
    Mutation(
        "half-written-is-listed", _LOCAL,
        "entry.name.endswith(PART_SUFFIX)):",
        "entry.name.endswith(PART_SUFFIX) and False):",
        "Files of killed writers are taken for objects.",
        _LOCAL_TESTS,
    ),
    Mutation(
        "copy-not-checked", "storage/copies.py",
        'if not FileFact(size, int.from_bytes(check, "little")).matches(kept):',
        "if not check or len(kept) != size:",
        "A damaged copy of a remote shard is read.",
        _COPY_TESTS,
    ),
    Mutation(
        "newest-copy-goes-first", "storage/copies.py",
        "copies = sorted(self._copies())",
        "copies = sorted(self._copies(), reverse=True)",
        "The copies that are in use are dropped, those of long ago stay.",
        _COPY_TESTS,
    ),
    Mutation(
        "copies-above-their-limit", "storage/copies.py",
        "self._shrink(self.limit_bytes - len(data) - _CHECK_BYTES)",
        "self._shrink(self.limit_bytes)",
        "The folder of copies grows beyond its limit.",
        _COPY_TESTS,
    ),
)  # fmt: skip

MANIFESTS = (
    Mutation(
        "split-upside-down", "storage/images/index.py",
        "pl.when(draw < source.test_share)",
        "pl.when(draw > source.test_share)",
        "Four fifths of the photos are tested on.",
        _MANIFEST_TESTS,
    ),
    Mutation(
        "split-by-place", "storage/images/index.py",
        "drawn = pl.when(draw < source.test_share)",
        'drawn = pl.when(pl.col("key").rank() / pl.len() <= source.test_share)',
        "A new photo moves others from training to test.",
        _MANIFEST_TESTS,
    ),
    Mutation(
        "changed-file-not-read", "storage/images/index.py",
        'on=["uri", "bytes", "modified"], how="left"',
        'on=["uri", "bytes"], how="left"',
        "A photo that was replaced by one of the same size keeps the old embedding.",
        _MANIFEST_TESTS,
    ),
    Mutation(
        "unreadable-share-ignored", "storage/images/index.py",
        "if quarantine.height <= source.max_unreadable_share * total:",
        "if quarantine.height <= total:",
        "A run goes on although no photo could be read.",
        _MANIFEST_TESTS,
    ),
)  # fmt: skip

RESUMING = (
    Mutation(
        "parts-go-before-their-name", "storage/embeddings/parts.py",
        "    (folder / _MADE_FROM).unlink(missing_ok=True)\n",
        "",
        "An embedding that was killed at its end refuses to end.",
        ("tests/flows/inference/test_embed.py::test_killed_while_the_parts_are_deleted_the_file_is_there_and_no_beginning",),
    ),
    Mutation(
        "done-without-a-report", "flows/stages/stored.py",
        'run.root.exists(f"exports/{run.exported.id}/{REPORT}") and all(',
        "all(",
        "A run that was killed near its end names a report that is not there, for ever.",
        ("tests/flows/stages/test_stored.py::test_a_run_that_was_killed_before_its_report_was_written_is_not_done",),
    ),
)  # fmt: skip
