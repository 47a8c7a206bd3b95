"""Damaged files of a data directory: what cannot be read is one line, whatever was hit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mammo_mlflow.data.arrays import read_array_header
from mammo_mlflow.data.cbis_ddsm.dicom import read_film
from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError

ARRAYS = ("train_tensor.npy", "train_labels.npy", "public_test_tensor.npy", "public_test_labels.npy")
HEADER_BYTES = 128
FIXTURE = Path(__file__).parent / "cbis_ddsm" / "fixture"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_phantom(PhantomSettings(16, 16, 32), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / whole.name)


@pytest.mark.filterwarnings("error")
def test_a_flipped_bit_in_any_header_is_a_line_or_nothing(data):
    rng = np.random.default_rng(3)
    refused = 0
    for number in range(600):
        path = data / ARRAYS[number % 4]
        whole = path.read_bytes()
        raw = bytearray(whole)
        for bit in rng.integers(0, HEADER_BYTES * 8, 1 + number % 3):
            raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        try:
            read_patch_set(data)
        except UserError as problem:
            refused += 1
            assert path.name in str(problem)
            assert len(str(problem)) < 1500
        path.write_bytes(whole)
    assert refused > 400


def header(text, version=1):
    body = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(body).to_bytes(2 if version == 1 else 4, "little") + body


ODD = {
    "beyond 64 bits": "{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999999999999, 32, 32)}",
    "a product beyond 64 bits": "{'descr': '<u2', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2)}",
    "negative": "{'descr': '<u2', 'fortran_order': False, 'shape': (-32, -32, 32)}",
    "not closed": "{'descr': '<u2', 'fortran_order': False, 'shape': (32, 32, 32",
    "indented": "  {'descr': '<u2',\n 'fortran_order': False, 'shape': (32L,",
    "deep": "(" * 4000,
    "deep lists": "[" * 400 + "]" * 400,
    "signs": "-" * 9000 + "1",
    "no dtype": "{'descr': [('a', '<u2'), ()], 'fortran_order': False, 'shape': (32, 32, 32)}",
    "a dtype of nothing": "{'descr': (), 'fortran_order': False, 'shape': (32, 32, 32)}",
    "no header": "",
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ODD)
def test_odd_headers(tmp_path, name, version):
    path = tmp_path / "train_tensor.npy"
    path.write_bytes(header(ODD[name], version) + bytes(100))
    with pytest.raises(UserError, match=r"^train_tensor\.npy: ?"):
        read_array_header(path)


def test_a_header_that_promises_to_be_long_is_not_read_whole(tmp_path):
    path = tmp_path / "train_tensor.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 100_000)
    with pytest.raises(UserError, match="damaged header"):
        read_array_header(path)


@pytest.mark.parametrize("name", ["phantom.json", "prepare.json"])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"size": ' * 5000,
        '{"size": 1' + "0" * 5000 + "}",
        '{"size": 1e999}',
        '{"size": -1}',
        '{"size": "' + "9" * 1_000_000 + '"}',
        '{"size": [' + "1," * 100_000 + "1]}",
        "null",
        "",
        "\x00",
    ],
)
def test_odd_settings_beside_the_arrays(data, name, text):
    (data / "phantom.json").unlink()
    (data / name).write_text(text)
    with pytest.raises(UserError) as refused:
        read_patch_set(data)
    assert name in str(refused.value)
    assert len(str(refused.value)) < 1500


@pytest.mark.parametrize(
    "content",
    [
        b"patient_id\n" + b"x" * 1_000_000 + b"\n",
        b"patient_id\n" + b"\0" * 50 + b"\n",
        b"patient_id\n\xff\xfe\n",
        b'patient_id\n"open',
        b"x" * 100_000,
        b"a," * 100_000 + b"\n",
        b"patient_id," + b"a," * 100_000 + b"\n1\n",
        b"a,a," + b"b" * 100_000 + b"\n",
    ],
)
def test_odd_groups(data, content):
    (data / "train_groups.csv").write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_patch_set(data)
    assert "train_groups.csv" in str(refused.value)
    assert len(str(refused.value)) < 1500


def test_a_phantom_that_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(UserError, match=r"phantom: expected \d+\.\d MB free in .*, found \d\.\d MB"):
        make_phantom(PhantomSettings(16, 16, 32), tmp_path)
    assert not list(tmp_path.glob("phantom*"))


@pytest.mark.parametrize("name", ["train_groups.csv", "phantom.json", "train_tensor.npy"])
def test_a_pipe_is_not_waited_for(data, name):
    (data / name).unlink()
    os.mkfifo(data / name)
    with pytest.raises(UserError, match=name):
        read_patch_set(data)


def test_a_film_damaged_anywhere_is_a_line_or_nothing(tmp_path, capfd):
    (whole, *_) = (one.read_bytes() for one in sorted(FIXTURE.rglob("1-1.dcm")))
    rng = np.random.default_rng(1)
    refused = 0
    for number in range(120):
        raw = bytearray(whole if number % 4 else whole[: int(rng.integers(len(whole)))])
        for bit in rng.integers(0, min(len(raw), 2500) * 8, 3):
            raw[bit // 8] ^= 1 << bit % 8
        (tmp_path / "film.dcm").write_bytes(raw)
        try:
            read_film(tmp_path / "film.dcm", "film.dcm")
        except UserError as problem:
            refused += 1
            assert len(problem.lines) == 1
    assert refused > 20
    assert capfd.readouterr().err == ""


def test_what_is_read_whole_is_bounded(data):
    groups = data / "train_groups.csv"
    with groups.open("ab") as file:
        file.truncate(30_000_000)  # a hole, which takes no disk
    with pytest.raises(UserError, match=r"train_groups\.csv: expected a file of at most 20,000,000 bytes, found 30"):
        read_patch_set(data)
    groups.unlink()
    labels = data / "train_labels.npy"
    head = header("{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000,)}")
    with labels.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 16_000_000_000)
    with pytest.raises(UserError, match=r"train_labels\.npy: rows: expected at most 2,000,000, found 2000000000"):
        read_patch_set(data)
    shutil.copy(data / "public_test_labels.npy", labels)
    with (data / "phantom.json").open("ab") as file:
        file.write(b" " * 1_000_000)
    with pytest.raises(UserError, match=r"phantom\.json: expected a JSON object"):
        read_patch_set(data)
