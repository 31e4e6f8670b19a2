"""The list of mutations fits the tree, and some of them are really caught."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.mutations import caches, decisions, losses, measures, records, roots, training
from tests.mutations.branches import coverage_section
from tests.mutations.catalogue import MUTATIONS, chosen, problems
from tests.mutations.mutation import Mutation, MutationError
from tests.mutations.report import mutations_section, put_section
from tests.mutations.results import Result, change_of, load_results, save_results

ROOT = Path(__file__).parent.parent
CHANGE = Mutation("sign", "a.py", "x - y", "x + y", "The sum.", ("test_a.py",))


def test_every_mutation_still_fits_the_tree() -> None:
    assert problems(ROOT) == []
    for mutation in MUTATIONS:
        assert mutation.original != mutation.replacement


def test_every_mutation_leaves_code_that_compiles() -> None:
    for mutation in MUTATIONS:
        changed = mutation.applied((ROOT / mutation.file).read_text())
        compile(changed, mutation.file, "exec")


def test_no_list_is_left_out_of_the_catalogue() -> None:
    lists = [
        found
        for module in (caches, decisions, losses, measures, records, roots, training)
        for name, found in vars(module).items()
        if name.isupper() and not name.startswith("_")
    ]
    assert sorted(m.name for part in lists for m in part) == sorted(m.name for m in MUTATIONS)


def test_a_mutation_that_fits_no_more_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert "there is no file a.py" in (CHANGE.problem(tmp_path) or "")
    (tmp_path / "a.py").write_text("x - y\nx - y\n")
    assert "holds 'x - y' 2 times, not once" in (CHANGE.problem(tmp_path) or "")
    (tmp_path / "a.py").write_text("x - y\n")
    assert "there is no test test_a.py" in (CHANGE.problem(tmp_path) or "")
    (tmp_path / "test_a.py").touch()
    assert CHANGE.problem(tmp_path) is None
    one = replace(CHANGE, tests=("test_a.py::test_b",))
    assert "there is no test test_a.py::test_b" in (one.problem(tmp_path) or "")
    (tmp_path / "test_a.py").write_text("def test_b() -> None: ...")
    assert one.problem(tmp_path) is None
    with pytest.raises(MutationError, match="no mutation sing"):
        chosen(["sing"])


def result(verdict: Any, by: str = "", change: str = "") -> Result:
    return Result(verdict, by, 1.0, "2026-01-02", change)


def test_a_report_counts_what_was_caught_and_keeps_other_sections(tmp_path: Path) -> None:
    mutations = {"sign": CHANGE, "other": replace(CHANGE, name="other")}
    results = {"sign": result("caught", "a.py::test_b"), "other": result("survived")}
    page = tmp_path / "page.md"
    for body in ("old", mutations_section(results, mutations)):
        put_section(page, "Mutations", body)
        put_section(page, "Coverage", "all")
    text = page.read_text()
    assert "1 of 2 (50.0%) were caught" in text
    assert "- `other` (survived): there is no quick test" in text
    assert "| sign | a | The sum. | `a.py::test_b` | 1 |" in text
    assert text.count("## ") == 2
    assert "old" not in text
    assert text.endswith("## Coverage\n\nall\n")


def test_the_result_of_a_mutation_that_was_edited_does_not_count(tmp_path: Path) -> None:
    found = {"sign": result("caught", change=change_of(CHANGE)), "gone": result("caught")}
    save_results(tmp_path / "found.json", found)
    assert load_results(tmp_path / "found.json", [CHANGE]) == {"sign": found["sign"]}
    assert load_results(tmp_path / "found.json", [replace(CHANGE, tests=("test_b.py",))]) == {}
    assert load_results(tmp_path / "none.json", [CHANGE]) == {}


def test_coverage_is_summed_over_the_files_of_a_folder_and_of_a_package() -> None:
    def file(*counts: int) -> dict[str, dict[str, int]]:
        names = ("num_statements", "covered_lines", "num_branches", "covered_branches")
        return {"summary": dict(zip(names, counts, strict=True))}

    files = {
        "storage/a.py": file(10, 9, 4, 1), "storage/b.py": file(10, 10, 0, 0),
        "storage/cache/c.py": file(20, 10, 6, 3),
    }  # fmt: skip
    section = coverage_section({"meta": {"version": "7"}, "files": files})
    assert "| **storage** | 40 | 72.5% | 10 | 40.0% |" in section
    assert "| `storage` | 20 | 95.0% | 4 | 25.0% |" in section
    assert "| `storage/cache` | 20 | 50.0% | 6 | 50.0% |" in section


@pytest.mark.slow
def test_three_mutations_are_caught_and_the_checkout_stays_as_it_is(tmp_path: Path) -> None:
    names = ["mce-of-sums", "auroc-sign", "gate-nan-passes"]
    before = {m.file: (ROOT / m.file).read_bytes() for m in chosen(names)}
    command = [sys.executable, "-m", "tests.mutations", "--out", str(tmp_path / "page.md")]
    done = subprocess.run(
        [*command, "--only", *names], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 caught" in done.stdout
    assert "3 of 3 (100.0%) were caught" in (tmp_path / "page.md").read_text()
    assert {file: (ROOT / file).read_bytes() for file in before} == before


_HARMLESS_AND_ENDLESS = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.mutations.mutation import Mutation
from tests.mutations.trial import attempt, copy_tree, require_whole

tree = Path(sys.argv[1]).resolve()
copy_tree(Path.cwd(), tree)
file, original = "tintem_core/evaluation/robustness.py", "import numpy as np\\n"
tests = ("tests/tintem_core/evaluation/test_robustness.py",)
harmless = Mutation("harmless", file, original, original + "\\n", "Nothing.", tests)
endless = replace(harmless, replacement=original + "while True: pass\\n")
unimportable = replace(harmless, replacement="import numpy as np, nothing_of_this_name\\n")
print(require_whole(tree, tests) > 0)
for mutation, limit in ((harmless, 120), (endless, 20), (unimportable, 120)):
    found = attempt(tree, mutation, limit)
    print(found.verdict, found.by)
"""


@pytest.mark.slow
def test_harmless_changes_survive_endless_ones_are_noticed_and_some_are_none(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", _HARMLESS_AND_ENDLESS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.stdout.splitlines() == [
        "True",
        "survived ",
        "caught hung for 20 s",
        "broken tests/tintem_core/evaluation/test_robustness.py",
    ], done.stdout + done.stderr
    assert (tmp_path / "tintem_core/evaluation/robustness.py").read_bytes() == (
        ROOT / "tintem_core/evaluation/robustness.py"
    ).read_bytes()
