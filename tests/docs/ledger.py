"""By which test every block of the documentation is run, or why it is not.

A block is known by its page and its first line; of a page, in the order in which they stand. YAML
is not listed: `test_configs.py` reads all of it. A block that no test runs has its digest here, so
that a change of it is looked at: after that, the failing test prints the one to write.
"""

from dataclasses import dataclass

from tests.docs.pages import PAGES, Block, blocks

WALK = "tests/docs/test_walk.py::test_the_commands_of_the_pages_run_one_after_the_other"
CACHE = "tests/docs/test_cache.py::test_the_examples_read_what_the_extraction_stored"
DEPLOYING = "tests/docs/test_deploying.py::test_the_examples_run_in_the_folder_of_an_export"
NOTEBOOK = "tests/flows/stages/test_notebook.py::test_the_examples_run_and_give_what_they_say"
UP = "tests/system/test_up.py::test_one_command_brings_everything_up_and_one_ends_it"
KEY = "tests/system/test_up.py::test_a_server_with_a_key_refuses_whoever_has_none"
INDEX = (
    "tests/flows/inference/test_docs.py::test_a_student_finds_photos_in_the_index_of_its_teacher"
)
SERVED = "tests/flows/serving/test_docs.py::test_the_requests_of_the_page_are_answered"
TWO_MACHINES = "tests/system/test_two_machines.py::test_an_extraction_loses_nothing_with_a_node"
BY_HAND = (
    "the services of a machine, by hand; tests/system has the same of `tintem up`, with SQLite and "
    "with PostgreSQL"
)


@dataclass(frozen=True)
class Known:
    """What is known of a block: the tests that run it, or a reason and the digest."""

    begins: str
    by: tuple[str, ...] = ()
    reason: str = ""
    digest: str = ""
    is_output: bool = False


def ran(begins: str, *by: str) -> Known:
    """A block that tests run."""
    return Known(begins, by)


def left(begins: str, digest: str, reason: str, *near: str) -> Known:
    """A block that no test can run as it stands; near: those that run what it is about."""
    return Known(begins, near, reason, digest)


def shown(begins: str, digest: str, reason: str) -> Known:
    """What a command printed, a drawing, a listing."""
    return Known(begins, (), reason, digest, is_output=True)


LEDGER: dict[str, tuple[Known, ...]] = {
    "README.md": (
        left(
            "git clone <this repository> && cd tintem",
            "a56ac29e",
            "CI is in a clone already",
            "tests/test_wheel.py::test_the_wheel_alone_ends_the_quickstart_with_a_faithful_student",
        ),
        shown(
            "The run is described in",
            "8cedb036",
            "what the quickstart printed on the machine named",
        ),
        ran(".venv/bin/tintem init path/to/photos", WALK),
        ran(
            "import onnxruntime",
            "tests/test_deploy.py::"
            "test_the_snippet_of_the_readme_sees_odd_photos_as_the_evaluation_did",
        ),
        ran("tintem embed tintem-data/exports/ID", WALK),
        left(
            "tintem serve tintem-data/exports/ID", "7071debd", "it serves until it is ended", SERVED
        ),
        ran("tintem nightly tintem.yaml", WALK),
        ran("tintem sweep tintem.yaml", WALK),
        left("tintem up", "3b331132", "its port is everybody's on this machine", UP),
        ran("from flows.config.load import load_config", WALK),
    ),
    "docs/cache.md": (
        shown(
            "caches/ID/", "7f13e309", "a listing; the test of the examples compares it with a cache"
        ),
        ran("import json", CACHE),
        ran("import xarray", CACHE),
    ),
    "docs/choosing.md": (ran("tintem sweep tintem.yaml", WALK),),
    "docs/cluster.md": (
        ran("tintem run tintem.yaml", WALK),
        left(
            "prefect server start --host 0.0.0.0",
            "dfb53600",
            "a server for a network",
            TWO_MACHINES,
        ),
        left("ray get-auth-token --generate", "698b8e01", "machines of a cluster", TWO_MACHINES),
    ),
    "docs/deploying.md": (
        ran("tintem verify tintem-data/exports/ID", WALK),
        ran("import numpy as np", DEPLOYING),
        ran("import onnxruntime", DEPLOYING),
        ran("import numpy as np", DEPLOYING),
    ),
    "docs/embedding.md": (
        ran("tintem embed tintem-data/exports/ID photos -o student.parquet", INDEX),
        ran("import numpy as np", INDEX),
        shown("recall@1:", "5aa9ee97", "what it printed for the quickstart"),
    ),
    "docs/nightly.md": (
        shown("index ─▶ embed what is new", "71501f34", "a drawing"),
        shown("latest/<line>.json", "63ecc728", "a listing"),
        ran("tintem promote CONFIG.yaml", WALK),
        ran(
            "import hashlib, json, sys, urllib.request",
            "tests/flows/retraining/test_docs.py::"
            "test_a_device_fetches_the_latest_without_this_package",
        ),
        ran(
            "from flows.config.load import load_config",
            "tests/flows/retraining/test_docs.py::test_a_night_is_held_in_plain_python",
        ),
    ),
    "docs/notebook.md": (
        ran("from flows.config.load import load_config", NOTEBOOK),
        ran("import numpy as np", NOTEBOOK),
        ran("import torch", NOTEBOOK),
        ran("from torch import nn", NOTEBOOK),
        ran("def student(width=16):", NOTEBOOK),
        ran("from flows.config.load import parse_config", NOTEBOOK),
        ran("import torch", NOTEBOOK),
        ran('metrics = run.evaluated.record["metrics"]', NOTEBOOK),
    ),
    "docs/photos.md": (
        shown("28 photos of demo:", "3a484df3", "a line of an index"),
        ran(
            "from PIL import Image",
            "tests/storage/images/test_write.py::test_the_example_of_the_docs_runs",
        ),
    ),
    "docs/production.md": (
        left("tintem up", "3b855e20", "its port is everybody's on this machine", UP),
        left("export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=", "82868dda", BY_HAND, UP),
        left("export PREFECT_API_URL=", "d4587a5e", BY_HAND, UP),
        left("apt-get install postgresql", "dcfd099d", "root's rights", UP),
        left("prefect server start --host 0.0.0.0", "33cb2d52", "two machines", UP),
        left("[Unit]", "d652aa4c", "systemd"),
        left("[Unit]", "b3f45522", "systemd"),
        left("export PREFECT_SERVER_API_AUTH_STRING=", "d427165e", "its port is everybody's", KEY),
        left("prefect work-queue set-concurrency-limit gpu 2", "51b531d0", "two GPUs"),
        ran("tintem gc tintem.yaml", WALK),
        ran("tintem nightly tintem.yaml && tintem gc tintem.yaml --yes", WALK),
        left(
            "cd deploy",
            "618157bd",
            "Docker",
            "tests/test_deploy.py::"
            "test_the_compose_file_fits_its_schema_and_names_commands_that_exist",
        ),
    ),
    "docs/serving.md": (
        left(
            "pip install 'tintem[serve]'",
            "c8066730",
            "it serves until it is ended",
            SERVED,
            "tests/flows/serving/test_serve.py::test_a_bucket_and_a_config_are_followed_too",
        ),
        ran("curl --form files=@photo.jpg", SERVED),
        ran("import base64", SERVED),
    ),
    "docs/sweep.md": (
        ran("tintem sweep tintem.yaml", WALK),
        shown("mono-cells: 213 unseen photos", "060c7373", "what it printed for the quickstart"),
    ),
    "docs/teachers.md": (
        ran(
            "from torch import nn",
            "tests/flows/stages/test_teacher_docs.py::test_the_functions_of_the_page_run",
        ),
    ),
}


def known_blocks() -> list[tuple[Block, Known | None]]:
    """Every block that is no YAML, with what is known of it."""
    found: list[tuple[Block, Known | None]] = []
    for page in PAGES:
        mine = list(LEDGER.get(page, ()))
        for block in blocks(page):
            if block.language == "yaml":
                continue
            fits = [known for known in mine if block.begins.startswith(known.begins)]
            if fits:
                mine.remove(fits[0])
            found.append((block, fits[0] if fits else None))
    return found


def run_by(test: str) -> list[Block]:
    """The blocks that a test is to run."""
    return [block for block, known in known_blocks() if known and test in known.by]
