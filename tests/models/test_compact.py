"""The compact copies shipped with the package, and the script that makes them."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from mammo_mlflow.models.network import build_base, load_weights, read_compact
from mammo_mlflow.models.weights import COMPACT_DIR, NetworkWeights

pytestmark = pytest.mark.usefixtures("keras")

SCRIPT = Path(__file__).parents[2] / "scripts" / "quantise_weights.py"
QUANTISED = ["vgg16", "resnet50"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("quantise_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backbone", QUANTISED)
def test_fits_its_network(backbone):
    path = COMPACT_DIR / f"{backbone}.npz"
    base = build_base(backbone, 32, "average", "float32")
    arrays = read_compact(path)
    assert [array.shape for array in arrays] == [array.shape for array in base.get_weights()]
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
    load_weights(base, NetworkWeights(kind="int8", label="imagenet-int8", identity="", source="", path=path))
    answer = keras.ops.convert_to_numpy(base(np.full((1, 32, 32, 1), 30_000, np.float32)))
    assert np.isfinite(answer).all() and answer.std() > 0


@pytest.mark.parametrize("backbone", QUANTISED)
def test_holds_int8_kernels_and_their_scales(backbone, script):
    with np.load(COMPACT_DIR / f"{backbone}.npz", allow_pickle=False) as file:
        scaled = {name.removesuffix("_scale") for name in file.files if name.endswith("_scale")}
        for name in file.files:
            array = file[name]
            assert (array.dtype == np.int8) == (name in scaled)
            assert (name in scaled) == (array.ndim == 4 and array.size >= script.SMALL)
            if name in scaled:
                scale = file[f"{name}_scale"]
                assert scale.dtype == np.float32 and scale.shape == array.shape[-1:] and (scale > 0).all()
                assert array.min() >= -127


def test_sizes_together():
    assert sum((COMPACT_DIR / f"{backbone}.npz").stat().st_size for backbone in QUANTISED) <= 40_000_000


def test_licences_name_both():
    text = (COMPACT_DIR / "LICENSES.md").read_text(encoding="utf-8")
    for words in ("vgg16.npz", "Simonyan", "CC BY 4.0", "quantised", "resnet50.npz", "Kaiming He", "MIT", "ImageNet"):
        assert words in text
    assert "Copyright (c) 2016 Shaoqing Ren" in text


@pytest.mark.parametrize("size", [1, 3, 5])
def test_quantiser_errors(size, script):
    rng = np.random.default_rng(size)
    kernel = (rng.normal(size=(size, size, 40, 24)) * rng.lognormal(size=24)).astype(np.float32)
    steps, scale = script.quantise(kernel)
    assert steps.dtype == np.int8 and steps.min() >= -127
    np.testing.assert_array_equal(np.abs(steps).max(axis=(0, 1, 2)), 127)
    error = (steps.astype(np.float64) * scale - kernel) / scale
    assert np.abs(error.sum(axis=(0, 1))).max() <= 0.5 + 1e-3
    assert np.abs(error).max() <= (0.5 if size == 1 else 1.0) + 1e-3


def test_quantiser_keeps_a_silent_channel(script):
    kernel = np.zeros((3, 3, 4, 2), np.float32)
    kernel[..., 1] = 1
    steps, scale = script.quantise(kernel)
    assert not steps[..., 0].any() and (scale > 0).all()
    np.testing.assert_allclose(steps * scale, kernel, atol=1e-6)


def test_same_weights_give_the_same_bytes(tmp_path, script):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(3, 3, 96, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)]
    for name in ("a.npz", "b.npz"):
        script.write(script.compact(weights), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    restored = read_compact(tmp_path / "a.npz")
    np.testing.assert_array_equal(restored[1], weights[1])
    assert np.abs(restored[0] - weights[0]).max() < 0.05
