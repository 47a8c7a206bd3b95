import keras
import numpy as np
import pytest

from mammo_mlflow.experiment import BASELINE, DIFFERENCES, OTHER_VIEW, PATCH, ModelSpec, build
from mammo_mlflow.models.encoders import build_encoder
from mammo_mlflow.models.network import (
    build_head,
    build_tail,
    build_whole,
    calibrate_random,
    deepest_cut,
    join_tails,
    suffix,
)
from mammo_mlflow.models.siamese import FORMS, JOINED, before_head, join_sides, joined_shape
from mammo_mlflow.presets import preset_values

pytestmark = pytest.mark.usefixtures("keras")

SIDES = (BASELINE, PATCH)
SIZE = 32
SCRATCH = ModelSpec(backbone="scratch", blocks="4/2-4,6", pooling="flatten", dense="32")
VGG16 = ModelSpec(backbone="vgg16", dense="32")
VGG16_TUNED = ModelSpec(backbone="vgg16", dense="32", unfrozen_layers=1)
ENCODERS = {"scratch": SCRATCH, "vgg16": VGG16, "vgg16_tuned": VGG16_TUNED}

BY_HAND = {
    "subtract": lambda baseline, patch: baseline - patch,
    "absolute": lambda baseline, patch: np.abs(baseline - patch),
    "concatenate": lambda baseline, patch: np.concatenate([baseline, patch], axis=1),
    "absolute_product": lambda baseline, patch: np.concatenate([np.abs(baseline - patch), baseline * patch], axis=1),
}
FEATURES_150 = {"scratch": 18 * 18 * 64, "vgg16": 4 * 4 * 512, "resnet50": 2048, "inceptionv3": 3 * 3 * 2048}
ENCODER_PARAMETERS = {
    "scratch": (3 * 3 * 1 + 1) * 32 + 2 * (3 * 3 * 32 + 1) * 32 + (3 * 3 * 32 + 1) * 64 + 2 * (3 * 3 * 64 + 1) * 64,
    "vgg16": 14_714_688,
    "resnet50": 23_587_712,
    "inceptionv3": 21_802_784,
}


def run(model, inputs):
    """The model's answer as float32, without the seconds that tracing a graph takes."""
    return keras.ops.convert_to_numpy(keras.ops.cast(model(inputs, training=False), "float32"))


def parameters(model):
    """The number of a model's parameters, each variable counted once."""
    return sum(int(np.prod(variable.shape)) for variable in {id(one): one for one in model.weights}.values())


@pytest.fixture(scope="module")
def pairs():
    """Baselines and abnormalities, alike but not the same."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(30000, 6000, (2, 4, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
    made = np.clip(smooth + rng.normal(0, 1500, smooth.shape), 0, 65535).astype(np.float32)[..., None]
    return dict(zip(SIDES, made, strict=True))


@pytest.fixture(scope="module")
def bases(pairs):
    """An encoder of each kind with weights under which its features differ from patch to patch."""
    keras.utils.set_random_seed(0)
    made = {name: build_encoder("siamese", spec, SIZE, "float32") for name, spec in ENCODERS.items() if "_" not in name}
    calibrate_random(made["vgg16"], np.concatenate(list(pairs.values())))
    return made | {"vgg16_tuned": made["vgg16"]}


class Siamese:
    """A network as it is trained on line, as a tail, and as the whole model that is made of the tail."""

    def __init__(self, base, spec, form):
        keras.utils.set_random_seed(1)
        shape = base.output.shape[1:]
        self.base = base
        self.cut = 0 if base.trainable_weights else deepest_cut(base, spec.unfrozen_layers)
        self.head = build_head(joined_shape(shape, SIDES, form), spec)
        self.on_line = build_whole(base, self.head, SIDES, form)
        self.tail = build_tail(suffix(base, self.cut), self.head, SIDES, form, shape)
        self.difference = join_tails(base, self.cut, [before_head(self.tail)], SIDES)
        self.joined = join_tails(base, self.cut, [self.tail], SIDES)
        self.parameters = base.count_params() + self.head.count_params()


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    return request.param


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def network(encoder, form, bases):
    return Siamese(bases[encoder], ENCODERS[encoder], form)


def test_every_form_that_can_be_asked_for_is_known():
    assert set(FORMS) == set(BY_HAND) == set(DIFFERENCES)


def test_the_difference_is_that_of_the_features_baseline_first(network, form, pairs):
    features = [run(network.base, pairs[side]) for side in SIDES]
    assert np.std(features[0] - features[1]) > 0.01
    wanted = BY_HAND[form](*features)
    on_line = keras.Model(network.on_line.input, network.on_line.get_layer(JOINED).output)
    for model in (on_line, network.difference):
        np.testing.assert_allclose(run(model, pairs), wanted, rtol=1e-4, atol=1e-5)
        assert model.output.shape[1:] == joined_shape(network.base.output.shape[1:], SIDES, form)


def test_swapping_the_sides(network, form, pairs):
    found = run(network.difference, pairs)
    swapped = run(network.difference, {BASELINE: pairs[PATCH], PATCH: pairs[BASELINE]})
    assert np.abs(found).max() > 0.01
    wanted = {"subtract": -found, "concatenate": np.roll(found, found.shape[1] // 2, axis=1)}.get(form, found)
    np.testing.assert_allclose(swapped, wanted, rtol=1e-4, atol=1e-5)


def test_equal_sides(network, form, pairs):
    """Nothing is left of equal patches by a subtraction; a concatenation has the same features twice."""
    found = run(network.difference, {BASELINE: pairs[PATCH], PATCH: pairs[PATCH]})
    features = run(network.base, pairs[PATCH])
    zeros = np.zeros_like(features)
    wanted = {"concatenate": [features, features], "absolute_product": [zeros, features**2]}.get(form, [zeros])
    np.testing.assert_allclose(found, np.concatenate(wanted, axis=1), rtol=1e-4, atol=1e-5)


def test_trained_on_line_or_joined_it_answers_the_same(network, pairs):
    wanted = run(network.on_line, pairs)
    assert wanted.shape == (4, 1) and wanted.std() > 1e-3
    np.testing.assert_allclose(run(network.joined, pairs), wanted, rtol=1e-4, atol=1e-6)
    assert {one.name for one in network.joined.inputs} == set(SIDES)


def test_both_branches_are_one_encoder(network):
    for model in (network.on_line, network.joined):
        assert parameters(model) == model.count_params() == network.parameters


def branches_follow(model, kernel, pairs):
    """Whether what the model makes of each side changes with this kernel: its features are concatenated."""
    before = np.split(run(model, pairs), 2, axis=1)
    kernel.assign(kernel * 1.5)
    after = np.split(run(model, pairs), 2, axis=1)
    return [not np.allclose(one, other, rtol=1e-3) for one, other in zip(before, after, strict=True)]


def kernels(model):
    return [variable for variable in model.weights if len(variable.shape) == 4]


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("name", ["scratch", "vgg16_tuned"])
def test_a_changed_kernel_changes_both_branches(name, layer, pairs, bases, tmp_path):
    """Of a model as it is stored and loaded too, whether the kernel lies before the cut or after it."""
    base = bases[name]
    before = base.get_weights()
    model = Siamese(base, ENCODERS[name], "concatenate").difference
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert len(kernels(loaded)) == len(kernels(base))
    try:
        for one in (model, loaded):
            assert branches_follow(one, kernels(one)[layer], pairs) == [True, True]
    finally:
        base.set_weights(before)


@pytest.mark.parametrize(
    ("name", "form"), [*(("scratch", form) for form in FORMS), ("vgg16", "subtract"), ("vgg16_tuned", "absolute")]
)
def test_stored_and_loaded_it_is_the_same(name, form, pairs, bases, tmp_path):
    """As a fold's tail is stored, then the whole model that is made of it."""
    made = Siamese(bases[name], ENCODERS[name], form)
    made.tail.save(tmp_path / "tail.keras")
    tail = keras.saving.load_model(tmp_path / "tail.keras", compile=False, safe_mode=True)
    join_tails(made.base, made.cut, [tail], SIDES).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(run(loaded, pairs), run(made.on_line, pairs), rtol=1e-4, atol=1e-6)
    assert parameters(loaded) == made.parameters
    assert {one.name for one in loaded.inputs} == set(SIDES)


@pytest.mark.parametrize("name", ["scratch", "vgg16_tuned"])
def test_in_bfloat16_it_answers_close_to_float32(name, pairs, bases):
    low = build_encoder("siamese", ENCODERS[name], SIZE, "bfloat16")
    low.set_weights(bases[name].get_weights())
    exact, found = (run(Siamese(base, ENCODERS[name], "concatenate").joined, pairs) for base in (bases[name], low))
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.02)


@pytest.mark.parametrize("name", ["scratch", "vgg16"])
def test_several_tails_are_averaged(name, pairs, bases):
    base, spec = bases[name], ENCODERS[name]
    shape, cut = base.output.shape[1:], 0 if name == "scratch" else deepest_cut(base, 0)
    heads = [build_head(shape, spec) for _ in range(3)]
    tails = [build_tail(suffix(base, cut), head, SIDES, "subtract", shape) for head in heads]
    each = [run(build_whole(base, head, SIDES), pairs) for head in heads]
    assert np.std(each, axis=0).max() > 1e-3
    np.testing.assert_allclose(
        run(join_tails(base, cut, tails, SIDES), pairs), np.mean(each, axis=0), rtol=1e-4, atol=1e-6
    )


def test_batch_norm_in_training_sees_both_sides_as_one_batch(pairs, bases):
    base = bases["scratch"]
    before = base.get_weights()
    whole = Siamese(base, SCRATCH, "subtract").on_line
    first = keras.Model(base.input, base.get_layer("block1_conv1").output)
    sides = {BASELINE: pairs[BASELINE] / 4, PATCH: pairs[PATCH]}  # dark and bright: most of the variance lies between
    answers = run(first, np.concatenate(list(sides.values())))
    norm = base.get_layer("block1_conv1_batch_norm")
    old = norm.moving_variance.numpy()
    try:
        whole(sides, training=True)
        wanted = norm.momentum * old + (1 - norm.momentum) * answers.var((0, 1, 2))
        np.testing.assert_allclose(norm.moving_variance.numpy(), wanted, rtol=1e-4)
    finally:
        base.set_weights(before)


def test_a_penalty_counts_once_though_the_encoder_is_asked_twice():
    spec = ModelSpec(backbone="scratch", blocks="4", dense="5", l2=0.1)
    base = build_encoder("siamese", spec, SIZE, "float32")
    tail = Siamese(base, spec, "subtract").tail
    alone = sum(0.1 * np.square(kernel.numpy()).sum() for kernel in kernels(base))
    head = sum(float(loss) for loss in tail.get_layer("head").losses)
    assert sum(float(loss) for loss in tail.losses) - head == pytest.approx(alone, rel=1e-4)
    assert alone > 0.1 and head > 0.1


def test_a_lone_side_is_left_as_it_is(form):
    features = np.ones((2, 3), np.float32)
    assert join_sides({PATCH: features}, form) is features
    assert joined_shape((3,), (PATCH,), form) == (3,)


def test_two_views_are_joined_whichever_comes_first():
    """All that there is of two views but their order: the larger and the smaller of each feature."""
    first, second = (np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32) for seed in (0, 1))
    found = [
        keras.ops.convert_to_numpy(join_sides({PATCH: one, OTHER_VIEW: other}, "subtract"))
        for one, other in ((first, second), (second, first))
    ]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], np.hstack([np.maximum(first, second), np.minimum(first, second)]))
    assert joined_shape((3,), (PATCH, OTHER_VIEW), "subtract") == (6,)


@pytest.mark.parametrize("name", ENCODER_PARAMETERS)
def test_parameters_of_the_papers_networks(name):
    """At 150 pixels: those of one encoder, counted by hand or known, and of the dense layers of 256 and 1."""
    spec = build("mass_calc", preset_values("paper", name, "mass_calc", "siamese"), "siamese").model
    base = build_encoder("siamese", spec, 150, "float32")
    assert base.output.shape[1:] == (FEATURES_150[name],)
    assert base.count_params() == ENCODER_PARAMETERS[name]
    assert spec.difference == "subtract"
    whole = build_whole(base, build_head(base.output.shape[1:], spec), SIDES)
    assert parameters(whole) == ENCODER_PARAMETERS[name] + FEATURES_150[name] * 256 + 256 + 256 + 1


def test_the_scratch_encoder_has_three_convolutions_and_a_pool_twice():
    spec = build("mass_calc", preset_values("paper", "scratch", "mass_calc", "siamese"), "siamese").model
    base = build_encoder("siamese", spec, 150, "float32")
    counted = [(one.name, one.output.shape[1:], one.count_params()) for one in base.layers if "relu" not in one.name]
    assert counted[2:] == [
        ("block1_conv1", (75, 75, 32), (3 * 3 * 1 + 1) * 32),
        ("block1_conv2", (75, 75, 32), (3 * 3 * 32 + 1) * 32),
        ("block1_conv3", (75, 75, 32), (3 * 3 * 32 + 1) * 32),
        ("block1_pool", (37, 37, 32), 0),
        ("block2_conv1", (37, 37, 64), (3 * 3 * 32 + 1) * 64),
        ("block2_conv2", (37, 37, 64), (3 * 3 * 64 + 1) * 64),
        ("block2_conv3", (37, 37, 64), (3 * 3 * 64 + 1) * 64),
        ("block2_pool", (18, 18, 64), 0),
        ("features", (18 * 18 * 64,), 0),
    ]
