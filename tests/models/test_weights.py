import hashlib
import io
import urllib.request

import h5py
import numpy as np
import pytest

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.errors import UserError
from mammo_mlflow.models import weights
from mammo_mlflow.models.weights import RANDOM_WEIGHTS_VERSION, find_weights
from mammo_mlflow.whereabouts import remember


def weights_file(path, parameters):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", shape=(parameters,), dtype="i1", chunks=True, compression="gzip", fillvalue=0)
    return path


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """An empty Keras cache, no compact copies, no network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(weights, "COMPACT_DIR", tmp_path / "compact")
    monkeypatch.setenv("MAMMO_OFFLINE", "1")


def find(wanted="imagenet", backbone="vgg16", phantom=False):
    return find_weights(backbone, wanted, phantom=phantom)


def good(path, backbone="vgg16"):
    return weights_file(path / BACKBONES[backbone].keras_file, BACKBONES[backbone].parameters)


def shipped(path):
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, w0=np.arange(5000))
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_imagenet_is_looked_for_in_order(tmp_path, monkeypatch):
    compact = tmp_path / "compact" / "vgg16.npz"
    shipped(compact)
    assert (find().kind, find().label, find().file) == ("int8", "imagenet-int8", compact)
    cached = good(tmp_path / "keras" / "models")
    assert (find().kind, find().label, find().file) == ("file", "imagenet", cached)
    own = good(tmp_path / "own")
    monkeypatch.setenv("MAMMO_WEIGHTS_DIR", str(own.parent))
    assert (find().file, find().identity) == (own, sha256(own))


def test_another_name_of_the_same_weights_is_found(tmp_path, monkeypatch):
    own = weights_file(tmp_path / "own" / "vgg16_imagenet_notop.weights.h5", BACKBONES["vgg16"].parameters)
    monkeypatch.setenv("MAMMO_WEIGHTS_DIR", str(own.parent))
    assert find().file == own


def test_without_any_real_data_end_in_an_error_and_phantom_goes_on_loudly(tmp_path, caplog):
    with pytest.raises(UserError) as problem:
        find(backbone="inceptionv3")
    for way in (BACKBONES["inceptionv3"].keras_file, "$MAMMO_WEIGHTS_DIR", "weights=random", str(tmp_path / "keras")):
        assert way in str(problem.value)
    found = find(backbone="inceptionv3", phantom=True)
    assert (found.kind, found.label) == ("random", "random")
    assert "RANDOM" in caplog.text


def test_random_weights_belong_to_no_data_and_have_a_version_of_their_own():
    assert find("random") == find("random", phantom=True) == find("random", backbone="resnet50")
    assert find("random").identity == f"random-v{RANDOM_WEIGHTS_VERSION}"
    with pytest.raises(ValueError, match="calibrated"):
        _ = find("random").file


def test_a_directory_or_file_of_the_users(tmp_path):
    own = weights_file(tmp_path / "mine" / "vgg16_mammo_notop.h5", BACKBONES["vgg16"].parameters)
    for wanted in (own, own.parent):
        found = find(str(wanted))
        assert (found.file, found.label, found.identity) == (own, own.name, sha256(own))
    with pytest.raises(UserError, match=r"resnet50\*notop\*.h5"):
        find(str(own.parent), backbone="resnet50")
    with pytest.raises(UserError, match="nowhere"):
        find(str(tmp_path / "nowhere"))


def test_another_networks_file_is_refused(tmp_path):
    other = weights_file(tmp_path / "vgg16_notop.h5", BACKBONES["resnet50"].parameters)
    with pytest.raises(UserError, match="14,714,688 parameters of VGG16 without its top, found 23,587,712"):
        find(str(other))
    other.write_bytes(b"")
    with pytest.raises(UserError, match="HDF5"):
        find(str(other))


def test_the_users_directory_must_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMO_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="MAMMO_WEIGHTS_DIR"):
        find()


class Answer(io.BytesIO):
    """What `urlopen` gives."""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Keras's server, which answers with the bytes put into the list."""
    monkeypatch.delenv("MAMMO_OFFLINE")
    content = [good(tmp_path / "server").read_bytes()]

    def answer(url, timeout):
        assert url == BACKBONES["vgg16"].keras_url
        assert timeout <= 5
        return Answer(content[0])

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return content


def test_a_download_goes_into_keras_cache(tmp_path, monkeypatch, served):
    md5 = hashlib.md5(served[0]).hexdigest()
    monkeypatch.setitem(vars(BACKBONES["vgg16"]), "keras_hash", md5)
    found = find()
    assert found.file == tmp_path / "keras" / "models" / BACKBONES["vgg16"].keras_file
    assert found.file.read_bytes() == served[0]
    assert list(found.file.parent.iterdir()) == [found.file]


def test_a_damaged_download_is_not_kept(tmp_path, served, caplog):
    with pytest.raises(UserError, match="no ImageNet weights"):
        find()
    assert "checksum" in caplog.text
    assert list((tmp_path / "keras" / "models").iterdir()) == []


def test_no_network_falls_back(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("MAMMO_OFFLINE")

    def refuse(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    caplog.set_level("INFO")
    assert find(phantom=True).kind == "random"
    assert caplog.messages[0] == "vgg16: its weights cannot be downloaded (no network)"
    shipped(tmp_path / "compact" / "vgg16.npz")
    assert find().kind == "int8"
    assert "(no network); the copy shipped with this package is used" in caplog.text


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-100], lambda raw: raw[:400] + bytes(40) + raw[440:]])
def test_a_damaged_copy_that_was_shipped_is_told_before_any_work(tmp_path, spoil):
    compact = shipped(tmp_path / "compact" / "vgg16.npz")
    compact.write_bytes(spoil(compact.read_bytes()))
    with pytest.raises(UserError, match=r"vgg16\.npz: expected the copy that this package ships, found a damaged one"):
        find()


def test_damaged_weights_are_told_before_any_work(tmp_path):
    whole = good(tmp_path).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        raw = bytearray(whole if number % 4 else whole[: int(rng.integers(1, len(whole)))])
        for at in rng.integers(0, min(len(raw), 2000), 3):
            raw[at] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"damaged-{number}.h5"
        path.write_bytes(raw)
        try:
            assert find(str(path)).kind == "file"  # what was hit says nothing
        except UserError as problem:
            assert len(problem.lines) == 1
            assert str(path) in str(problem)
        path.unlink()


def test_weights_that_are_no_numbers_are_told(tmp_path):
    path = tmp_path / "vgg16_notop.h5"
    with h5py.File(path, "w") as file:
        kernel = file.create_dataset("kernel", shape=(BACKBONES["vgg16"].parameters,), dtype="f4", chunks=(1 << 16,))
        kernel[7] = np.nan
    with pytest.raises(UserError, match="expected finite weights, found others in /kernel"):
        find(str(path))


def test_weights_that_are_not_free_ask_for_their_licence(tmp_path):
    path = tmp_path / "RadImageNet-VGG16_notop.h5"
    good(tmp_path).rename(path)
    with pytest.raises(UserError, match=r"accept_licence: expected radimagenet for Rad.*\.h5, .*found ''"):
        find(str(path))
    found = find_weights("vgg16", str(path), phantom=False, accepted="radimagenet")
    assert found.label == path.name
    again = f"sha256:{found.sha256}"
    remember(path, found.sha256)
    with pytest.raises(UserError, match="accept_licence"):
        find(again)
