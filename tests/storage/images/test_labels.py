"""Labels as they are found: lost by none, changed by none."""

import json
from datetime import date

import polars as pl
import pytest
from PIL import Image

from storage.errors import SourceError
from storage.images import SourceConfig, build_manifest
from storage.images.labels import LabelColumn, as_notes, as_text
from storage.testing import picture


def source(uri, **options):
    return SourceConfig(name="demo", uri=str(uri), **options)


def column(values, names=(), where="a", dtype=None):
    return LabelColumn(where, pl.Series("label", values, dtype=dtype), tuple(names))


def texts(*columns):
    return [labels.to_list() for labels in as_text(columns)]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ([column([0, 1, -1, 7], ["cat", "dog"])], [["cat", "dog", None, None]]),
        ([column([0.0, 1.0, None], ["cat", "dog"])], [["cat", "dog", None]]),
        ([column([0, 1]), column([0.0, None, 1.0])], [["0", "1"], ["0", None, "1"]]),
        ([column([0, 1]), column([0.5, float("nan")])], [["0.0", "1.0"], ["0.5", None]]),
        ([column([0, 1], ["x", "y"]), column([1, 0])], [["x", "y"], ["y", "x"]]),
        ([column([0, 1], ["x", "y"]), column(["y", None])], [["x", "y"], ["y", None]]),
        ([column([0, 1]), column(["1", "0"])], [["0", "1"], ["1", "0"]]),
        ([column([0.0, 1.0])], [["0.0", "1.0"]]),
        ([column([3], dtype=pl.Int8), column([3], dtype=pl.UInt64)], [["3"], ["3"]]),
        ([column([1, 0]), column([-1, -1])], [["1", "0"], [None, None]]),
        ([column([1, -1])], [["1", "-1"]]),
        ([column([-1, -1])], [["-1", "-1"]]),
        ([column(["a ", " a", "", "  ", "nan", None])], [["a", "a", None, None, None, None]]),
        ([column(["a", "b"], dtype=pl.Categorical), column(["a"])], [["a", "b"], ["a"]]),
        ([column([True, False])], [["true", "false"]]),
        ([column([None, None]), column([1])], [[None, None], ["1"]]),
        ([column([None], dtype=pl.String), column([0], ["x"])], [[None], ["x"]]),
        ([column([date(2024, 1, 2)])], [["2024-01-02"]]),
    ],
)
def test_files_of_one_source_give_one_spelling_of_every_class(columns, wanted):
    assert texts(*columns) == wanted


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([column([0], ["x"]), column([0], ["y"], "b")], r"a and b name their classes differently"),
        ([column([0], ["x"]), column(["z"], where="b")], r"b has the label 'z', which is none"),
        ([column([0.5], ["x"])], r"a has labels that are no whole numbers"),
        ([column([0]), column(["cat"], where="b")], r"a number in a, and text in b"),
        ([column([0]), column([True], where="b")], r"a number in a, and true or false in b"),
        ([column([[0, 1], [2]])], r"a: the label 'label' is no number or text, but List"),
        ([column([{"id": 1}])], r"but Struct"),
    ],
)
def test_labels_that_give_no_one_type_are_refused_by_name(columns, told):
    with pytest.raises(SourceError, match=told):
        texts(*columns)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (column([" Alpha ", "", "nan", None]), ["Alpha", None, None, None]),
        (column([0, 7]), ["0", "7"]),
        (column([1.0, 2.5, float("nan"), float("inf"), None]), ["1", "2.5", None, "inf", None]),
        (column([True, None]), ["true", None]),
        (column([0, 1, -1], ["cat", "dog"]), ["cat", "dog", None]),
        (column([date(2024, 1, 2)]), ["2024-01-02"]),
    ],
)
def test_what_is_written_beside_photos_has_one_spelling(given, wanted):
    assert as_notes(given).to_list() == wanted


def test_lists_beside_photos_are_no_groups():
    with pytest.raises(
        SourceError, match=r"^a: the column '.*' holds no numbers or text, but List"
    ):
        as_notes(column([[1, 2]]))


def write_parquet(path, first, labels, names=None):
    rows = [{"bytes": picture(first + i), "path": None} for i in range(len(labels))]
    feature = {"names": names} if names else {"_type": "Value"}
    described = json.dumps({"info": {"features": {"label": feature}}})
    table = pl.DataFrame({"image": rows, "label": labels}, strict=False)
    table.write_parquet(path, metadata={"huggingface": described})


def test_the_hidden_labels_of_a_test_set_are_none(tmp_path):
    names = ["cat", "dog"]
    write_parquet(tmp_path / "train-0.parquet", 0, [0, 1] * 10, names)
    write_parquet(tmp_path / "test-0.parquet", 50, [-1] * 8, names)
    manifest = build_manifest(source(tmp_path / "*.parquet"))
    assert manifest.classes == names
    assert manifest.select("test")["label"].null_count() == 8
    told = "28 photos of demo: 20 labelled, 8 unlabelled, 2 classes"
    assert manifest.summary == told


def test_some_loose_photos_do_not_unlabel_the_rest(tmp_path):
    for i in range(12):
        place = tmp_path / "ab"[i % 2]
        place.mkdir(exist_ok=True)
        (place / f"{i}.jpg").write_bytes(picture(i))
    for i in range(3):
        (tmp_path / f"loose{i}.jpg").write_bytes(picture(50 + i))
    manifest = build_manifest(source(tmp_path))
    assert manifest.classes == ["a", "b"]
    assert manifest.table["label"].null_count() == 3
    for i in range(20):
        (tmp_path / f"more{i}.jpg").write_bytes(picture(100 + i))
    assert build_manifest(source(tmp_path)).classes == []


HEADERS = [
    ("path,label", ","),
    ("path, label", ", "),
    (" Path ,Label ", ","),
    ("path;label", ";"),
    ("PATH\tLABEL", "\t"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("header", "between"), HEADERS)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, header, between, encoding):
    lines = [header]
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
        lines.append(f"{i}.jpg{between}{'äb'[i % 2]} ")
    table = tmp_path / "t.csv"
    table.write_bytes("\r\n".join([*lines, "", between.strip(" ")]).encode(encoding))
    manifest = build_manifest(source(table))
    assert sorted(manifest.table["label"].value_counts().rows()) == [("b", 3), ("ä", 3)]


def test_a_header_with_blanks_frees_its_paths_of_them(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "t.csv").write_text("label, path\nx, a.jpg\n")
    assert build_manifest(source(tmp_path / "t.csv")).table["uri"].to_list() == ["a.jpg"]


def test_other_spellings_of_a_path_are_found(tmp_path):
    place = tmp_path / "p"
    place.mkdir()
    (tmp_path / "tables").mkdir()
    for i in range(4):
        (place / f"{i} ü.jpg").write_bytes(picture(i))
    table = tmp_path / "tables/t.csv"
    spelled = ["../p/0 ü.jpg", f"file://{place}/1%20%C3%BC.jpg", f"{place}/2 ü.jpg"]
    table.write_text("\n".join(["path", *spelled]), encoding="utf-8")
    assert build_manifest(source(table)).table.height == 3
    (tmp_path / "u.csv").write_text("path\np\\3 ü.jpg\n", encoding="utf-8")
    assert build_manifest(source(tmp_path / "u.csv")).table.height == 1


def test_tables_that_cannot_be_read_say_why(tmp_path):
    (tmp_path / "t.csv").write_bytes("path,label\na.jpg,ä\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"t\.csv is no UTF-8 \(byte 17\)\. Save it as CSV UTF-8"):
        build_manifest(source(tmp_path / "t.csv"))
    (tmp_path / "w.csv").write_text("path\nhttps://example.org/a.jpg\n")
    with pytest.raises(SourceError, match=r"names https://example\.org/a\.jpg: .*Download them"):
        build_manifest(source(tmp_path / "w.csv"))


def test_one_photo_listed_with_two_labels_has_none_and_the_others_keep_theirs(tmp_path):
    lines = ["path,label"]
    for i in range(4):
        Image.new("L", (8, 8), 50 * i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]}")
    lines += ["0.png,b", "1.png,", "1.png,b"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    manifest = build_manifest(source(tmp_path / "t.csv"))
    labels = dict(zip(manifest.table["uri"], manifest.table["label"], strict=True))
    assert labels == {"0.png": None, "1.png": "b", "2.png": "a", "3.png": "b"}
    assert manifest.conflicting == 1
    assert "3 labelled, 1 unlabelled (1 given two labels), 2 classes" in manifest.summary
