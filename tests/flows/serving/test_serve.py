"""`tintem serve`: the export's own numbers over real HTTP, one sentence for what is refused."""

import base64
import hashlib
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from flows.config.load import load_config
from flows.config.variants import retrained_students
from flows.serving.current import Current
from storage.registry import current_version, promote
from storage.root import open_root
from storage.versions import FOLDER
from tests.exports import SIZE, WIDTH, write_export
from tests.flows.cli.test_bad_input import tintem
from tests.flows.serving.conftest import Start
from tests.photos import encoded, photo
from tests.storage.test_registry import model as described
from tintem_core.export.runtime import session
from tintem_pixels import load_pixels

LINE = "small-photos"


def wanted(export: Path, images: list[bytes]) -> NDArray[np.float32]:
    opened = session((export / "student.onnx").read_bytes())
    pixels = np.stack([load_pixels(image, SIZE) for image in images])
    rows: NDArray[np.float32] = opened.run(None, {"pixels": pixels})[0]
    return rows


def data_uri(image: bytes, form: str = "png") -> str:
    return f"data:image/{form};base64,{base64.b64encode(image).decode()}"


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return str(error["message"])


@pytest.fixture
def photos() -> list[bytes]:
    return [encoded(photo(seed), form) for seed, form in enumerate(["PNG", "JPEG", "WEBP", "BMP"])]


def test_both_ways_to_ask_give_the_embeddings_of_the_export(
    start: Start, tmp_path: Path, photos: list[bytes]
) -> None:
    export = write_export(tmp_path / "root", has_score=True)
    rows = wanted(export, photos)
    with start(str(export)).client() as client:
        asked = {"input": [data_uri(each) for each in photos], "model": "small"}
        told = client.post("/v1/embeddings", json=asked).json()
        assert (told["object"], told["model"]) == ("list", "small")
        assert [each["index"] for each in told["data"]] == [0, 1, 2, 3]
        assert np.array([each["embedding"] for each in told["data"]]) == pytest.approx(
            rows, abs=1e-5
        )
        # The bank holds the first two directions.
        nearest = rows[:, :2].max(axis=1) / np.linalg.norm(rows, axis=1)
        scores = [each["ood_score"] for each in told["data"]]
        assert scores == pytest.approx(nearest, abs=1e-5)
        # As OpenAI's own client asks.
        packed = client.post("/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
        for each, row in zip(packed["data"], rows, strict=True):
            assert np.frombuffer(base64.b64decode(each["embedding"]), "<f4") == pytest.approx(
                row, abs=1e-5
            )
        form = client.post("/embed", files=[("files", (f"{n}", p)) for n, p in enumerate(photos)])
        assert form.json()["data"] == told["data"]
        (listed,) = client.get("/v1/models").json()["data"]
        assert listed["id"] == "small"
        assert (listed["width"], listed["image_size"], listed["ood_threshold"]) == (
            WIDTH,
            SIZE,
            0.5,
        )
        assert client.get("/health").json() == {"status": "ok", "model": "small"}
        measured = client.get("/metrics").text
        assert re.search(r"^tintem_images_total 12\.0$", measured, re.M)
        assert 'tintem_requests_total{path="/embed",status="200"} 1.0' in measured
        page = client.get("/docs").text
        # The page is whole without a network.
        assert "https://" not in page
        assert all(
            client.get(link).is_success for link in re.findall(r'(?:src|href)="(/[^"]+)"', page)
        )


def test_sixteen_clients_at_once_get_each_its_own_answer(start: Start, tmp_path: Path) -> None:
    export = write_export(tmp_path / "root")
    images = [encoded(photo(seed)) for seed in range(16)]
    rows = wanted(export, images)
    running = start(str(export))

    def ask(number: int) -> None:
        with running.client() as client:
            for _ in range(8):
                answer = client.post("/v1/embeddings", json={"input": data_uri(images[number])})
                (told,) = answer.json()["data"]
                assert told["embedding"] == pytest.approx(rows[number], abs=1e-5)
                assert told["ood_score"] is None

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))


def test_what_cannot_be_answered_is_refused_with_one_sentence(
    start: Start, tmp_path: Path, photos: list[bytes]
) -> None:
    export = write_export(tmp_path / "root")
    limits = ["--megabytes", "1", "--images", "3", "--megapixels", "1"]
    running = start(str(export), *limits)
    good = data_uri(photos[0])
    with running.client() as client:

        def asked(**fields: Any) -> httpx.Response:
            return client.post("/v1/embeddings", json=fields)

        assert refused(asked(input=[good, data_uri(b"no image")]), 400) == (
            "image 1: it is no image that Pillow can read."
        )
        assert "base64 is damaged" in refused(asked(input=good + "!"), 400)
        assert "it is no data URI" in refused(asked(input="a text"), 400)
        assert "not fetched here" in refused(asked(input="http://127.0.0.1/x.png"), 400)
        assert "4 images, not 1 to 3" in refused(asked(input=[good] * 4), 400)
        assert "0 images, not 1 to 3" in refused(asked(input=[]), 400)
        assert "input: " in refused(asked(image=good), 422)
        assert "has 16 dimensions" in refused(asked(input=good, dimensions=8), 400)
        assert "large does not answer here" in refused(asked(input=good, model="large"), 404)
        large = encoded(photo(0, (1100, 1000)), "JPEG")
        assert "1,100,000 pixels" in refused(asked(input=data_uri(large)), 400)
        assert "1 MiB" in refused(asked(input="x" * 2**21), 413)
        assert "1 MiB" in refused(client.post("/embed", files={"files": b"x" * 2**21}), 413)

        def pieces() -> Any:
            # No length is announced.
            yield from [b"x" * 2**16] * 20

        assert "1 MiB" in refused(client.post("/v1/embeddings", content=pieces()), 413)
        json = {"Content-Type": "application/json"}
        refused(client.post("/v1/embeddings", content=b'{"input": ', headers=json), 422)
        refused(client.post("/embed", content=b"no form"), 422)
        refused(client.get("/nothing"), 404)
        refused(client.get("/embed"), 405)
        # It still answers.
        assert asked(input=good).status_code == 200


def test_a_student_that_comes_into_force_answers_without_a_lost_request(
    start: Start, tmp_path: Path, photos: list[bytes]
) -> None:
    root = open_root(tmp_path / "root")
    exports = {id: write_export(tmp_path / "root", id, seed) for id, seed in (("a", 0), ("b", 1))}
    rows = {id: wanted(export, photos[:1])[0] for id, export in exports.items()}

    def into_force(id: str) -> None:
        before = current_version(root, LINE)
        entry = described(root, id)
        promote(root, LINE, entry, "better", before.number if before else None)

    # The registry's test describes a model by a file of its own, which the record does not name.
    (exports["a"] / "student.onnx").rename(tmp_path / "a.onnx")
    (exports["b"] / "student.onnx").rename(tmp_path / "b.onnx")
    into_force("a")
    (tmp_path / "a.onnx").replace(exports["a"] / "student.onnx")
    running = start(str(tmp_path / "root" / FOLDER / f"{LINE}.json"))
    warm = threading.Barrier(3, timeout=30)

    def ask() -> list[str]:
        seen: list[str] = []
        with running.client() as client:
            while seen[-2:] != ["b", "b"]:
                answer = client.post("/v1/embeddings", json={"input": data_uri(photos[0])})
                told = answer.json()
                assert told["data"][0]["embedding"] == pytest.approx(rows[told["model"]], abs=1e-5)
                seen.append(told["model"])
                if len(seen) == 6:
                    warm.wait()
        return seen

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        warm.wait()
        into_force("b")
        (tmp_path / "b.onnx").replace(exports["b"] / "student.onnx")
        # An answer of the old student may arrive after the other client's first of the new one.
        for each in asking:
            seen = each.result(timeout=60)
            assert seen[:6] == ["a"] * 6
            assert sorted(seen) == seen
    told = running.ended()
    assert f"b answers from now on: entry 2 of {LINE}" in told
    assert running.process.returncode == 0


def test_a_student_in_force_that_cannot_be_read_leaves_the_one_that_answers(
    tmp_path: Path,
) -> None:
    root = open_root(tmp_path / "root")
    write_export(tmp_path / "root", "a")
    model = (tmp_path / "root" / "exports" / "a" / "student.onnx").read_bytes()
    whole = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    promote(root, LINE, replace(described(open_root(tmp_path / "x"), "a"), **whole), "good", None)
    said: list[str] = []
    current = Current(str(tmp_path / "root" / FOLDER / f"{LINE}.json"), say=said.append)
    assert (current.model.id, said) == ("a", [])
    promote(root, LINE, described(root, "b"), "better", 1)
    watching = threading.Thread(target=current.watch, args=(0.01,))
    watching.start()
    time.sleep(0.5)
    assert current.model.id == "a"
    assert len(said) == 1
    assert said[0].startswith("the student in force cannot be read, a stays: ")
    write_export(tmp_path / "root", "b", seed=1)
    while current.model.id == "a":
        assert watching.is_alive()
        time.sleep(0.01)
    current.stop()
    watching.join()
    assert said[1:] == [f"b answers from now on: entry 2 of {LINE}"]


def test_a_bucket_and_a_config_are_followed_too(
    start: Start, tmp_path: Path, photos: list[bytes], s3_url: str
) -> None:
    export = write_export(tmp_path / "local", "a")
    root = open_root(s3_url)
    for path in (path for path in export.rglob("*") if path.is_file()):
        root.write(f"exports/a/{path.relative_to(export)}", path.read_bytes())
    model = (export / "student.onnx").read_bytes()
    # What the registry's test describes is a file of its own.
    entry = replace(
        described(open_root(tmp_path / "other"), "a"),
        sha256=hashlib.sha256(model).hexdigest(),
        bytes=len(model),
    )
    config = tmp_path / "run.yaml"
    config.write_text(
        f"root: {s3_url}\ndata: {{name: shapes, uri: photos}}\nteacher: {{model: test_vit}}\n"
        "student: {model: test_resnet}\n"
    )
    (line,) = (each.line for each in retrained_students(load_config(config)))
    promote(root, line, entry, "better", None)
    for place in (f"{s3_url}/latest/{line}.json", str(config)):
        with start(place).client() as client:
            told = client.post("/embed", files={"files": photos[0]}).json()
            assert told["model"] == "a"
            assert told["data"][0]["embedding"] == pytest.approx(
                wanted(export, photos[:1])[0], abs=1e-5
            )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_once_every_request_is_answered(
    start: Start, tmp_path: Path, number: int
) -> None:
    running = start(str(write_export(tmp_path / "root")))
    images = [data_uri(encoded(photo(seed, (600, 500)), "JPEG"), "jpeg") for seed in range(8)]

    def ask(_: int) -> int:
        with running.client() as client:
            return client.post("/v1/embeddings", json={"input": images * 8}).status_code

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, number) for number in range(6)]
        with running.client() as client:
            while "tintem_waiting_images 0.0" in client.get("/metrics").text:
                assert not all(each.done() for each in asking), "it was too fast for this test"
        told = running.ended(number)
        # Those that were not taken yet are refused, or find nobody.
        answers = [each.exception() or each.result() for each in asking]
    assert 200 in answers
    assert all(each in (200, 503) or isinstance(each, httpx.TransportError) for each in answers)
    assert running.process.returncode == 0
    assert told.strip() == "ended; every request that was taken is answered"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "there is no nothing"),
        (["x/latest/y.json"], "has no student in force as y"),
        (["{export}", "--student", "a"], "give a CONFIG.yaml"),
        (["{export}", "--host", "192.0.2.1"], "cannot listen at 192.0.2.1, port 8000"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    export = write_export(tmp_path / "root")
    given = [each.format(export=export) for each in arguments]
    told = tintem("serve", *given, home=tmp_path)
    assert told.returncode == 2
    assert sentence in told.stderr
    assert "Traceback" not in told.stderr


def test_a_taken_port_is_named(start: Start, tmp_path: Path) -> None:
    export = write_export(tmp_path / "root")
    port = start(str(export)).url.rpartition(":")[2]
    told = tintem("serve", str(export), "--port", port, home=tmp_path)
    assert told.returncode == 2
    assert f"port {port}: address already in use" in told.stderr
