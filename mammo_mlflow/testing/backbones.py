"""The tests that every backbone of `BACKBONES` passes: subclass `BackboneContract` with a fixture `name`."""

from __future__ import annotations

import re
import sys

import keras
import numpy as np
import numpy.typing as npt
import pytest

from mammo_mlflow.backbones import BACKBONES, check_backbone
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.network import (
    CONVOLUTIONS,
    build_base,
    build_head,
    build_tail,
    calibrate_random,
    convolutions,
    cut_points,
    deepest_cut,
    join_tails,
    prefix,
    suffix,
    unfreeze,
)

SIZE = 75
"""Of the patches, in pixels."""


def run(model: keras.Model, inputs: npt.ArrayLike) -> np.ndarray:
    """Return a model's outputs in inference mode, run eagerly: tracing a graph takes seconds."""
    return keras.ops.convert_to_numpy(keras.ops.cast(model(np.asarray(inputs, np.float32), training=False), "float32"))


def smooth_patches() -> np.ndarray:
    """Draw smooth random patches, uint16 (8, size, size, 1)."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(30000, 6000, (8, 5, 5)).repeat(15, axis=1).repeat(15, axis=2)
    noisy = smooth + rng.normal(0, 1500, (8, SIZE, SIZE))
    return np.clip(noisy, 0, 65535).astype(np.uint16)[..., None]


class BackboneContract:
    """Tests that a backbone agrees with its row, scales input as Keras does, and can be cut and joined anywhere."""

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls) -> str:
        """Fixture: the backbone's name."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def patches(cls) -> np.ndarray:
        """Fixture: raw patches as input, uint16 (8, size, size, 1)."""
        return smooth_patches()

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, name: str, patches: np.ndarray) -> keras.Model:
        """Fixture: the backbone as a Keras model with calibrated random weights."""
        made = build_base(name, SIZE, "average", "float32")
        calibrate_random(made, patches.astype(np.float32))
        return made

    def test_its_row_says_what_keras_builds(self, name: str) -> None:
        row = BACKBONES[name]
        application = getattr(keras.applications, row.application)
        assert row.parameters == application(include_top=False, weights=None).count_params()
        assert row.convolutions == len(convolutions(build_base(name, row.minimum_size, "average", "float32")))
        assert re.search(r"no_?top(_v2)?\.h5$", row.keras_file)
        assert row.keras_url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")

    def test_smallest_patches_and_most_unfrozen_layers(self, name: str) -> None:
        row = BACKBONES[name]
        check_backbone(name, row.minimum_size, row.convolutions)
        with pytest.raises(UserError, match=f"backbone: {name} expected patches of at least {row.minimum_size}"):
            check_backbone(name, row.minimum_size - 1, 0)
        with pytest.raises(UserError, match=f"unfrozen_layers: expected at most {row.convolutions}"):
            check_backbone(name, row.minimum_size, row.convolutions + 1)
        with pytest.raises(ValueError, match="size"):
            getattr(keras.applications, row.application)(
                include_top=False, weights=None, input_shape=(row.minimum_size - 1, row.minimum_size - 1, 3)
            )

    def test_input_scaling_is_keras_own(self, name: str, patches: np.ndarray) -> None:
        made = build_base(name, SIZE, "average", "float32")
        scaled = keras.Model(made.input, made.get_layer("input_scaling").output)
        extremes = np.concatenate([patches, np.zeros_like(patches[:1]), np.full_like(patches[:1], 65535)])
        rgb = np.repeat(extremes.astype(np.float64) / 257, 3, axis=-1)
        application = getattr(keras.applications, BACKBONES[name].application)
        if BACKBONES[name].rescales_inside:  # its first layers, up to the first that has weights
            theirs = application(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
            first = next(n for n, layer in enumerate(theirs.layers) if layer.weights)
            wanted = run(keras.Model(theirs.input, theirs.layers[first].input), rgb) if first > 1 else rgb
        else:
            preprocess = sys.modules[application.__module__].preprocess_input
            wanted = preprocess(rgb.astype(np.float32), data_format="channels_last")
        np.testing.assert_allclose(run(scaled, extremes), wanted, atol=1e-6 * np.ptp(wanted))

    def test_everything_is_frozen(self, base: keras.Model) -> None:
        assert base.trainable_variables == []

    def test_features_of_random_weights_do_not_vanish(self, base: keras.Model, patches: np.ndarray) -> None:
        features = run(base, patches)
        assert np.isfinite(features).all()
        assert features.std(axis=0).max() > 0.05
        assert (features.std(axis=0) > 1e-3).mean() > 0.3
        assert np.abs(features).max() < 1e3

    def test_prefix_and_rest_are_the_whole_at_every_cut(self, base: keras.Model, patches: np.ndarray) -> None:
        """Test at a sample of layer cuts, the first and the deepest among them, that prefix and rest give the whole."""
        whole, cuts = run(base, patches[:2]), cut_points(base)
        chosen = {cuts[0], cuts[1], cuts[len(cuts) // 3], cuts[len(cuts) // 2], cuts[-1]}
        chosen |= {deepest_cut(base, n) for n in (1, 3)}
        for cut in chosen:
            carried = run(prefix(base, cut), patches[:2])
            if (rest := suffix(base, cut)) is not None:
                carried = run(rest, carried)
            np.testing.assert_allclose(carried, whole, rtol=1e-4, atol=1e-5)

    def test_a_deeper_prefix_starts_at_a_shallower_one(self, base: keras.Model, patches: np.ndarray) -> None:
        first, second = deepest_cut(base, 3), deepest_cut(base, 0)
        direct = run(prefix(base, second), patches[:2])
        halfway = run(prefix(base, first), patches[:2])
        stepped = run(prefix(base, second, first), halfway)
        np.testing.assert_allclose(stepped, direct, rtol=1e-4, atol=1e-5)

    def test_cuts_keep_blocks_whole(self, base: keras.Model) -> None:
        cuts = cut_points(base)
        assert cuts[-1] == len(base.operations) - 1
        assert all(_later_inputs(base, cut) <= {cut} for cut in cuts)
        others = set(range(len(base.operations))) - set(cuts)
        assert all(_later_inputs(base, index) != {index} for index in others if index > 2)

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

    @pytest.mark.parametrize("unfrozen", [0, 1])
    def test_join_puts_a_tail_back_on_its_prefix(self, base: keras.Model, patches: np.ndarray, unfrozen: int) -> None:
        head = build_head(base.output.shape[1:], ModelSpec(backbone=base.name, dense="8", unfrozen_layers=unfrozen))
        cut = deepest_cut(base, unfrozen)
        tail = build_tail(suffix(base, cut), head)
        wanted = run(keras.Model(base.input, head(base.output)), patches[:3])
        joined = join_tails(base, cut, [tail])
        np.testing.assert_allclose(run(joined, patches[:3]), wanted, rtol=1e-4, atol=1e-6)
        assert joined.output.shape[1:] == (1,)

    def test_join_averages_several_tails(self, base: keras.Model, patches: np.ndarray) -> None:
        cut = deepest_cut(base, 0)
        features = run(prefix(base, cut), patches[:3])
        tails = [build_head(base.output.shape[1:], ModelSpec(backbone=base.name, dense="8")) for _ in range(3)]
        each = [run(tail, features) for tail in tails]
        assert np.std(each, axis=0).max() > 1e-4
        joined = run(join_tails(base, cut, tails), patches[:3])
        np.testing.assert_allclose(joined, np.mean(each, axis=0), rtol=1e-4, atol=1e-6)


def _later_inputs(base: keras.Model, cut: int) -> set[int]:
    """Return the layers up to the cut whose outputs are inputs of layers after it."""
    position = {id(layer): index for index, layer in enumerate(base.operations)}
    return {
        position[id(parent.operation)]
        for layer in base.operations[cut + 1 :]
        for node in layer._inbound_nodes
        for parent in node.parent_nodes
        if position.get(id(parent.operation), cut + 1) <= cut
    }
