"""Mutations of the feature cache: its numbers, its rows, its shards."""

from tests.mutations.mutation import Mutation

_CACHE = "storage/cache"
_TESTS = "tests/storage/cache"
_READER = f"{_CACHE}/reader.py"
_GATHER = f"{_CACHE}/gather.py"
_SHARDS = f"{_CACHE}/shards.py"
_QUANTISE = f"{_CACHE}/quantise.py"
_ROWS = f"{_CACHE}/rows.py"
_STATE = f"{_CACHE}/state.py"
_WRITER = f"{_CACHE}/writer.py"
_CACHE_TESTS = (f"{_TESTS}/test_cache.py",)
_QUANTISE_TESTS = (f"{_TESTS}/test_quantise.py",)
_WRITER_TESTS = (f"{_TESTS}/test_writer.py",)

READING = (
    Mutation(
        "rows-of-the-first-shard", _READER,
        "rows_N = slots * layout.rows_per_shard + rows % layout.rows_per_shard",
        "rows_N = rows % layout.rows_per_shard",
        "Every image gets an embedding of the first shard.",
        ("tests/storage/cache/test_reader.py::test_rows_follow_the_order_asked_for",),
    ),
    Mutation(
        "view-offset", _GATHER,
        "+ views_B * self._chunks]",
        "+ views_B * 0]",
        "Every view gets the embedding of the first one.",
        ("tests/storage/cache/test_reader.py::test_rows_follow_the_order_asked_for",),
    ),
    Mutation(
        "view-offset-of-many-chunks", _GATHER,
        "+ views_B * self._chunks]",
        "+ views_B]",
        "Where a shard has several chunks, a view gets rows of another chunk.",
        ("tests/storage/cache/test_reader.py::test_an_archive_is_smaller_and_reads_the_same",),
    ),
    Mutation(
        "row-in-its-chunk", _GATHER,
        "(places_B & _WITHIN_MASK) * self.items",
        "(places_B & _WITHIN_MASK) * 0",
        "Every image gets the first embedding of its chunk.",
        ("tests/storage/cache/test_reader.py::test_rows_follow_the_order_asked_for",),
    ),
    Mutation(
        "whole-view-in-batches", _READER,
        "rows_B = np.arange(start, min(start + _ALL_BATCH, len(self)))",
        "rows_B = np.arange(start, min(start + _ALL_BATCH, len(self) - 1))",
        "The last image of a whole view is left unread.",
        ("tests/storage/cache/test_reader.py::test_rows_follow_the_order_asked_for",),
    ),
    Mutation(
        "int8-scale-of-the-first-rows", _READER,
        "np.multiply(values, scales_B1[part], out=out[part])",
        "np.multiply(values, scales_B1[: len(values)], out=out[part])",
        "Rows of a large batch are scaled as the first ones.",
        ("tests/storage/cache/test_reader.py::test_every_row_of_a_large_int8_batch_has_its_own_scale",),
    ),
    Mutation(
        "int8-scale-ignored", _READER,
        "np.multiply(values, scales_B1[part], out=out[part])",
        "np.multiply(values, 1 / 127, out=out[part])",
        "Embeddings of int8 caches lose their lengths.",
        ("tests/storage/cache/test_reader.py::test_int8_rows_can_be_taken_as_stored",),
    ),
    Mutation(
        "checksum-ignored", _SHARDS,
        "and checksum(held) != self._fact(slot).crc32:",
        "and checksum(held) < 0:",
        "A flipped bit becomes part of an embedding.",
        ("tests/storage/cache/test_reader.py::test_a_damaged_shard_is_named_and_repair_recomputes_just_it",),
    ),
    Mutation(
        "archive-checksum-ignored", _SHARDS,
        "if not fact.matches(data):",
        "if not data:",
        "A flipped bit in an archived or remote shard is unpacked as it is.",
        ("tests/storage/cache/test_reader.py::test_an_archive_is_smaller_and_reads_the_same",),
    ),
    Mutation(
        "negative-rows", _READER,
        "rows_B.view(np.uint64).max() >= len(self)",
        "rows_B.max() >= len(self)",
        "A negative row reads an embedding of another image.",
        ("tests/storage/cache/test_reader.py::test_places_out_of_range_are_refused",),
    ),
    Mutation(
        "too-many-mappings", _SHARDS,
        "if group and (held + size > limit or len(group) == _MOST_MAPPINGS):",
        "if group and held + size > limit:",
        "Reading a cache of very many shards ends in an error of the system.",
        ("tests/storage/cache/test_reader.py::test_reading_more_shards_than_may_be_mapped_at_once",),
    ),
    Mutation(
        "region-places-overlap", f"{_CACHE}/region.py",
        "self.starts[place + 1] = self.starts[place] + size",
        "self.starts[place + 1] = self.starts[place] + size // 2",
        "A shard is mapped over the end of the one before.",
        ("tests/storage/cache/test_region.py",),
    ),
)  # fmt: skip

QUANTISING = (
    Mutation(
        "quantised-towards-zero", _QUANTISE,
        "np.rint(wide / divisor)",
        "np.trunc(wide / divisor)",
        "int8 embeddings lose twice as much of their angles.",
        _QUANTISE_TESTS,
    ),
    Mutation(
        "scale-of-the-whole-shard", _QUANTISE,
        "scale = np.abs(wide).max(axis=axes) / np.float32(127)",
        "scale = np.full(wide.shape[:2], np.abs(wide).max()) / np.float32(127)",
        "One long embedding takes the precision of all others in its shard.",
        _QUANTISE_TESTS,
    ),
    Mutation(
        "scale-overflows", _QUANTISE,
        "np.float32(127)",
        "np.float32(129)",
        "The largest number of a row turns its sign.",
        _QUANTISE_TESTS,
    ),
    Mutation(
        "hole-is-a-value", f"{_CACHE}/zarr_format.py",
        "_INT8_HOLE = -128",
        "_INT8_HOLE = 0",
        "Rows without an image read as embeddings of zero.",
        _CACHE_TESTS,
    ),
    Mutation(
        "infinity-is-stored", _QUANTISE,
        'if kind.dtype == "float16" and not np.isfinite(stored).all():',
        'if kind.dtype == "float16" and np.isnan(stored).any():',
        "Embeddings beyond float16 are stored as infinity.",
        _CACHE_TESTS,
    ),
    Mutation(
        "nan-is-stored", _QUANTISE,
        "if not np.isfinite(values).all():",
        "if np.isinf(values).any():",
        "A teacher's NaN reaches the training.",
        _CACHE_TESTS,
    ),
)  # fmt: skip

WRITING = (
    Mutation(
        "old-record-vouches", _WRITER,
        "cache.root.delete(commit_path(cache.base, shard))",
        "commit_path(cache.base, shard)",
        "A shard whose recomputation was killed counts as done.",
        _CACHE_TESTS,
    ),
    Mutation(
        "record-before-files", _WRITER,
        "    for array, values in arrays:\n",
        "    facts = {a.shard_path(shard): FileFact.of(encode_shard(a, cache.layout, v)) "
        "for a, v in arrays}\n"
        "    write_commit(cache, Commit(cache.id, shard, len(keys), keys_digest(keys), facts))\n"
        "    for array, values in arrays:\n",
        "A killed writer leaves a shard that counts as done and is not whole.",
        _WRITER_TESTS,
    ),
    Mutation(
        "shard-of-other-images-kept", _WRITER,
        "and commit.keys == keys_digest(task.keys)",
        "and commit.rows == len(task.keys)",
        "Embeddings of other images stay in the place of those computed now.",
        _WRITER_TESTS,
    ),
    Mutation(
        "commit-of-another-cache", f"{_CACHE}/commits.py",
        "(self.cache, self.shard, self.rows, self.keys) == (\n            cache,",
        "(self.cache, self.shard, self.rows, self.keys) == (\n            self.cache,",
        "A record of another teacher's cache makes its shard count here.",
        ("tests/storage/cache/test_integrity.py::test_a_shard_of_the_same_images_by_another_teacher_is_noticed",),
    ),
    Mutation(
        "commit-of-other-rows", f"{_CACHE}/commits.py",
        "allocation.rows,\n            allocation.keys,",
        "allocation.rows,\n            self.keys,",
        "A record of other images makes their shard count here.",
        ("tests/storage/cache/test_integrity.py::test_a_shard_file_of_another_cache_is_noticed",),
    ),
    Mutation(
        "torn-shard-is-sound", _STATE,
        '.get(f"{cache.base}/{p}") == f.bytes for p, f',
        '.get(f"{cache.base}/{p}") is not None for p, f',
        "A shard that was torn is not computed again.",
        _CACHE_TESTS,
    ),
    Mutation(
        "first-of-several-rows", _STATE,
        'keep="last", maintain_order=True)',
        'keep="first", maintain_order=True)',
        "The row that was computed is not the one that is read.",
        ("tests/storage/cache/test_rows.py::test_readme_and_reader_take_the_same_of_several_rows",),
    ),
    Mutation(
        "unfinished-row-hides-a-finished-one", _STATE,
        "by_worth = assigned.sort(is_done, maintain_order=True)",
        "by_worth = assigned.sort(is_done.is_null(), maintain_order=True)",
        "An embedding that is there is computed again.",
        ("tests/storage/cache/test_rows.py::test_a_finished_row_is_not_lost_to_a_later_unfinished_one",),
    ),
    Mutation(
        "generation-taken-twice", _ROWS,
        'if not root.create(f"{base}/{FOLDER}/{number:06d}.json", record):',
        'if root.write(f"{base}/{FOLDER}/{number:06d}.json", record):  # type: ignore',
        "Of two planners at once one loses its rows: shards are written over each other.",
        ("tests/storage/cache/test_rows.py::test_the_loser_of_a_race_leaves_the_winners_files",),
    ),
    Mutation(
        "first-switch-counts", _ROWS,
        "return records[switches[-1] :] if switches else records",
        "return records[switches[0] :] if switches else records",
        "Rows from before the last compaction come back.",
        ("tests/storage/cache/test_generations.py",),
    ),
    Mutation(
        "reserved-shards-are-given-out", _ROWS,
        'taken = [a["shard"] for record in records for a in record["shards"]]',
        'taken = [a["shard"] for r in live if r["purpose"] != "reserve" for a in r["shards"]]',
        "A planner takes the shards that a compaction is writing.",
        ("tests/storage/cache/test_compaction.py::test_an_append_during_a_compaction_is_kept",),
    ),
    Mutation(
        "reserved-rows-count", _ROWS,
        'if record["purpose"] != "reserve"',
        'if record["purpose"] != "append"',
        "What was appended has no shards.",
        ("tests/storage/cache/test_cache.py::test_growth_computes_only_new_images",),
    ),
    Mutation(
        "damaged-table-believed", _ROWS,
        'if not FileFact(wanted["bytes"], wanted["crc32"]).matches(data):',
        "if not data:",
        "A damaged row table gives images the embeddings of others.",
        ("tests/storage/cache/test_integrity.py::test_every_file_of_a_cache_may_be_damaged_without_one_wrong_row",),
    ),
    Mutation(
        "no-copy-after-a-kill", f"{_CACHE}/cache.py",
        "        description.complete_copies(self._handle)\n",
        "",
        "One damaged byte of a record costs the whole cache.",
        ("tests/storage/cache/test_cache.py::test_a_copy_that_was_not_written_before_a_kill_is_written_by_the_next_plan",),
    ),
    Mutation(
        "forgotten-rows-come-back", _ROWS,
        "if not root.exists(record):",
        "if not root:",
        "A copy tells of rows that a compaction has moved.",
        ("tests/storage/cache/test_compaction.py::test_a_generation_that_is_forgotten_while_it_is_copied_stays_forgotten",),
    ),
    Mutation(
        "old-shards-go-first", f"{_CACHE}/compaction.py",
        '    _switch(cache, moving["key"], new, old)\n'
        "    for shard in old:\n        withdraw(cache, shard)\n",
        "    for shard in old:\n        withdraw(cache, shard)\n"
        '    _switch(cache, moving["key"], new, old)\n',
        "A compaction that is killed loses embeddings.",
        ("tests/storage/cache/test_compaction.py::test_a_compaction_killed_at_any_moment_loses_nothing",),
    ),
    Mutation(
        "repair-drops-sound-shards", f"{_CACHE}/verify.py",
        "if problem.shard is not None}",
        "if problem.shard is not None} | set(table.shards)",
        "Repair throws away what is whole.",
        ("tests/storage/cache/test_reader.py::test_a_damaged_shard_is_named_and_repair_recomputes_just_it",),
    ),
)  # fmt: skip
