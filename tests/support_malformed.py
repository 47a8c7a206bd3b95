"""Malformed inputs of every kind, seeded, and what a command or the model server says to each.

`KINDS` are functions of a random generator and a number: each spoils one input and asks for it, in this process, as a
user would. `benchmarks/malformed.py` asks for more of them than the tests do.
"""

import asyncio
import contextlib
import io
import json
import os
import resource
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support_collection import FILM, plan, write_collection, write_dicom
from support_server import SIZE

from mammo_mlflow.cli import main
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.base import spelled
from mammo_mlflow.tracking.server_limits import ARRIVAL, MAX_BODY
from mammo_mlflow.tracking.serving import MODEL, make_app

WORDS = [
    "../../outside", "/etc/passwd", "file:///etc/passwd", "models:/../..", "models:/m/1/../../x", "$(touch outside)",
    "`touch outside`", "; touch outside #", "| touch outside", "&& touch outside", "{{7*7}}", "${7*7}", "{0.__class__}",
    "%n%s%x", "%(name)s", "\x00", "a\nb", "a\r\nSet-Cookie: x", "\u202egpj", "．．/．．/outside", "..%2f..%2foutside",
    "\ud800", "'; DROP TABLE runs; --", '" onload="alert(1)', "<script>alert(1)</script>", "=HYPERLINK(1)", "@SUM(1)",
    "-1", "1e999", "nan", "9" * 5000, "x" * 100_000, "", " ", "true", "null", "~root/x", "C:\\outside", "\\\\host\\x",
    "CON", "a/" * 3000, "🦷" * 300, "mammo-mass_calc@../x", "models:/a@b@c", "runs:/../x", "sqlite:///../outside.db",
    "http://127.0.0.1:9/x", "s3://b/x", "!!python/object/apply:os.system [touch outside]", "import os",
]  # fmt: skip
"""Texts that are no name, path, parameter or address that anybody means."""


SUBJECT = "Mass-Training_P_00001_LEFT_CC"


@dataclass(frozen=True)
class Answer:
    """How an input was answered: a command's exit code or an HTTP status, what was said, and in how many seconds."""

    code: int
    said: tuple[str, ...]
    seconds: float
    refused: bool


class Room:
    """A folder with data, a store without runs and a served model, in which inputs are spoilt and asked for."""

    def __init__(self, where, phantom, empty_stores, model):
        self.where, self.phantom = where, phantom
        self.work = where / "work"
        shutil.copytree(empty_stores, self.work)
        shutil.copytree(phantom, where / "data")
        write_dicom(where / "whole.dcm", np.arange(120 * 100, dtype=np.uint16).reshape(120, 100), SUBJECT, FILM)
        write_collection(where / "films", plan(2))
        limits = {MODEL: str(model), MAX_BODY: "1", ARRIVAL: "5"}
        os.environ.update(limits)
        self.app = make_app()
        for name in limits:
            del os.environ[name]

    def command(self, *arguments):
        """Run a command here: its exit code and the lines that it wrote to standard error."""
        out, err, before, began = io.StringIO(), io.StringIO(), Path.cwd(), time.monotonic()
        os.chdir(self.work)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main(list(arguments))
                except SystemExit as ended:
                    code = ended.code
        finally:
            os.chdir(before)
        lines = [line for line in err.getvalue().splitlines() if line.startswith("mammo_mlflow: ") or "Trace" in line]
        return Answer(code, tuple(lines or err.getvalue().splitlines()), time.monotonic() - began, code == 2)

    def post(self, body, content_type=b"application/json"):
        """Ask the served model, in this process: the status and the text of the answer."""
        given, sent, began = [{"type": "http.request", "body": body, "more_body": False}], [], time.monotonic()
        scope = {
            "type": "http", "method": "POST", "path": "/invocations", "raw_path": b"/invocations", "query_string": b"",
            "headers": [(b"content-type", content_type)], "http_version": "1.1", "scheme": "http", "root_path": "",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0"},
        }  # fmt: skip

        async def receive():
            await asyncio.sleep(0 if given else 3600)
            return given.pop()

        async def send(message):
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        status = sent[0]["status"]
        said = (json.loads(text)["message"],) if 400 <= status < 500 else (text,)
        return Answer(status, said, time.monotonic() - began, 400 <= status < 500)

    def runs(self):
        """How many runs the store has."""
        with sqlite3.connect(self.work / "mlflow.db") as store:
            return store.execute("SELECT count(*) FROM runs").fetchone()[0]

    def files(self):
        """Everything that lies in this folder, but for the stores."""
        return sorted(str(path) for path in self.where.rglob("*") if ".db" not in path.name)


def mutate(rng, content, times=0):
    """Bytes with some of them changed, cut out, doubled or put in."""
    raw = bytearray(content)
    for _ in range(times or int(rng.integers(1, 6))):
        at, length = int(rng.integers(0, len(raw) + 1)), int(rng.integers(1, 40))
        how = int(rng.integers(0, 6))
        if how == 0 and at < len(raw):
            raw[at] ^= 1 << int(rng.integers(0, 8))
        elif how == 1:
            raw[at : at + length] = b""
        elif how == 2:
            raw[at:at] = raw[at : at + length]
        elif how == 3:
            raw[at:at] = rng.integers(0, 256, length, np.uint8).tobytes()
        elif how == 4:
            raw[at:at] = pick(rng, WORDS).encode("utf-8", "surrogatepass")[:200]
        else:
            del raw[at:]
    return bytes(raw)


def pick(rng, some):
    return some[int(rng.integers(0, len(some)))]


@contextlib.contextmanager
def spoilt(path, content):
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def array_bytes(array, **more):
    file = io.BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


def npy(room, rng, number):
    """A damaged array: its header or bytes, its type, shape or order, a pickle, an archive, nothing."""
    name = pick(rng, ["train_tensor", "train_labels", "public_test_tensor", "public_test_labels"])
    path = room.where / "data" / f"{name}.npy"
    whole, array = path.read_bytes(), np.load(path)
    archive = io.BytesIO()
    np.savez(archive, array)
    odd = [
        mutate(rng, whole[:128]) + whole[128:],
        whole[: int(rng.integers(0, len(whole)))],
        array_bytes(array.astype(object), allow_pickle=True),
        array_bytes(np.asfortranarray(array.reshape(len(array), -1).T)),
        array_bytes(array.astype(pick(rng, [">u2", "f8", "i1", "c16", "U3", "M8[s]"]))),
        array_bytes(array[..., None] if number % 2 else array[:-1]),
        archive.getvalue(),
        b"",
        whole.replace(b"'shape': (", b"'shape': (9" + b"9" * int(rng.integers(0, 30)), 1),
        b"\x93NUMPY\x01\x00" + (60000).to_bytes(2, "little") + b"(" * 60000,
    ]
    with spoilt(path, odd[number % len(odd)]):
        return room.command(*ENSEMBLE, "--data", str(room.where / "data"))


def csv(room, rng, number):
    """A damaged file of groups: its encoding, fields, quotes, columns."""
    path = room.where / "data" / f"{pick(rng, ['train', 'public_test'])}_groups.csv"
    whole = path.read_bytes()
    odd = [
        mutate(rng, whole),
        whole.decode().encode(pick(rng, ["utf-16", "utf-32"])),
        whole.replace(b"patient_id", pick(rng, WORDS).encode("utf-8", "surrogatepass"), 1),
        whole + b'"' + b"x" * int(rng.integers(1, 10**6)),
        whole.replace(b",", b"", 40),
        whole + b"\0" * 30,
        b"patient_id\n" * 3,
        whole.replace(b"\n", b"," * 5000 + b"\n"),
    ]
    with spoilt(path, odd[number % len(odd)]):
        return room.command(*ENSEMBLE, "--data", str(room.where / "data"))


ENSEMBLE = ["ensemble", "--task", "mass_calc", "--executor", "inline"]
SPACE = """family: pretrained
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  dropout: [0.0, 0.2]
"""


def yaml(room, rng, number):
    """A damaged search space: aliases, tags, depth, repeats, types, size."""
    bomb = "a: &a [x]\n" + "".join(f"{n}: &{n} [*{m}, *{m}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True))
    odd = [
        mutate(rng, SPACE.encode()) + b"\n}",
        SPACE.replace("0.2", pick(rng, WORDS)).encode("utf-8", "surrogatepass"),
        SPACE.replace("dropout", pick(rng, WORDS)).encode("utf-8", "surrogatepass"),
        bomb.encode(),
        b"parameters: " + pick(rng, [b"[", b"{a: "]) * int(rng.integers(100, 40_000)),
        b"family: !!python/object/apply:os.system ['touch outside']\n",
        (SPACE + SPACE).encode(),
        SPACE.replace("1e-2", "9" * int(rng.integers(400, 9000))).encode(),
        b"- " * int(rng.integers(1, 40_000)),
        SPACE.encode() + b"# " + b"x" * 200_000,
        pick(rng, [b"", b"null", b"3", b"[]", b"{}", b"? {a: b}\n: c"]),
    ]
    path = room.work / "space.yaml"
    path.write_bytes(odd[number % len(odd)])
    try:
        return room.command("settings", "search", "--task", "mass_calc", "--backbone", "vgg16", "--space", str(path))
    finally:
        path.unlink()


def dicom(room, rng, number):
    """A damaged film, of which a request is asked for."""
    path = room.where / "whole.dcm"
    whole = path.read_bytes()
    head = mutate(rng, whole[:1200]) + whole[1200:]
    odd = [head, whole[: int(rng.integers(0, len(whole)))], whole.replace(b"US", b"UL", 3), whole[128:], head[132:]]
    with spoilt(path, odd[number % len(odd)]):
        found = room.command("request", "--input", str(path), "--box", "999,20,5000,20", "--output", "request.json")
    (room.work / "request.json").unlink(missing_ok=True)
    return found


def descriptions(room, rng, number):
    """Damaged case descriptions: none of them is left that can be read."""
    files = sorted((room.where / "films").rglob("*.csv"))
    whole = [path.read_bytes() for path in files]
    for path, content in zip(files, whole, strict=True):
        odd = [
            b"",
            content.split(b"\n")[0][: int(rng.integers(0, 30))],
            b"\xff" + content,
            content[1:2] * 300,
            b"\0" * 99,
        ]
        path.write_bytes(odd[number % len(odd)])
    try:
        return room.command("prepare", "--source", str(room.where / "films"), "--out", "made", "--workers", "1")
    finally:
        for path, content in zip(files, whole, strict=True):
            path.write_bytes(content)


def http(room, rng, number):
    """A damaged request to a served model: JSON, Parquet, types, encodings, sizes."""
    body = json.dumps({"inputs": np.full((1, SIZE, SIZE, 1), 7).tolist()}).encode()
    table = io.BytesIO()
    pq.write_table(pa.table({"patch": pa.array([np.zeros(int(rng.integers(0, 10**6)), np.uint16)])}), table)
    word = json.dumps(pick(rng, WORDS)).encode()
    parquet = b"application/vnd.apache.parquet"
    json_ones = [
        mutate(rng, body[:200]) + body[200:-300],
        body.replace(b"7", word, 1),
        body.replace(b"7", pick(rng, [b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"true", b"7.5", b"[7]", b"{}"]), 1),
        b'{"inputs":' + pick(rng, [b"[", b'{"a":', b'[{"a":']) * int(rng.integers(1, 90_000)),
        b"{" + b",".join(b'"%d":1' % one for one in range(int(rng.integers(101, 9000)))) + b"}",
        b'{"inputs":[' + pick(rng, [b"[],", b"{},", b'"a",', b"1,", b"null,"]) * int(rng.integers(1, 90_000)) + b"[]]}",
        body.replace(
            b"inputs", pick(rng, [b"instances", b"dataframe_split", b"dataframe_records", b"input", b"\\ud800"])
        )
        + b"x",
        body.decode().encode("utf-16"),
        b"x" * 1_000_001,
        body * 2,
    ]
    if number % 4 == 0:
        return room.post(mutate(rng, table.getvalue()) if number % 8 else table.getvalue(), parquet)
    if number % 4 == 1:
        given = pick(rng, ["text/csv", "application/json; charset=utf-7", *WORDS]).encode("latin1", "replace")
        return room.post(body, b"x" + given.replace(b"\n", b" ")[:4000])
    return room.post(json_ones[number // 2 % len(json_ones)])


HARMLESS = {
    "predict": ["--model", "models:/none/1", "--input", "phantom", "--output", "o.csv"],
    "serve": ["--model", "models:/none/1"],
    "promote": ["--task", "mass_calc", "--executor", "inline"],
    "ensemble": ENSEMBLE[1:],
    "request": ["--input", "none.dcm", "--output", "o.json"],
}
"""Commands that find nothing to do here whatever one more option says."""


def parameter(room, rng, number):
    """A wild text for an option of a command, any of them."""
    name = pick(rng, list(COMMANDS))
    command, text = COMMANDS[name], pick(rng, WORDS)
    option = spelled(pick(rng, list(command.options.model_fields)))
    given = [name, *HARMLESS.get(name, ["--no-such-option-of-any", "1"])]
    return room.command(*given, f"--{option}={text}" if number % 2 else f"--{text}")


KINDS = {one.__name__: one for one in (npy, csv, yaml, dicom, descriptions, http, parameter)}


def ask(room, kind, seed, number):
    """The answer to one malformed input, and what is wrong with it in words; "" where all is as it should be."""
    files, runs = room.files(), room.runs()
    found = KINDS[kind](room, np.random.default_rng([seed, number, len(kind)]), number)
    wrong = [
        *([] if found.refused else [f"code {found.code}"]),
        *([] if found.said else ["nothing said"]),
        *(f"a line of {len(line)} characters" for line in found.said if len(line) > 400),
        *(f"no line: {line[:80]}" for line in found.said if "Traceback" in line or "\n" in line),
        *([] if room.files() == files else [f"files {sorted(set(room.files()) ^ set(files))}"]),
        *([] if room.runs() == runs else ["a run"]),
    ]
    return found, "; ".join(wrong)


def peak_memory():
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
