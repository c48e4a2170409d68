"""Reads what jobs wrote with pandas, pyarrow, polars and DuckDB, as somebody would who knows nothing of us, and compares
every value with the lines of f32. The folder is the one that .ci/tables fills."""

import json
import sys
from pathlib import Path

import duckdb
import numpy
import pandas
import polars
import pyarrow
import pyarrow.parquet

ROOM = Path(sys.argv[1])
FACTS = ["media_bytes", "media_width", "media_height", "media_frames", "media_duration_ms"]
PLAIN = ["id", "row", "space", *FACTS, "truncated", "status"]


def lines(folder, prefix="part-"):
    parts = sorted(folder.glob(f"{prefix}*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def none(value):
    """A hole is a hole, however a library calls it."""
    return None if value is None or value is pandas.NA or value != value else value


def rows_of_pandas(folder):
    # The whole folder: what lies beside the parts is passed over.
    frame = pandas.read_parquet(folder)
    return frame.sort_values("row").to_dict("records"), {"embedding": str(frame.embedding.iloc[0].dtype)}


def rows_of_pyarrow(folder):
    table = pyarrow.parquet.read_table(folder).sort_by("row")
    kind = table.schema.field("embedding").type
    assert pyarrow.types.is_fixed_size_list(kind), kind
    said = pyarrow.parquet.read_metadata(next(folder.glob("part-*.parquet"))).metadata
    assert said[b"vljepa.space"].decode() == table["space"][0].as_py(), said
    return table.to_pylist(), {"embedding": str(kind.value_type), "list": kind.list_size}


def rows_of_polars(folder):
    frame = polars.read_parquet(folder / "*.parquet").sort("row")
    kind = frame.schema["embedding"]
    return frame.to_dicts(), {"embedding": str(kind.inner), "list": kind.shape[0]}


def rows_of_duckdb(folder):
    relation = duckdb.sql(f"select * from '{folder}/*.parquet' order by row")
    kinds = dict(zip(relation.columns, map(str, relation.types)))
    rows = [dict(zip(relation.columns, row)) for row in relation.fetchall()]
    return rows, {"embedding": kinds["embedding"].split("[")[0]}


READERS = {"pandas": rows_of_pandas, "pyarrow": rows_of_pyarrow, "polars": rows_of_polars, "duckdb": rows_of_duckdb}
# DuckDB has no half floats and reads them as floats.
TYPES = {
    "f32": {"pandas": "float32", "pyarrow": "float", "polars": "Float32", "duckdb": "FLOAT"},
    "f16": {"pandas": "float16", "pyarrow": "halffloat", "polars": "Float16", "duckdb": "FLOAT"},
    "int8": {"pandas": "int8", "pyarrow": "int8", "polars": "Int8", "duckdb": "TINYINT"},
}


def stored(values, dtype):
    """The values of an f32 embedding as the type has them."""
    values = numpy.array(values, dtype=numpy.float32)
    if dtype == "f16":
        return values.astype(numpy.float16).astype(numpy.float32)
    if dtype == "int8":
        scaled = values * numpy.float32(127 / numpy.abs(values).max())
        return numpy.trunc(scaled + numpy.copysign(numpy.float32(0.5), scaled)).astype(numpy.float32)
    return values


def same(rows, expected, dtype, lists=("embedding",)):
    assert len(rows) == len(expected), (len(rows), len(expected))
    for row, line in zip(rows, expected):
        assert list(row) == list(line), (list(row), list(line))
        for name in PLAIN + (["answer"] if "answer" in line else []):
            assert none(row[name]) == line[name], (name, row[name], line[name])
        for name in lists:
            got = numpy.array(list(row[name]), dtype=numpy.float32)
            want = stored(line[name], dtype if name == "embedding" else "f32")
            # One step of the integers: f32 rounds the scale in another order.
            assert numpy.abs(got - want).max() <= (1 if dtype == "int8" else 0), (row["id"], name)


texts = lines(ROOM / "texts-f32-jsonl")
assert len(texts) == 250, "250 texts"
for dtype, types in TYPES.items():
    same(lines(ROOM / f"texts-{dtype}-jsonl"), texts, dtype)
    for name, read in READERS.items():
        rows, kinds = read(ROOM / f"texts-{dtype}-parquet")
        assert kinds["embedding"] == types[name], (name, kinds)
        assert kinds.get("list", len(texts[0]["embedding"])) == len(texts[0]["embedding"]), (name, kinds)
        same(rows, texts, dtype)
    print(f"{dtype}: 250 rows are the same to {', '.join(READERS)}")

pictures = lines(ROOM / "media-jsonl")
assert [row["id"] for row in pictures] == ["squares.jpg", "star.gif"], pictures
assert all(row["media_width"] > 0 and row["answer"] in ("a star", "a square") for row in pictures), pictures
for name, read in READERS.items():
    rows, _ = read(ROOM / "media-parquet")
    same(rows, pictures, "f32", ("embedding", "scores"))
print(f"pictures with candidates are the same to {', '.join(READERS)}")

folder = ROOM / "texts-f32-jsonl"
parts = sorted(map(str, folder.glob("part-*.jsonl")))
same(pandas.concat(pandas.read_json(part, lines=True) for part in parts).to_dict("records"), texts, "f32")
same(polars.read_ndjson(parts).to_dicts(), texts, "f32")
relation = duckdb.sql(f"select * from read_json('{folder}/part-*.jsonl') order by row")
same([dict(zip(relation.columns, row)) for row in relation.fetchall()], texts, "f32")
print("lines are the same to pandas, polars, duckdb")

for folder, failed in [("texts-f32-parquet", "empty"), ("media-parquet", "torn.png")]:
    errors = lines(ROOM / folder, "_errors-")
    assert [(row["id"], row["code"]) for row in errors] == [(failed, "INVALID_ARGUMENT")], errors
    assert polars.read_ndjson(sorted((ROOM / folder).glob("_errors-*.jsonl"))[0]).columns == list(errors[0])
print("errors are read as lines")
