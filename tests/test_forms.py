"""The forms that people's files come in: each is read rightly, or its message says what to do."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codi.data.files import READERS, read_file
from codi.data.sources import load_examples
from codi.data.text_files import COMPRESSED
from codi.errors import DataError

ROWS = [
    {"question": "Ann has 3 figs, and buys 4. How many?", "steps": ["3+4=7"], "answer": "7"},
    {"question": "Ben has 9; he eats 2.\nHow many are left?", "steps": ["9-2=7", "so 7"], "answer": "7"},
    {"question": "“Ça va?” 🍎\u2028\x0b\x0c\x1c\x85 x", "steps": [], "answer": "5"},
]
TABLE = [{**row, "steps": json.dumps(row["steps"])} for row in ROWS]


def rows_of(path: Path, split: str = "train") -> list[dict[str, Any]]:
    return [row for _, row in read_file(path, split).rows]


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def lines(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(delimiter: str = ",", rows: list[dict[str, Any]] = TABLE, end: str = "\n") -> str:
    text = io.StringIO(newline="")
    # The writer quotes values with the line end it uses itself; a lone \r would leave the others bare.
    quoting = csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
    out = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=end, quoting=quoting)
    out.writeheader()
    out.writerows(rows)
    return text.getvalue()


# JSON, whatever the file is called


@pytest.mark.parametrize("name", ["in.json", "in.jsonl", "in.ndjson"])
@pytest.mark.parametrize(
    "text",
    [
        lines(),
        lines().replace("\n", "\r\n"),
        lines().replace("\n", "\r"),
        "\n\n" + lines().replace("\n", "\n \n"),
        "\ufeff" + lines(),
        lines().replace("\n", "\n\ufeff"),  # files with a byte order mark each, joined
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n\n" + json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1.1", "meta": {"n": 3}, "examples": ROWS, "note": ["x"]}, indent=1),
        json.dumps({"rows": ROWS}) + "\n",
        json.dumps({"features": [{"name": "question"}], "rows": [
            {"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)]}),
        json.dumps({"train": ROWS}),
        json.dumps({"test": ROWS[:1], "train": ROWS, "dev": []}),
        json.dumps({"name": "mine", "tasks": ["a", "b"], "Aufgaben": ROWS}),
        json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
        json.dumps({key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]}),
        json.dumps({"columns": list(ROWS[0]), "index": [0, 1, 2], "data": [list(r.values()) for r in ROWS]}),
    ],
)  # fmt: skip
def test_json_in_every_way(tmp_path: Path, name: str, text: str) -> None:
    text = text.removesuffix("\ufeff")
    assert rows_of(written(tmp_path / name, text)) == ROWS


def test_rows_by_their_id(tmp_path: Path) -> None:
    path = written(tmp_path / "in.json", json.dumps({"q7": ROWS[0], "q9": {**ROWS[1], "id": "own"}}))
    assert rows_of(path) == [{"id": "q7", **ROWS[0]}, {**ROWS[1], "id": "own"}]
    assert [example.id for example in load_examples(str(path))[0]] == ["q7", "own"]


@pytest.mark.parametrize("name", ["in.json", "in.jsonl"])
def test_one_row_is_a_row(tmp_path: Path, name: str) -> None:
    chat = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "7"}]}
    choices = [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}]
    for row in (
        ROWS[0],
        chat,
        {"prompt": chat["messages"][:1], "completion": chat["messages"][1:]},
        {"id": 1, "question": {"stem": "Q?", "choices": choices}, "data": "x"},
        {"question": "Q?", "choices": choices},
    ):
        for text in (json.dumps(row), json.dumps(row, indent=2)):
            assert rows_of(written(tmp_path / name, text)) == [row]


def test_splits_in_one_file(tmp_path: Path) -> None:
    path = written(tmp_path / "in.json", json.dumps({"train": ROWS[:1], "dev": ROWS[1:2], "test": ROWS[2:]}))
    assert rows_of(path) == ROWS[:1]
    assert rows_of(path, "validation") == ROWS[1:2]
    assert rows_of(path, "test") == ROWS[2:]
    assert rows_of(path, "train+test") == [ROWS[0], ROWS[2]]
    assert load_examples(f"{path}?split=dev")[0][0].question == ROWS[1]["question"]
    assert load_examples(str(path), split="test")[0][0].question == ROWS[2]["question"]
    for split in ("extra", "train+extra"):
        with pytest.raises(
            DataError, match=r"no split 'extra'. Splits: train, dev, test. Choose one .*\?split=train"
        ):
            load_examples(str(path), split=split)
    alone = written(tmp_path / "alone.json", json.dumps({"test": ROWS}))
    assert rows_of(alone, "train") == ROWS  # one split is the file's rows, as any file's are


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [{"question": "Q", "answer": 1}], "data2": [', r"line 1: broken JSON"),
        ('{"data": [{"question": "Q", "answer": 1}\n]}\n{"data": [{}]}', r"several objects, each with rows"),
        ('[{"question": "Q", "answer": 1},\n {"question": "R" "answer": 1}]', r"line 2: broken .*delimiter"),
        ('[{"question": "Q", "answer": 1}\n {"question": "R"}]', r"line 2: broken JSON \(expected ',' or"),
        ('[{"question": "Q", "answer": 1},]', r"line 1: broken JSON"),
        ('[{"question": "Q", "answer": 1}', r"line 1: broken JSON \(expected ',' or '\]'"),
        ('[{"question": "Q", "answer": 1}]]', r"line 1: broken JSON \(more after its end"),
        ('[{"question": "Q", "answer": 1}, null]', r"row 2: expected a JSON object, found null"),
        ('[{"question": "Q", "answer": 1}, {"question": "\\ud83d\\ude0', r"broken JSON"),
        ('{"question": "Q", 5: 1}', r"broken JSON"),
        ("{'question': 'Q', 'answer': 1}\n{'question': 'R'}\n", r"line 1: .*json\.dumps. writes JSON"),
        ('{"question": "Q", "answer": 1e99999999999999999999}\n' * 2, r"line 1: broken JSON \(a number out"),
        ('[{"question": "Q", "answer": 1e99999999999999999999}]', r"line 1: broken JSON \(a number out"),
        ("[" * 100_000, r"line 1: broken JSON|found a list"),
        ("5", r"found a number"),
    ],
)
def test_broken_json_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_examples(str(written(tmp_path / "in.json", text)))
    assert len(str(raised.value)) < 600


def test_a_fault_deep_in_a_long_list_is_found_at_its_line(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"Q{i} {'long ' * 50}", "answer": i}) for i in range(2000)]
    rows[1700] = rows[1700].replace('"answer":', '"answer"')
    path = written(tmp_path / "in.json", "[\n" + ",\n".join(rows) + "\n]")
    with pytest.raises(DataError, match=r"line 1702: broken JSON"):
        load_examples(str(path))
    assert len(load_examples(str(path), limit=1700)[0]) == 1700


@pytest.mark.parametrize("wrapped", [False, True])
def test_long_values_across_the_pieces_read(tmp_path: Path, wrapped: bool) -> None:
    rows = [
        {"question": "é🍎" * 50_000 + str(i), "answer": 1234567890123 + i, "n": -1.5e-7} for i in range(5)
    ]
    text = json.dumps({"meta": 12345, "data": rows} if wrapped else rows)
    assert [dict(row, n=float(row["n"])) for row in rows_of(written(tmp_path / "in.json", text))] == rows


def test_a_long_line_is_not_taken_for_two(tmp_path: Path) -> None:
    def text(pad: int) -> str:
        rows = [{"question": "Q" * 20, "n": i} for i in range(7_000)]
        return json.dumps({"note": "x" * pad, "data": rows})

    # The piece that is looked at (2 ** 18 characters) ends just before a brace.
    piece = 1 << 18
    pad = piece - text(0).rindex("{", 0, piece)
    assert text(pad)[piece] == "{"
    assert sum(1 for _ in read_file(written(tmp_path / "in.jsonl", text(pad))).rows) == 7_000


def test_nan_and_infinity_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", '{"question": "Q", "cot": NaN, "answer": -Infinity}\n' * 2)
    [first, _] = rows_of(path)
    assert first["cot"] != first["cot"]
    assert first["answer"] == float("-inf")


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables(tmp_path: Path, delimiter: str, end: str, encoding: str) -> None:
    for name in ("in.csv", "in.tsv"):
        assert rows_of(written(tmp_path / name, table(delimiter, end=end), encoding)) == TABLE


@pytest.mark.parametrize(
    "text",
    [
        'question,answer\n"a; b; c; d",1\nx;y,2\n',
        '"question, or; so",answer\nQ,1\n',
        'question;"answer, given, here"\n"1,5, 2,5";3\n',
        "question\tanswer\na, b; c, d; e\t1\n",
        "sep=;\nquestion;answer\na,b;1\n",
        'question,answer\n"Q""; ""x"" ",1\n"two\nlines; here",2\n',
        "question;answer, final\n\"Q, R, S\";1\nT;2\n",
        "\n\n,,\nquestion,answer\nQ,1\n",
    ],
)  # fmt: skip
def test_what_parts_the_values_is_found_out(tmp_path: Path, text: str) -> None:
    read = read_file(written(tmp_path / "in.csv", text))
    assert len(read.columns) == 2
    assert all(len(row) == 2 and all(row.values()) for _, row in read.rows)


def test_spreadsheet_exports(tmp_path: Path) -> None:
    text = "question,answer,,\r\nQ?,1,,\r\n,,,\r\nR?,2\r\n , ,,\r\nS?,3,,,,\r\n"
    path = written(tmp_path / "in.csv", text)
    assert read_file(path).columns == ("question", "answer")
    assert list(read_file(path).rows) == [
        (2, {"question": "Q?", "answer": "1"}),
        (4, {"question": "R?", "answer": "2"}),
        (6, {"question": "S?", "answer": "3"}),
    ]
    # A comma too many must not move the answer into a column that nobody reads.
    with pytest.raises(
        DataError, match=r"line 2: value 3 stands in a column without a name.*Q\? \| then \| 1"
    ):
        load_examples(str(written(path, "question,answer,,\nQ?, then,1,\n")))


def test_pandas_writes_its_index_without_a_name(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", ",question,answer\n0,Q?,1\n1,R?,2\n")
    assert rows_of(path) == [{"question": "Q?", "answer": "1"}, {"question": "R?", "answer": "2"}]


def test_values_of_any_length(tmp_path: Path) -> None:
    rows = [{"question": "Q?", "cot": "First 3 + 4 = 7. " * 20_000, "answer": "7"}] * 2
    for name in ("in.csv", "in.tsv"):
        [first, _] = rows_of(
            written(tmp_path / name, table(rows=rows, delimiter="," if "csv" in name else "\t"))
        )
        assert first == rows[0]


def test_an_open_quote_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", 'question,answer\nQ,1\n"R,2\n' + "S,3\n" * 50_000)
    with pytest.raises(DataError, match=r"line 3: broken CSV .*must end with one"):
        load_examples(str(path))
    path = written(tmp_path / "in.tsv", 'question\tanswer\n"R" he says\t2\n')
    with pytest.raises(DataError, match=r"line 2: broken CSV"):
        load_examples(str(path))


# Columns of Arrow


def test_parquet_and_arrow(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    feather = pytest.importorskip("pyarrow.feather")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = pa.Table.from_pylist(ROWS * 900)
    parquet.write_table(data, tmp_path / "in.parquet", row_group_size=700)
    feather.write_feather(data, tmp_path / "in.feather")
    with pa.ipc.new_file(tmp_path / "file.arrow", data.schema) as out:
        out.write_table(data, 500)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", data.schema) as out:
        out.write_table(data, 500)
    for name in ("in.parquet", "in.feather", "file.arrow", "stream.arrow"):
        read = read_file(tmp_path / name)
        assert (read.columns, read.unit) == (("question", "steps", "answer"), "row")
        found = list(read.rows)
        assert [row for _, row in found] == ROWS * 900
        assert [number for number, _ in found] == list(range(1, 2701))
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "file.arrow").read_bytes()[:3000])
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "in.parquet").read_bytes()[:3000])
    for name in ("cut.arrow", "cut.parquet"):
        with pytest.raises(DataError, match="not a readable"):
            load_examples(str(tmp_path / name))


def test_short_floats_are_read_as_written(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    answers = pa.array([0.1, None, 3.3], pa.float32())
    parquet.write_table(pa.table({"question": ["Q", "R", "S"], "answer": answers}), tmp_path / "in.parquet")
    examples, _ = load_examples(str(tmp_path / "in.parquet"), skip_bad_rows=True)
    assert [example.answer for example in examples] == ["0.1", "3.3"]


# Packed, and in other encodings


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_packed_files(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    for name, text in (("in.jsonl", lines()), ("in.json", json.dumps({"data": ROWS}, indent=1))):
        path = tmp_path / (name + ending)
        path.write_bytes(pack(text.encode("utf-8-sig")))
        assert rows_of(path) == ROWS
        assert [example.id for example in load_examples(str(path))[0]] == ["in:1", "in:2", "in:3"]
    path = tmp_path / f"in.csv{ending}"
    path.write_bytes(pack(table(";").encode("utf-16")))
    assert rows_of(path) == TABLE
    (tmp_path / "in.jsonl").write_bytes(pack(lines().encode()))  # packed, and not called so
    assert rows_of(tmp_path / "in.jsonl") == ROWS
    path.write_bytes(pack((table() * 500).encode())[:-20])
    with pytest.raises(DataError, match=r"damaged|cannot be read"):
        rows_of(path)


def test_packed_with_zstandard(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "in.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(lines(ROWS * 500).encode())
    assert rows_of(path) == ROWS * 500
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"damaged|cannot be read"):
        rows_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question,answer\ncaf\xe9,1\n".encode("latin-1"), r"not UTF-8 text \(byte 0xe9, .*iconv"),
        ("question,answer\nQ,1\n".encode("utf-16-le"), r"zero bytes.*UTF-16 without"),
        (b"PAR1xxxx", r"Parquet file"),
        (b"PK\x03\x04xxxxxxx", r"\.xlsx"),
        (b"\n<!DOCTYPE html><html>", r"web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            r"Git LFS pointer.*git lfs pull",
        ),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    binary = ("in.parquet", "in.arrow") if content.startswith((b"version", b"\n<")) else ()
    for name in ("in.csv", "in.jsonl", "in.json", *binary):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_examples(str(path))


def test_utf16_json(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path / "in.jsonl", lines(), "utf-16")) == ROWS


# Limits


class Counted:
    """Bytes that this process read from files, as the system counts them."""

    def __init__(self) -> None:
        self.file = Path("/proc/self/io")
        if not self.file.exists():
            pytest.skip("the system does not count what is read")
        self.before = self.now()

    def now(self) -> int:
        return int(self.file.read_text().split()[1])

    def since(self) -> int:
        return self.now() - self.before


@pytest.mark.parametrize(
    "name", ["in.jsonl", "in.json", "wrapped.json", "in.csv", "in.jsonl.gz", "in.parquet"]
)
def test_a_limit_reads_no_further(tmp_path: Path, name: str) -> None:
    rows = [{"question": f"Question {i}: {'how many? ' * 9}", "answer": str(i * 7919)} for i in range(50_000)]
    path = tmp_path / name
    if name.endswith("jsonl"):
        written(path, lines(rows))
    elif name.endswith("gz"):
        path.write_bytes(gzip.compress(lines(rows).encode(), 1))
    elif name.endswith("csv"):
        written(path, table(rows=rows))
    elif name.endswith("parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.Table.from_pylist(rows), path, row_group_size=1 << 20
        )
    else:
        written(path, json.dumps({"v": 1, "data": rows} if "wrapped" in name else rows))
    load_examples(str(path), limit=1)  # what is imported is read too
    counted = Counted()
    examples, report = load_examples(str(path), limit=10)
    assert counted.since() < 1_000_000 < 5 * path.stat().st_size
    assert [example.answer for example in examples] == [str(i * 7919) for i in range(10)]
    assert (report.read, report.stopped_at) == (10, 10)


@pytest.mark.parametrize("bad", ["oops", '{"question": ""}', "[1]"])
def test_what_is_broken_after_the_limit_is_never_met(tmp_path: Path, bad: str) -> None:
    good = '{"question": "Q", "answer": "1"}\n'
    path = written(tmp_path / "in.jsonl", good * 10 + bad + "\n" + good)
    examples, report = load_examples(str(path), limit=10)
    assert (len(examples), report.stopped_at) == (10, 10)
    with pytest.raises(DataError, match="line 11"):
        load_examples(str(path), limit=11)


def test_columns_that_come_late_are_read(tmp_path: Path) -> None:
    rows = [{"question": "Q", "answer": "1"}] * 1500 + [{"question": "Q", "cot": "<<1+1=2>>", "answer": "2"}]
    examples, _ = load_examples(str(written(tmp_path / "in.jsonl", lines(rows))))
    assert (examples[0].steps, examples[-1].steps) == ((), ("<<1+1=2>>",))


# Ids


def test_repeated_ids_are_told_apart(tmp_path: Path) -> None:
    def ids(rows: list[dict[str, Any]], **options: Any) -> list[str]:
        path = written(
            tmp_path / "in.jsonl", lines([{"question": "Q", "answer": "1", **row} for row in rows])
        )
        return [example.id for example in load_examples(str(path), **options)[0]]

    variants = [{"id": i, "instance": j} for i in range(2) for j in range(3)]
    assert ids(variants) == ["0:0", "0:1", "0:2", "1:0", "1:1", "1:2"]
    assert ids(variants, limit=1) == ["0:0"]
    assert ids([{"id": name} for name in "aabaab"]) == ["a", "a#2", "b", "a#3", "a#4", "b#2"]
    assert ids([{"id": name} for name in ("a", "a", "a#2", "a", "a#2")]) == [
        "a",
        "a#2",
        "a#2#2",
        "a#3",
        "a#2#3",
    ]
    assert ids([{"id": "in:2"}, {}, {"id": None}]) == ["in:2", "in:2#2", "in:3"]
    assert ids([{"id": "a", "instance": "a long text"}] * 2) == ["a", "a#2"]
    assert ids(variants * 2)[6:] == ["0:0#2", "0:1#2", "0:2#2", "1:0#2", "1:1#2", "1:2#2"]


def test_the_page_on_files_names_every_form() -> None:
    page = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf-8")
    assert all(f"`{ending}`" in page for ending in (*READERS, *COMPRESSED))


def test_one_line_is_one_row_also_where_its_values_are_objects(tmp_path: Path) -> None:
    """A mapping of rows by their ids has the same shape; the names of the keys tell them apart."""
    row = {"question": {"problem": "2 + 2 ?"}, "label": {"steps": [{"text": "2 + 2 = 4"}]}}
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert rows_of(path) == [row]
    path.write_text(json.dumps({"a": {"question": "1 ?"}, "b": {"question": "2 ?"}}), encoding="utf-8")
    assert [found["id"] for found in rows_of(path)] == ["a", "b"]
