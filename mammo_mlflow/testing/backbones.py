"""The tests that every backbone of `BACKBONES` passes: subclass `ApplicationContract` with a fixture `name`.

`BackboneContract` has those that do not depend on `keras.applications`.
"""

from __future__ import annotations

import re
import sys
from itertools import pairwise

import keras
import numpy as np
import numpy.typing as npt
import pytest

from mammo_mlflow.backbones import BACKBONES, check_backbone
from mammo_mlflow.engine.gradcam import class_activation_maps, find_last_convolutions
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import PATCH, ModelSpec
from mammo_mlflow.models.network import (
    CONVOLUTIONS,
    build_base,
    build_head,
    build_tail,
    calibrate_random,
    convolutions,
    cut_output,
    cut_points,
    deepest_cut,
    join_tails,
    prefix,
    suffix,
    unfreeze,
)


def run(model: keras.Model, inputs: npt.ArrayLike) -> np.ndarray:
    """Return a model's outputs in inference mode, run eagerly: tracing a graph takes seconds."""
    return to_numpy(model(np.asarray(inputs, np.float32), training=False))


def to_numpy(tensor: keras.KerasTensor) -> np.ndarray:
    """Return a tensor as a float32 array."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def smooth_patches(size: int) -> np.ndarray:
    """Draw smooth random patches, uint16 (8, size, size, 1)."""
    rng, step = np.random.default_rng(0), -(-size // 5)
    smooth = rng.normal(30000, 6000, (8, 5, 5)).repeat(step, axis=1).repeat(step, axis=2)[:, :size, :size]
    noisy = smooth + rng.normal(0, 1500, (8, size, size))
    return np.clip(noisy, 0, 65535).astype(np.uint16)[..., None]


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Assert that activations differ by rounding alone."""
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


class BackboneContract:
    """Tests that a backbone agrees with its row, and can be cut and joined anywhere.

    The tests share one network, of the smallest patches that it takes, and one pass through it.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls) -> str:
        """Fixture: the backbone's name."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def patches(cls, name: str) -> np.ndarray:
        """Fixture: raw patches as input, uint16 (8, size, size, 1)."""
        return smooth_patches(BACKBONES[name].minimum_size)

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, name: str, patches: np.ndarray) -> keras.Model:
        """Fixture: the backbone as a Keras model with calibrated random weights."""
        made = build_base(name, patches.shape[1], "average", "float32")
        calibrate_random(made, patches.astype(np.float32))
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def activations(cls, base: keras.Model, patches: np.ndarray) -> dict[int, np.ndarray]:
        """Fixture: what the whole network gives at each layer cut, the features last."""
        cuts = cut_points(base)
        whole = keras.Model(base.input, [cut_output(base, cut) for cut in cuts])
        found = whole(patches.astype(np.float32), training=False)
        return dict(zip(cuts, map(to_numpy, found), strict=True))

    @pytest.fixture(scope="class")
    @classmethod
    def features(cls, activations: dict[int, np.ndarray]) -> np.ndarray:
        """Fixture: the features of the patches."""
        return activations[max(activations)]

    @pytest.fixture(scope="class")
    @classmethod
    def head(cls, base: keras.Model) -> keras.Model:
        """Fixture: a head on the features."""
        return build_head(base.output.shape[1:], ModelSpec(backbone=base.name, dense="8"))

    @pytest.fixture(scope="class")
    @classmethod
    def joined(cls, base: keras.Model, head: keras.Model) -> keras.Model:
        """Fixture: the whole model, of a prefix and a tail with the last two convolutions."""
        cut = deepest_cut(base, 2)
        return join_tails(base, cut, [build_tail(suffix(base, cut), head)])

    def test_smallest_patches_and_most_unfrozen_layers(self, name: str) -> None:
        row = BACKBONES[name]
        check_backbone(name, row.minimum_size, row.convolutions)
        with pytest.raises(UserError, match=f"backbone: {name} expected patches of at least {row.minimum_size}"):
            check_backbone(name, row.minimum_size - 1, 0)
        with pytest.raises(UserError, match=f"unfrozen_layers: expected at most {row.convolutions}"):
            check_backbone(name, row.minimum_size, row.convolutions + 1)

    def test_everything_is_frozen(self, base: keras.Model) -> None:
        assert base.trainable_variables == []

    def test_features_of_random_weights_do_not_vanish(self, features: np.ndarray) -> None:
        assert np.isfinite(features).all()
        assert features.std(axis=0).max() > 0.05
        assert (features.std(axis=0) > 1e-3).mean() > 0.3
        assert np.abs(features).max() < 1e3

    def test_prefix_and_rest_are_the_whole_at_every_cut(
        self, base: keras.Model, activations: dict[int, np.ndarray]
    ) -> None:
        """Test that the steps from cut to cut give what the whole network has there, and rests the features."""
        for start, cut in pairwise(activations):
            assert_same(run(prefix(base, cut, start), activations[start][:2]), activations[cut][:2])
        for unfrozen in (1, 3):
            cut = deepest_cut(base, unfrozen)
            rest = suffix(base, cut)
            assert rest is not None
            assert_same(run(rest, activations[cut][:2]), activations[max(activations)][:2])
        assert suffix(base, max(activations)) is None

    def test_cuts_keep_blocks_whole(self, base: keras.Model) -> None:
        cuts, needed = cut_points(base), _needed_later(base)
        assert cuts[-1] == len(base.operations) - 1
        assert all(needed[cut] <= {cut} for cut in cuts)
        others = set(range(len(base.operations))) - set(cuts)
        assert all(needed[index] != {index} for index in others if index > 2)

    def test_join_puts_a_tail_back_on_its_prefix(
        self, joined: keras.Model, head: keras.Model, patches: np.ndarray, features: np.ndarray
    ) -> None:
        # two graphs of a random network: rounding reaches the fourth digit on some processors
        np.testing.assert_allclose(run(joined, patches[:2]), run(head, features[:2]), rtol=2e-3, atol=1e-5)
        assert joined.output.shape[1:] == (1,)

    def test_maps_of_grad_cam_are_those_before_the_pooling(
        self, base: keras.Model, joined: keras.Model, patches: np.ndarray
    ) -> None:
        given = {PATCH: patches[:1].astype(np.float32)}
        places = find_last_convolutions(joined, given)
        pooling = keras.layers.MaxPooling2D  # VGG16 ends in one
        last = next(one for one in base.operations[-2::-1] if not isinstance(one, pooling))
        assert [path.split("/")[-1] for ((path, _),) in places] == [last.name]
        (maps,) = class_activation_maps(joined, given, places)
        assert maps.shape == patches[:1].shape[:3]
        # enlarged from a grid, the top of a place is up to half a pixel from the nearest pixel, in each direction
        lowest = (1 - np.array(last.output.shape[1:3]) / np.array(maps.shape[1:]) / 2).prod()
        assert maps.max() == 0 or lowest - 1e-6 <= maps.max() <= 1 + 1e-6
        assert maps.min() >= 0


class ApplicationContract(BackboneContract):
    """Tests that a backbone of `keras.applications` is what its row says, and scales input as Keras does."""

    def test_its_row_says_what_keras_builds(self, name: str, base: keras.Model) -> None:
        row = BACKBONES[name]
        assert row.parameters == base.count_params()
        assert row.convolutions == len(convolutions(base))
        assert re.search(r"no_?top(_v2)?\.h5$", row.keras_file)
        assert row.keras_url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")

    def test_keras_refuses_smaller_patches(self, name: str) -> None:
        row = BACKBONES[name]
        with pytest.raises(ValueError, match="size"):
            getattr(keras.applications, row.application)(
                include_top=False, weights=None, input_shape=(row.minimum_size - 1, row.minimum_size - 1, 3)
            )

    def test_input_scaling_is_keras_own(self, name: str, base: keras.Model, patches: np.ndarray) -> None:
        scaled = keras.Model(base.input, base.get_layer("input_scaling").output)
        extremes = np.concatenate([patches, np.zeros_like(patches[:1]), np.full_like(patches[:1], 65535)])
        rgb = np.repeat(extremes.astype(np.float64) / 257, 3, axis=-1)
        application = getattr(keras.applications, BACKBONES[name].application)
        if BACKBONES[name].rescales_inside:  # its first layers, up to the first that has weights
            theirs = application(include_top=False, weights=None, input_shape=(*patches.shape[1:3], 3))
            first = next(n for n, layer in enumerate(theirs.layers) if layer.weights)
            wanted = run(keras.Model(theirs.input, theirs.layers[first].input), rgb) if first > 1 else rgb
        else:
            preprocess = sys.modules[application.__module__].preprocess_input
            wanted = preprocess(rgb.astype(np.float32), data_format="channels_last")
        np.testing.assert_allclose(run(scaled, extremes), wanted, atol=1e-6 * np.ptp(wanted))

    @pytest.mark.parametrize("unfrozen", [0, 1, 2, 5])
    def test_unfreeze_counts_in_layer_order_and_spares_batch_norm(self, base: keras.Model, unfrozen: int) -> None:
        try:
            unfreeze(base, unfrozen)
            leaves = [layer for layer in base._flatten_layers(include_self=False) if not hasattr(layer, "layers")]
            trained = [layer for layer in leaves if layer.trainable_weights]
            wanted = [layer for layer in leaves if isinstance(layer, CONVOLUTIONS)]
            assert trained == wanted[len(wanted) - unfrozen :]
            assert len(trained) == unfrozen
        finally:
            base.trainable = False


def _needed_later(base: keras.Model) -> list[set[int]]:
    """Of each operation, those up to it whose outputs are inputs of operations after it."""
    position = {id(step): index for index, step in enumerate(base.operations)}
    needed: list[set[int]] = [set() for _ in base.operations]
    for target, step in enumerate(base.operations):
        for node in step._inbound_nodes:
            for parent in node.parent_nodes:
                source = position.get(id(parent.operation), target)
                for index in range(source, target):
                    needed[index].add(source)
    return needed
