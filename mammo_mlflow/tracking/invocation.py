"""Read a request to a served model: JSON or Parquet in, checked arrays out.

MLflow casts a request to the signature's type before a model sees it: 0.5 becomes 0, "12836" and 12836.5 become 12836,
true becomes 1. Here each row is made an array of its own and checked before any cast (`json_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from mlflow.types import Schema, TensorSpec

from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.experiment import ABNORMALITY_TYPE, PATCH
from mammo_mlflow.pixels import LARGEST, RAW, whole_numbers
from mammo_mlflow.tracking.json_rows import BOOLEANS, Fault, read_rows
from mammo_mlflow.tracking.parquet_rows import read_table

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
JSON, PARQUET = "application/json", "application/vnd.apache.parquet"
TYPE = "0 (mass) or 1 (calcification)"

Columns = dict[str, object]
"""The rows of each input by its name, unchecked."""


def read_request(body: bytes, content_type: str | None, schema: Schema) -> dict[str, np.ndarray]:
    """Parse a request's body into the inputs of a model by name: arrays (n, …) in the dtypes of the signature.

    `patch` and `baseline` are (n, size, size, 1) uint16, raw 16-bit values; `abnormality_type` is (n, 1), 0 or 1. A
    lone input without a name is the patch. Patches are nested lists as in the signature or, in the cells of a table,
    flat ones of as many numbers. Raises `UserError`, one line, for everything else.
    """
    specs = {one.name or PATCH: one for one in schema.inputs if isinstance(one, TensorSpec)}
    named = schema.has_input_names()
    numbers = sum(math.prod(spec.shape[1:]) for spec in specs.values())
    columns, form = _columns(body, _media_type(content_type), list(specs), named, numbers)
    order = sorted(specs, key=lambda name: name != PATCH)  # the patch first
    taken = {name: _array(form, name, specs[name], columns.pop(name)) for name in order}
    for name, values in taken.items():
        if len(values) != len(taken[PATCH]):
            raise expected(f"{form}: {name}", f"{len(taken[PATCH])} rows as of {PATCH}", len(values))
    return taken


def _media_type(content_type: str | None) -> str:
    found, *parameters = (part.strip().lower() for part in (content_type or "").split(";"))
    if found not in (JSON, PARQUET):
        raise expected("Content-Type", f"{JSON} or {PARQUET}", f"'{found}'" if found else "none")
    for name, _, value in (one.partition("=") for one in parameters if one):
        if name.strip() != "charset" or value.strip(' "') not in ("utf-8", "utf8"):
            raise expected("Content-Type", f"{JSON} in UTF-8", f"'{content_type}'")
    return found


def _columns(body: bytes, media_type: str, names: list[str], named: bool, numbers: int) -> tuple[Columns, str]:
    """The rows of each input, and the form of the request; a whole row has so many `numbers`."""
    if media_type == PARQUET:
        return _of_table(PARQUET, *read_table(body, numbers), names, named), PARQUET
    try:
        parsed = read_rows(body.decode("utf-8-sig"), numbers)
    except RecursionError:
        raise expected("request", "a JSON object", "lists in lists without end") from None
    except ValueError as problem:  # also bytes that are no UTF-8, and a number of thousands of digits
        raise expected("request", "valid JSON", f"something else ({problem})") from None
    if not isinstance(parsed, dict):
        raise expected("request", "a JSON dictionary", _kind(parsed))
    form = _form(parsed)
    value = parsed.pop(form)
    if form == "dataframe_split":
        return _of_table(form, *_split(value), names, named), form
    if form == "dataframe_records":
        return _of_table(form, *_records(form, value), names, named), form
    if isinstance(value, list) and value and isinstance(value[0], dict):
        if form == "inputs":
            raise expected(form, _wanted(names, named), "a list of dictionaries, as 'instances' are")
        value = dict(zip(*_records(form, value), strict=True))
    if named:
        if not isinstance(value, dict):
            raise expected(form, _wanted(names, named), _kind(value))
        return _named(form, value, names), form
    if not isinstance(value, list):
        found = f"a dictionary of {', '.join(map(str, value))}" if isinstance(value, dict) else _kind(value)
        raise expected(form, _wanted(names, named), found)
    return {names[0]: value}, form


def _form(parsed: Mapping[str, object]) -> str:
    found = [name for name in FORMS if name in parsed]
    if len(found) > 1:
        raise expected("request", f"one of the fields {', '.join(FORMS)}", " and ".join(found))
    if found:
        return found[0]
    if not parsed:
        raise expected("request", f"one of the fields {', '.join(FORMS)}", "none")
    raise unknown_name("request", next(iter(parsed)), FORMS)


def _named(form: str, given: Mapping[str, object], names: list[str]) -> Columns:
    """The inputs of a model by their names; MLflow overlooks others, and so does this where none is missing."""
    missing, more = [name for name in names if name not in given], [name for name in given if name not in names]
    if missing and more:
        raise unknown_name(form, more[0], names)
    if missing:
        raise expected(form, ", ".join(names), f"no {', no '.join(missing)}")
    return {name: given[name] for name in names}


def _of_table(form: str, header: list[str], columns: Iterable[list[object]], names: list[str], named: bool) -> Columns:
    given = dict(zip(header, columns, strict=True))
    if named:
        return _named(form, given, names)
    if len(given) != 1:
        raise expected(form, "one column, a patch in each cell", f"{len(given)} columns")
    return {names[0]: next(iter(given.values()))}


def _records(form: str, rows: object) -> tuple[list[str], Iterator[list[object]]]:
    """Columns of rows that are dictionaries of the same names."""
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise expected(form, "a list of dictionaries, one for each row", _kind(rows))
    names = list(rows[0])
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(names):
            found = ", ".join(row) if isinstance(row, dict) else _kind(row)
            raise expected(f"{form}: row {number}", f"{', '.join(names)} as in row 0", found)
    return names, ([row.pop(name) for row in rows] for name in names)


def _split(table: object) -> tuple[list[str], Iterator[list[object]]]:
    if not isinstance(table, dict) or not isinstance(table.get("data"), list) or not table["data"]:
        found = "another" if isinstance(table, dict) else _kind(table)
        raise expected("dataframe_split", 'a dictionary of "columns" and "data", rows in a list', found)
    data = table["data"]
    width = len(data[0]) if isinstance(data[0], list) else 1
    columns = table.get("columns") or [str(number) for number in range(width)]
    if not isinstance(columns, list) or len(set(map(str, columns))) < len(columns):
        raise expected("dataframe_split: columns", "different names in a list", str(columns)[:80])
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            cells = str(len(row)) if isinstance(row, list) else _kind(row)
            raise expected(f"dataframe_split: row {number}", f"{len(columns)} cells in a list", cells)
    return [str(name) for name in columns], ([row[at] for row in data] for at in range(len(columns)))


def _array(form: str, name: str, spec: TensorSpec, rows: object) -> np.ndarray:
    """The rows of an input as one array in the signature's type; `rows` is emptied."""
    shape = tuple(spec.shape[1:])
    text = ", ".join(["n", *map(str, shape)])
    if not isinstance(rows, list):
        raise expected(f"{form}: {name}", f"an array ({text})", _kind(rows))
    if not rows:
        raise expected(f"{form}: {name}", f"an array ({text}), n at least 1", "no row")
    highest, wanted = (1, TYPE) if name == ABNORMALITY_TYPE else (LARGEST, RAW)
    count, taken = len(rows), []
    for number in range(count):
        where, row = f"{form}: {name} {number}", rows[number]
        rows[number] = None
        if isinstance(row, Fault | bool):
            found = BOOLEANS if isinstance(row, bool) else row
            raise expected(where, "numbers" if found == BOOLEANS else wanted, found)
        values = whole_numbers(where, row, highest, wanted)
        if values.shape != shape and (not form.startswith(("data", PARQUET)) or values.size != math.prod(shape)):
            raise expected(f"{form}: {name}: shape", f"({text})", (count, *values.shape))
        taken.append(values.reshape(shape))
    return np.stack(taken).astype(spec.type, copy=False)


def _wanted(names: list[str], named: bool) -> str:
    return f"a dictionary of {', '.join(names)}" if named else "an array without a name"


def _kind(value: object) -> str:
    kinds = {dict: "a dictionary", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    found = kinds.get(type(value), "a number")
    return f"{found} '{value[:20]}'" if isinstance(value, str) else found
