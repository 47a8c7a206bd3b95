import keras
import numpy as np
import pytest
from support import ROOT, load_script

from mammo_mlflow.engine.backend import fast_batch_norm, fast_optimizer
from mammo_mlflow.engine.contract import OPTIMIZERS
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import ModelSpec, TrainingSpec, build
from mammo_mlflow.models.network import build_head, build_whole
from mammo_mlflow.models.scratch import build_scratch, parse_blocks
from mammo_mlflow.presets import preset_values

pytestmark = pytest.mark.usefixtures("keras")

BATCH_NORM = 4
"""Gamma, beta and two moving statistics of each filter."""

M1_BY_HAND = [
    ("block1_conv1", (75, 75, 32), 3 * 3 * 1 * 32),
    ("block1_conv1_batch_norm", (75, 75, 32), BATCH_NORM * 32),
    ("block1_conv2", (75, 75, 32), 3 * 3 * 32 * 32),
    ("block1_conv2_batch_norm", (75, 75, 32), BATCH_NORM * 32),
    ("block1_conv3", (75, 75, 32), 3 * 3 * 32 * 32),
    ("block1_conv3_batch_norm", (75, 75, 32), BATCH_NORM * 32),
    ("block1_pool", (37, 37, 32), 0),
    ("block2_conv1", (37, 37, 64), 3 * 3 * 32 * 64),
    ("block2_conv1_batch_norm", (37, 37, 64), BATCH_NORM * 64),
    ("block2_conv2", (37, 37, 64), 3 * 3 * 64 * 64),
    ("block2_conv2_batch_norm", (37, 37, 64), BATCH_NORM * 64),
    ("block2_pool", (18, 18, 64), 0),
    ("block3_conv1", (18, 18, 128), 3 * 3 * 64 * 128),
    ("block3_conv1_batch_norm", (18, 18, 128), BATCH_NORM * 128),
    ("block3_conv2", (18, 18, 128), 3 * 3 * 128 * 128),
    ("block3_conv2_batch_norm", (18, 18, 128), BATCH_NORM * 128),
    ("block3_pool", (9, 9, 128), 0),
    ("block4_conv1", (9, 9, 256), 3 * 3 * 128 * 256),
    ("block4_conv1_batch_norm", (9, 9, 256), BATCH_NORM * 256),
    ("block4_pool", (4, 4, 256), 0),
    ("features", (4096,), 0),
    ("head_dense", (2048,), 4096 * 2048),
    ("head_dense_batch_norm", (2048,), BATCH_NORM * 2048),
    ("head_dense_2", (2048,), 2048 * 2048),
    ("head_dense_2_batch_norm", (2048,), BATCH_NORM * 2048),
    ("probability", (1,), 2048 + 1),
]
"""Layer, output shape and parameters, inputs, activations and dropout left out; patches of 150 pixels."""
M1_PARAMETERS = 13_194_401
M1_KERNELS = 8 + 3

SMALL = ModelSpec(backbone="m1", blocks="6/2-6,8", pool_dropout=0.0, pooling="average")


def run(model, inputs, training=False):
    """The model's answer as float32, without the seconds that tracing a graph takes."""
    return keras.ops.convert_to_numpy(keras.ops.cast(model(inputs, training=training), "float32"))


def from_paper(name, size=150):
    """The encoder and the head of a setting of chapter 4."""
    spec = build("mass_calc", preset_values("paper", name, "mass_calc", "scratch"), "scratch").model
    encoder = build_scratch(spec, size, "float32")
    return encoder, build_head(encoder.output.shape[1:], spec)


def patches(count, size, seed=0):
    """Patches that are brighter and brighter, with some texture."""
    rng = np.random.default_rng(seed)
    base = np.linspace(10000, 50000, count)[:, None, None, None]
    return (base + rng.normal(0, 4000, (count, size, size, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def m1():
    return from_paper("m1")


@pytest.fixture(scope="module")
def m2():
    return from_paper("m2")


def test_blocks_are_read_as_filters_and_strides():
    assert parse_blocks("32/2-32-16,64,128-128/3") == [[(32, 2), (32, 1), (16, 1)], [(64, 1)], [(128, 1), (128, 3)]]


@pytest.mark.parametrize("name", ["m1", "m2"])
def test_layers_and_parameters_are_those_counted_by_hand(name, request):
    encoder, head = request.getfixturevalue(name)
    found, shape = [], None
    for layer in (*encoder.layers, *head.layers[1:]):
        if isinstance(layer, (keras.layers.InputLayer, keras.layers.Rescaling)):
            assert layer.output.shape[1:] == (150, 150, 1)
        elif isinstance(layer, (keras.layers.ReLU, keras.layers.Dropout)):
            assert layer.output.shape[1:] == shape and layer.count_params() == 0
        else:
            shape = layer.output.shape[1:]
            found.append((layer.name, shape, layer.count_params()))
    assert found == M1_BY_HAND
    assert encoder.count_params() + head.count_params() == M1_PARAMETERS == sum(count for *_, count in M1_BY_HAND)


@pytest.mark.parametrize("name", ["m1", "m2"])
def test_activations_and_dropout_stand_where_the_paper_has_them(name, request):
    """Each normalisation is followed by a ReLU, each pool by a dropout of 0.1, each hidden layer by one of 0.5."""
    encoder, head = request.getfixturevalue(name)
    layers = [*encoder.layers, *head.layers[1:]]
    normalised = [i for i, layer in enumerate(layers) if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(isinstance(layers[i + 1], keras.layers.ReLU) for i in normalised)
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, keras.layers.MaxPooling2D)]
    dropouts = [i for i, layer in enumerate(layers) if isinstance(layer, keras.layers.Dropout)]
    assert [layers[i].rate for i in dropouts] == [0.1] * 4 + [0.5] * 2
    assert dropouts == [i + 1 for i in pools] + [i + 2 for i in normalised[-2:]]


def test_m2_adds_a_penalty_on_every_kernel(m2):
    """L1 of 1e-5 and L2 of 1e-4, summed here in float64 over all that is a matrix or more: biases are none."""
    whole = build_whole(*m2)
    kernels = [np.asarray(array, np.float64) for array in whole.get_weights() if array.ndim > 1]
    assert len(kernels) == M1_KERNELS
    each = [1e-5 * np.abs(kernel).sum() + 1e-4 * np.square(kernel).sum() for kernel in kernels]
    assert sum(float(loss) for loss in whole.losses) == pytest.approx(sum(each), rel=2e-5)
    assert min(each) > 1e-4 * sum(each)  # so that none could be missing


def test_m1_has_no_penalty(m1):
    assert build_whole(*m1).losses == []


def test_the_authors_m1_has_his_pools_dropout_penalties_and_momenta():
    encoder, head = from_paper("m1_author")
    pools = {layer.name: layer for layer in encoder.layers if isinstance(layer, keras.layers.MaxPooling2D)}
    assert [pool.pool_size for pool in pools.values()] == [(3, 3), (2, 2), (2, 2), (2, 2)]
    assert {pool.strides for pool in pools.values()} == {(2, 2)}
    assert [pool.output.shape[1] for pool in pools.values()] == [38, 19, 10, 5]
    assert encoder.output.shape[1:] == (5 * 5 * 256,) == (6400,)
    layers = [*encoder.layers, *head.layers]
    rates = [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.1] * 4 + [0.5] * 3
    assert isinstance(head.layers[1], keras.layers.Dropout)
    momenta = [layer.momentum for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert momenta == [0.99] * 8 + [0.9] * 2
    whole = build_whole(encoder, head)
    kernels = [np.asarray(array, np.float64) for array in whole.get_weights() if array.ndim > 1]
    half_squares = [np.square(kernel).sum() / 2 for kernel in kernels]
    each = [1e-5 * one for one in half_squares[:8]] + [2.5e-3 * one for one in half_squares[8:10]]
    each += [1e-5 * half_squares[10]]
    assert sum(float(loss) for loss in whole.losses) == pytest.approx(sum(each), rel=2e-5)


@pytest.mark.parametrize(
    ("side", "padding", "width"), [(2, "valid", 3), (3, "valid", 3), (3, "same", 4), (2, "same", 4)]
)
def test_the_first_pool_takes_the_largest_of_its_window(side, padding, width):
    spec = ModelSpec(backbone="m1", blocks="3", first_pool=side, pool_padding=padding)
    encoder = build_scratch(spec, 7, "float32")
    inner = keras.Model(
        encoder.input, [encoder.get_layer(name).output for name in ("block1_conv1_relu", "block1_pool")]
    )
    maps, pooled = (np.asarray(one) for one in inner(patches(2, 7)))
    first = -1 if (side, padding) == (3, "same") else 0
    wanted = [
        [
            maps[:, max(0, row) : row + side, max(0, column) : column + side].max(axis=(1, 2))
            for column in range(first, first + 2 * width, 2)
        ]
        for row in range(first, first + 2 * width, 2)
    ]
    np.testing.assert_array_equal(pooled, np.transpose(wanted, (2, 0, 1, 3)))


def test_a_first_pool_larger_than_its_map_is_refused():
    assert build_scratch(ModelSpec(backbone="m1", blocks="4", first_pool=5, pool_padding="same"), 4, "float32")
    with pytest.raises(UserError, match="blocks: expected at most 0 pools for patches of 4 pixels"):
        build_scratch(ModelSpec(backbone="m1", blocks="4", first_pool=5), 4, "float32")


def test_the_penalty_is_part_of_the_loss_that_is_trained():
    spec = ModelSpec(backbone="m2", blocks="4", dense="8", l1=1e-3, l2=1e-2)
    encoder = build_scratch(spec, 8, "float32")
    whole = build_whole(encoder, build_head(encoder.output.shape[1:], spec))
    penalty = sum(float(loss) for loss in whole.losses)
    seen, labels = patches(4, 8), np.array([0, 1, 0, 1])
    probabilities = run(whole, seen)[:, 0].astype(np.float64)
    entropy = -np.mean(labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    whole.compile("sgd", loss="binary_crossentropy")
    assert penalty > 0.05
    assert whole.evaluate(seen, labels, verbose=0) == pytest.approx(entropy + penalty, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_patches_are_scaled_to_0_to_1(precision):
    encoder = build_scratch(SMALL, 16, precision)
    scaled = keras.Model(encoder.input, encoder.get_layer("input_scaling").output)
    grey = np.array([0, 1, 30011, 65535])
    raw = np.broadcast_to(grey[:, None, None, None], (4, 16, 16, 1)).astype(np.float32)
    np.testing.assert_allclose(run(scaled, raw), raw.astype(np.float64) / 65535, rtol=1e-6, atol=0)


def test_convolutions_have_a_bias_only_without_batch_norm():
    plain = build_scratch(ModelSpec(backbone="m1", blocks="4-6", convolution_batch_norm=False), 8, "float32")
    assert [array.shape for array in plain.get_weights()] == [(3, 3, 1, 4), (4,), (3, 3, 4, 6), (6,)]
    normalised = build_scratch(ModelSpec(backbone="m1", blocks="4-6"), 8, "float32")
    assert [array.shape for array in normalised.get_weights() if array.ndim > 1] == [(3, 3, 1, 4), (3, 3, 4, 6)]
    assert normalised.count_params() == 3 * 3 * 4 + 3 * 3 * 4 * 6 + BATCH_NORM * (4 + 6)


@pytest.mark.parametrize(("pooling", "shape"), [("flatten", (4 * 8,)), ("average", (8,)), ("max", (8,))])
def test_features_are_pooled_as_asked(pooling, shape):
    spec = ModelSpec(backbone="m1", blocks=SMALL.blocks, pooling=pooling)
    encoder, seen = build_scratch(spec, 16, "float32"), patches(3, 16)
    maps = run(keras.Model(encoder.input, encoder.get_layer("block2_pool").output), seen)
    wanted = {"flatten": maps.reshape(len(maps), -1), "average": maps.mean((1, 2)), "max": maps.max((1, 2))}[pooling]
    assert encoder.output.shape[1:] == shape
    np.testing.assert_allclose(run(encoder, seen), wanted, rtol=1e-5, atol=1e-7)


def test_too_small_a_patch_is_refused():
    blocks = preset_values("paper", "m1", "mass_calc", "scratch")["blocks"]
    spec = ModelSpec(backbone="m1", blocks=blocks, pooling="flatten")
    assert build_scratch(spec, 31, "float32").output.shape[1:] == (256,)
    with pytest.raises(UserError, match="blocks: expected at most 3 pools for patches of 30 pixels, found") as problem:
        build_scratch(spec, 30, "float32")
    assert "\n" not in str(problem.value)


def test_the_same_seed_draws_the_same_weights():
    made = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        made.append(build_scratch(SMALL, 16, "float32").get_weights()[0])
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 2e-2)])
def test_fused_batch_norm_answers_as_keras_own(precision, tolerance):
    """In training they differ by Bessel's correction of the moving variance alone; in inference in nothing."""
    rng = np.random.default_rng(0)
    seen = (rng.normal(3, 1, (5, 4, 6, 3)) * [0.5, 2, 10] + [0, 5, -20]).astype(np.float32)
    before = [rng.normal(1, 0.2, 3).astype(np.float32) for _ in range(4)]  # gamma, beta, moving mean and variance
    plain, fused = (
        kind(momentum=0.9, dtype=precision) for kind in (keras.layers.BatchNormalization, fast_batch_norm())
    )
    for layer in (plain, fused):
        layer.build(seen.shape)
        layer.set_weights(before)
    np.testing.assert_array_equal(run(fused, seen), run(plain, seen))
    np.testing.assert_allclose(run(fused, seen, True), run(plain, seen, True), rtol=tolerance, atol=tolerance)

    rounded = keras.ops.cast(keras.ops.cast(seen, plain.compute_dtype), "float32")
    pixels = keras.ops.convert_to_numpy(rounded).astype(np.float64).reshape(-1, 3)
    mean, variance, bessel = pixels.mean(0), pixels.var(0), len(pixels) / (len(pixels) - 1)
    moved = [0.9 * old + 0.1 * new for old, new in zip(before[2:], (mean, variance), strict=True)]
    for found, wanted in zip(plain.get_weights()[2:], moved, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    moved[1] = 0.9 * before[3] + 0.1 * bessel * variance
    for found, wanted in zip(fused.get_weights(), (*before[:2], *moved), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(fused.get_weights()[3], plain.get_weights()[3], rtol=bessel - 1)


def test_a_frozen_fused_batch_norm_is_in_inference():
    layer = fast_batch_norm()()
    layer.build((None, 2, 2, 3))
    layer.set_weights([np.full(3, value, np.float32) for value in (2, 1, 5, 4)])
    layer.trainable = False
    seen = np.full((1, 2, 2, 3), 7, np.float32)
    np.testing.assert_allclose(run(layer, seen, True), 1 + 2 * (seen - 5) / np.sqrt(4 + layer.epsilon), rtol=1e-6)
    np.testing.assert_array_equal(layer.get_weights()[2], [5, 5, 5])


def network(batch_norm=None):
    encoder = build_scratch(SMALL, 16, "float32", batch_norm)
    return encoder, build_whole(encoder, build_head(encoder.output.shape[1:], ModelSpec(backbone="m1", dense="8")))


def test_a_model_trained_with_fused_batch_norm_is_that_of_plain_layers():
    """Both take the same steps, gradients included; with the same weights they predict the same."""
    (_, plain), (fast_encoder, fast) = network(), network(fast_batch_norm())
    fast.set_weights(plain.get_weights())
    start = plain.get_weights()
    seen, labels = patches(24, 16), np.arange(24) % 2
    for model in (plain, fast):
        model.compile(keras.optimizers.SGD(0.05), loss="binary_crossentropy")
        for step in range(4):
            model.train_on_batch(seen[step::4], labels[step::4])
    for one, other, old in zip(plain.get_weights(), fast.get_weights(), start, strict=True):
        assert not np.array_equal(one, old)
        np.testing.assert_allclose(other, one, rtol=0.01, atol=2e-3 * np.abs(one - old).max())
    kept, _ = network()
    kept.set_weights(fast_encoder.get_weights())
    np.testing.assert_allclose(run(kept, seen), run(fast_encoder, seen), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_fast_optimizer_takes_the_same_steps(name):
    """As the loop uses it: several steps an execution, learning rates and momenta those asked for."""
    rng = np.random.default_rng(0)
    seen, labels = rng.normal(0, 1, (24, 6)).astype(np.float32), np.arange(24) % 2
    ends = []
    for change in (lambda optimizer: optimizer, fast_optimizer):
        keras.utils.set_random_seed(0)
        net = keras.Sequential(
            [keras.layers.Input((6,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(1, "sigmoid")]
        )
        start = net.get_weights()
        optimizer = change(OPTIMIZERS[name](3e-2, TrainingSpec()))
        net.compile(optimizer, loss="binary_crossentropy", steps_per_execution=3, jit_compile=False)
        net.fit(seen, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        assert int(optimizer.iterations) == 6
        ends.append((net.get_weights(), [np.asarray(variable) for variable in optimizer.variables]))
    (plain, state), (fast, fast_state) = ends
    for one, other, old in zip(plain, fast, start, strict=True):
        assert np.abs(one - old).max() > 1e-3
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    for one, other in zip(state, fast_state, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def script():
    return load_script("network_tables")


@pytest.mark.parametrize("name", ["m1", "m2", "m1_author", "scratch"])
def test_the_page_on_networks_holds_what_the_script_prints(name, script, capsys):
    script.main([name])
    printed = capsys.readouterr().out
    assert printed.startswith("### ") and printed.count("\n| ") > 15
    assert f"\n\n{printed}\n" in (ROOT / "docs" / "networks.md").read_text()


@pytest.mark.parametrize("name", ["scratch", "vgg16"])
def test_the_page_on_networks_holds_their_sizes(name, script):
    """The larger backbones' are counted in test_siamese.py."""
    assert (
        f"\n{script.markdown([], [script.size_row(name)]).splitlines()[-1]}\n"
        in (ROOT / "docs" / "networks.md").read_text()
    )
