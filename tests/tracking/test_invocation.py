"""Requests to a served model, in every form that MLflow takes: the inputs they give, or one line."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.types import Schema, TensorSpec

from mammo_mlflow.errors import UserError
from mammo_mlflow.tracking.invocation import read_request

SIZE = 3
JSON, PARQUET = "application/json", "application/vnd.apache.parquet"
RAW = "expected raw 16-bit values, whole numbers from 0 to 65535, found"
PIXELS = np.random.default_rng(0).integers(0, 65536, (2, SIZE, SIZE, 1))
NESTED, FLAT, TYPES = PIXELS.tolist(), PIXELS.reshape(2, -1).tolist(), [[0], [1]]


def spec(name=None):
    return TensorSpec(np.dtype(np.uint16), (-1, SIZE, SIZE, 1), name)


LONE = Schema([spec()])
NAMED = Schema([spec("patch"), spec("baseline"), TensorSpec(np.dtype(np.float32), (-1, 1), "abnormality_type")])
ROWS = [
    {"patch": patch, "baseline": patch, "abnormality_type": kind} for patch, kind in zip(NESTED, TYPES, strict=True)
]
TABLE = [row | {"patch": flat, "baseline": flat} for row, flat in zip(ROWS, FLAT, strict=True)]
WHOLE = {"patch": NESTED, "baseline": NESTED, "abnormality_type": TYPES}


def read(body, schema=LONE, content_type=JSON):
    return read_request(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type, schema)


def parquet(columns):
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": NESTED},
        {"instances": NESTED},
        {"inputs": PIXELS.astype(float).tolist(), "params": {}},
        {"dataframe_split": {"columns": ["any"], "data": [[one] for one in FLAT]}},
        {"dataframe_split": {"data": [[one] for one in NESTED], "index": [4, 5]}},
        {"dataframe_records": [{"any": one} for one in FLAT]},
        b"\xef\xbb\xbf" + json.dumps({"inputs": NESTED}).encode(),
    ],
)
def test_patches_without_a_name(body):
    (found,) = read(body).values()
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": WHOLE},
        {"inputs": WHOLE | {"other": 1}},
        {"instances": WHOLE},
        {"instances": ROWS},
        {"dataframe_records": TABLE},
        {"dataframe_records": [row | {"abnormality_type": row["abnormality_type"][0]} for row in TABLE]},
        {"dataframe_split": {"columns": list(ROWS[0]), "data": [list(row.values()) for row in TABLE]}},
    ],
)
def test_named_inputs(body):
    found = read(body, NAMED)
    assert list(found) == ["patch", "baseline", "abnormality_type"]
    assert found["abnormality_type"].dtype == np.float32
    assert found["abnormality_type"].tolist() == TYPES
    np.testing.assert_array_equal(found["baseline"], PIXELS)


def test_a_parquet_file_of_flat_patches():
    body = parquet({"patch": list(PIXELS.reshape(2, -1).astype(np.uint16))})
    np.testing.assert_array_equal(read(body, content_type=PARQUET)["patch"], PIXELS)
    with pytest.raises(UserError, match=rf"patch 0: {RAW} 0\.5"):
        read(parquet({"patch": [[0.5] * SIZE**2]}), content_type=PARQUET)


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'])
def test_a_content_type_may_be_spelled_in_several_ways(content_type):
    assert len(read({"inputs": NESTED}, content_type=content_type)["patch"]) == 2


def holding(text):
    """A request with this in place of one pixel, as it may stand in JSON or may not."""
    pixels = json.dumps(NESTED[1]).replace(str(FLAT[1][0]), text, 1)
    return f'{{"inputs": [{json.dumps(NESTED[0])}, {pixels}]}}'.encode()


LINES = {
    "scaled": ({"inputs": (PIXELS / 65535).tolist()}, f"inputs: patch 0: {RAW} 0."),
    "text": ({"inputs": PIXELS.astype(str).tolist()}, f'inputs: patch 0: {RAW} "'),
    "scaled in a table": (
        {"dataframe_records": [{"x": [0.5] * SIZE**2}]},
        f"dataframe_records: patch 0: {RAW} 0.5",
    ),
    **{
        text: (holding(text), f"inputs: patch 1: {RAW} {found}")
        for text, found in {
            "12836.5": "12836.5",
            '"12836"': '"12836"',
            "null": "null",
            "NaN": "NaN",
            "-Infinity": "-Infinity",
            "1e400": "Infinity",
            "-1": "-1",
            "65536": "65536",
            "1" + "0" * 50: "1" + "0" * 36 + "...",
            "{}": "an object",
            "[7]": "lists of different lengths",
            "[]": "lists of different lengths",
        }.items()
    },
    "true": (holding("true"), "inputs: patch 1: expected numbers, found true or false"),
    "digits": (holding("1" * 5000), "request: expected valid JSON"),
    "half": (b"{", "request: expected valid JSON"),
    "nothing": (b"", "request: expected valid JSON"),
    "other bytes": (json.dumps({"inputs": NESTED}).encode("utf-16"), "request: expected valid JSON"),
    "deep": (b'{"inputs":' + b"[" * 99999 + b"]" * 99999 + b"}", "request: expected a JSON object"),
    "a list": ([], "request: expected a JSON dictionary, found a list"),
    "empty": ({}, "request: expected one of the fields inputs, instances"),
    "misspelt": ({"input": NESTED}, "request: unknown 'input', did you mean 'inputs'?"),
    "two forms": ({"inputs": NESTED, "instances": NESTED}, "found inputs and instances"),
    "no channel": ({"inputs": PIXELS[..., 0].tolist()}, "shape: expected (n, 3, 3, 1), found (2, 3, 3)"),
    "one patch": ({"inputs": PIXELS[0, ..., 0].tolist()}, "shape: expected (n, 3, 3, 1), found (3, 3)"),
    "another size": ({"inputs": np.zeros((1, 9, 9, 1), int).tolist()}, "found (1, 9, 9, 1)"),
    "flat": ({"inputs": FLAT}, "shape: expected (n, 3, 3, 1), found (2, 9)"),
    "short": ({"dataframe_records": [{"x": [1, 2]}]}, "shape: expected (n, 3, 3, 1), found (1, 2)"),
    "none": ({"inputs": []}, "inputs: patch: expected an array (n, 3, 3, 1), n at least 1, found no row"),
    "a word": ({"inputs": "x"}, "inputs: expected an array without a name, found a text 'x'"),
    "null alone": ({"inputs": None}, "inputs: expected an array without a name, found null"),
    "by name": ({"inputs": {"patch": NESTED}}, "expected an array without a name, found a dictionary of patch"),
    "rows by name": ({"instances": [{"patch": NESTED[0]}]}, "found a dictionary of patch"),
    "a wide table": ({"dataframe_records": [dict.fromkeys("abc", 1)]}, "expected one column, a patch in each cell"),
    "no table": ({"dataframe_split": {}}, 'dataframe_split: expected a dictionary of "columns" and "data"'),
    "a ragged table": ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "row 0: expected 1 cells"),
    "no columns": ({"dataframe_split": {"columns": 5, "data": [[1]]}}, "dataframe_split: columns: expected"),
    "no records": ({"dataframe_records": []}, "dataframe_records: expected a list of dictionaries"),
}
NAMED_LINES = {
    "a list": ({"inputs": NESTED}, "inputs: expected a dictionary of patch, baseline, abnormality_type, found a list"),
    "misnamed": ({"inputs": {"ptch": 1, "baseline": 1, "abnormality_type": 1}}, "'ptch', did you mean 'patch'?"),
    "missing": ({"inputs": {"patch": NESTED}}, "found no baseline, no abnormality_type"),
    "fewer": ({"inputs": WHOLE | {"baseline": NESTED[:1]}}, "inputs: baseline: expected 2 rows as of patch, found 1"),
    "scaled": ({"inputs": WHOLE | {"baseline": (PIXELS / 65535).tolist()}}, f"inputs: baseline 0: {RAW} 0."),
    "type 2": ({"inputs": WHOLE | {"abnormality_type": [[0], [2]]}}, "expected 0 (mass) or 1 (calcification), found 2"),
    "type 0.7": ({"inputs": WHOLE | {"abnormality_type": [[0.7], [1]]}}, "abnormality_type 0: expected 0 (mass) or 1"),
    "a true type": ({"inputs": WHOLE | {"abnormality_type": [[True], [1]]}}, "expected numbers, found true or false"),
    "a flat type": ({"inputs": WHOLE | {"abnormality_type": [0, 1]}}, "shape: expected (n, 1), found (2,)"),
    "uneven rows": ({"instances": [ROWS[0], {"patch": NESTED[0]}]}, "instances: row 1: expected patch, baseline"),
    "rows as inputs": ({"inputs": ROWS}, "found a list of dictionaries, as 'instances' are"),
}


@pytest.mark.parametrize(
    ("schema", "body", "said"),
    [*((LONE, *case) for case in LINES.values()), *((NAMED, *case) for case in NAMED_LINES.values())],
    ids=[*LINES, *(f"named: {name}" for name in NAMED_LINES)],
)
def test_what_makes_no_sense_is_a_line(schema, body, said):
    with pytest.raises(UserError) as refused:
        read(body, schema)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        (None, "found none"),
        ("text/csv", "found 'text/csv'"),
        ("application/x-www-form-urlencoded", "found 'application/x-www-form-urlencoded'"),
        ("application/json; charset=latin-1", "expected application/json in UTF-8"),
    ],
)
def test_another_content_type_is_a_line(content_type, found):
    with pytest.raises(UserError, match=r"^Content-Type: expected") as refused:
        read(b"a,b\n1,2\n", content_type=content_type)
    assert found in str(refused.value)


def test_no_parquet_file_is_a_line():
    with pytest.raises(UserError, match="request: expected a Parquet file, found something else"):
        read(b"x", content_type=PARQUET)


def bomb(count, compression="snappy"):
    """A Parquet file of some hundred bytes with one row of so many zeros."""
    file = io.BytesIO()
    pq.write_table(pa.table({"patch": pa.array([np.zeros(count, np.uint16)])}), file, compression=compression)
    return file.getvalue()


def test_a_parquet_file_that_unpacks_to_much_is_refused_unopened():
    body = bomb(2_000_000)
    assert len(body) < 1000
    with pytest.raises(UserError, match=r"expected a table of at most 109 numbers in .* found 2,000,000"):
        read(body, content_type=PARQUET)
    with pytest.raises(UserError, match=r"expected a Parquet file compressed by UNCOMPRESSED, .* found ZSTD"):
        read(bomb(9, "zstd"), content_type=PARQUET)


def test_an_object_for_each_byte_is_refused():
    for body in (b'{"inputs":[' + b"[]," * 10_000 + b"[]]}", b"{" + b'"a":{' * 10_000, b'{"inputs":[[1],[2],]}'):
        with pytest.raises(UserError, match=r"request: expected (valid JSON|a JSON object)"):
            read(body)
