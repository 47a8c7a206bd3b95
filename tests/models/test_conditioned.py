import keras
import numpy as np
import pytest

from mammo_mlflow.experiment import ABNORMALITY_TYPE, BASELINE, CONDITION, FEATURES, PATCH, ModelSpec
from mammo_mlflow.models.conditioned import build_conditioned, class_of, input_names, join_condition
from mammo_mlflow.models.network import build_head, build_tail, join_tails, suffix
from mammo_mlflow.models.scratch import build_scratch
from mammo_mlflow.models.siamese import before_head
from mammo_mlflow.tracking.vetting import vet_keras

pytestmark = pytest.mark.usefixtures("keras")

SIZE = 16
ALONE, PAIR = (PATCH,), (BASELINE, PATCH)
CUTS = {"frozen": -1, "tuned": 4, "whole": 0}
"""Where the prefix of a source ends: at its features, before its last convolution, or nowhere."""


def run(model, inputs):
    """The model's answer, without the seconds that tracing a graph takes."""
    return keras.ops.convert_to_numpy(model(inputs, training=False))


@pytest.fixture(scope="module")
def raw():
    """What a served model is given."""
    rng = np.random.default_rng(0)
    patches = {side: rng.uniform(10000, 60000, (5, SIZE, SIZE, 1)).astype(np.float32) for side in PAIR}
    return patches | {ABNORMALITY_TYPE: np.array([[0], [1], [1], [0], [1]], np.float32)}


class Source:
    """A trained model that gives features, or the condition: an encoder, a head and the tail that was stored."""

    def __init__(self, seed, sides, trained="whole"):
        keras.utils.set_random_seed(seed)
        spec = ModelSpec(backbone="scratch", blocks="4/2,6", pooling="flatten", dense="16")
        self.sides, self.encoder = sides, build_scratch(spec, SIZE, "float32")
        self.cut = CUTS[trained] % len(self.encoder.layers)
        shape = self.encoder.output.shape[1:]
        self.head = build_head(shape, spec)
        self.tail = build_tail(suffix(self.encoder, self.cut), self.head, sides, "subtract", shape)

    def whole(self):
        return join_tails(self.encoder, self.cut, [self.tail], self.sides)

    def before_head(self):
        return join_tails(self.encoder, self.cut, [before_head(self.tail)], self.sides)

    def features(self, raw):
        """What the head stands on, by hand."""
        encoded = [run(self.encoder, raw[side]) for side in self.sides]
        return encoded[0] if len(encoded) == 1 else encoded[0] - encoded[1]


def needed(model, raw):
    """The inputs of a model, in another order than its own: an array where it takes one alone."""
    names = input_names(model)
    return {name: raw[name] for name in reversed(names)} if len(names) > 1 else raw[names[0]]


def conditioned_tail(features):
    keras.utils.set_random_seed(9)
    return build_conditioned((features,), build_head((features + 1,), ModelSpec(backbone="a", dense="16-8")))


def by_hand(tail, features, condition):
    """The answer of a conditioned tail: two hidden layers and a sigmoid on features and, last, the condition."""
    x = np.concatenate([features, condition], axis=1).astype(np.float64)
    weights = tail.get_weights()
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = np.maximum(x @ kernel + bias, 0)
    return 1 / (1 + np.exp(-(x @ weights[-2] + weights[-1])))


APPROACHES = {
    "both Siamese": (PAIR, PAIR, {BASELINE, PATCH}),
    "both without baselines": (ALONE, ALONE, {PATCH}),
    "Siamese on the true type": (PAIR, None, {BASELINE, PATCH, ABNORMALITY_TYPE}),
    "alone on the true type": (ALONE, None, {PATCH, ABNORMALITY_TYPE}),
    "features of the patch, condition of the pair": (ALONE, PAIR, {BASELINE, PATCH}),
    "features of the pair, condition of the patch": (PAIR, ALONE, {BASELINE, PATCH}),
}


@pytest.fixture(params=APPROACHES)
def approach(request):
    """The sources of the features and of the condition (None: the true type), the tail and the inputs' names."""
    sides, conditioned_by, names = APPROACHES[request.param]
    features = Source(1, sides)
    condition = None if conditioned_by is None else Source(2, conditioned_by)
    return features, condition, conditioned_tail(features.encoder.output.shape[-1]), names


def joined(approach):
    features, condition, tail, _ = approach
    asked = None if condition is None else condition.whole()
    return join_condition(features.before_head(), asked, tail, SIZE)


def test_the_trained_part_is_a_head_on_features_and_condition():
    tail = conditioned_tail(3)
    assert set(input_names(tail)) == {FEATURES, CONDITION}
    rng = np.random.default_rng(0)
    features, condition = rng.normal(0, 1, (7, 3)).astype(np.float32), rng.uniform(0, 1, (7, 1)).astype(np.float32)
    found = run(tail, {FEATURES: features, CONDITION: condition})
    np.testing.assert_allclose(found, by_hand(tail, features, condition), rtol=1e-5)
    turned = run(tail, {FEATURES: features, CONDITION: 1 - condition})
    assert np.abs(found - turned).max() > 1e-3


@pytest.mark.parametrize("trained", CUTS)
@pytest.mark.parametrize("sides", [ALONE, PAIR], ids=["alone", "pair"])
def test_features_are_what_the_head_of_their_source_stands_on(sides, trained, raw):
    source = Source(1, sides, trained)
    wanted, features = source.features(raw), source.before_head()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(run(features, needed(features, raw)), wanted, rtol=1e-4, atol=1e-6)
    whole = Source(1, sides, trained).whole()
    np.testing.assert_allclose(run(whole, needed(whole, raw)), run(source.head, wanted), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trained", CUTS)
@pytest.mark.parametrize("sides", [ALONE, PAIR], ids=["alone", "pair"])
def test_features_are_found_in_a_stored_tail_too(sides, trained, raw, tmp_path):
    source = Source(1, sides, trained)
    wanted = source.features(raw)
    source.tail.save(tmp_path / "tail.keras")
    source.tail = keras.saving.load_model(tmp_path / "tail.keras", compile=False, safe_mode=True)
    features = source.before_head()
    np.testing.assert_allclose(run(features, needed(features, raw)), wanted, rtol=1e-4, atol=1e-6)


def test_the_class_is_1_above_a_half_and_0_elsewhere():
    ends = np.array([0, 1e-30, 0.25, np.nextafter(np.float32(0.5), np.float32(0)), 0.5], np.float32)
    above = np.array([np.nextafter(np.float32(0.5), np.float32(1)), 0.75, 1], np.float32)
    given = keras.layers.Input((1,), dtype="float32")
    model = keras.Model(given, class_of(given))
    found = run(model, np.concatenate([ends, above])[:, None])[:, 0]
    np.testing.assert_array_equal(found, [0] * len(ends) + [1] * len(above))


@pytest.mark.parametrize("sides", [ALONE, PAIR], ids=["alone", "pair"])
def test_a_condition_can_be_joined_as_a_class_and_is_so_when_stored_and_loaded(sides, raw, tmp_path):
    features, condition = Source(1, sides), Source(2, sides)
    tail = conditioned_tail(features.encoder.output.shape[-1])
    probability = run(condition.head, condition.features(raw))
    middle = np.sort(probability[:, 0])[1:3].mean()
    bias = condition.head.get_layer("probability").bias
    bias.assign(bias - np.log(middle / (1 - middle)))  # so that there are some of both classes
    given = (run(condition.head, condition.features(raw)) > 0.5).astype(np.float32)
    assert 0 < given.sum() < len(given)
    wanted = by_hand(tail, features.features(raw), given)
    join_condition(features.before_head(), condition.whole(), tail, SIZE, as_class=True).save(tmp_path / "model.keras")
    vet_keras(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(run(model, needed(model, raw)), wanted, rtol=1e-4, atol=1e-6)


def test_inputs_are_asked_for_by_name(approach):
    model = joined(approach)
    assert set(input_names(model)) == approach[-1]
    assert {one.name: one.shape for one in model.inputs} == {
        name: (None, 1) if name == ABNORMALITY_TYPE else (None, SIZE, SIZE, 1) for name in approach[-1]
    }


def test_the_whole_is_its_parts_put_together(approach, raw):
    features, condition, tail, _ = approach
    given = raw[ABNORMALITY_TYPE]
    if condition is not None:
        given = run(condition.head, condition.features(raw))
        assert given.std() > 1e-3
    wanted = by_hand(tail, features.features(raw), given)
    assert wanted.std() > 1e-3
    model = joined(approach)
    found = run(model, needed(model, raw))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.shape == (5, 1)


def test_stored_and_loaded_it_answers_the_same(approach, raw, tmp_path):
    model = joined(approach)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(run(loaded, needed(loaded, raw)), run(model, needed(model, raw)), rtol=1e-6)
    assert set(input_names(loaded)) == approach[-1]
    assert loaded.count_params() == model.count_params()


def test_the_type_of_the_abnormality_decides(raw):
    """The same patches as masses and as calcifications: another answer, of a model stored and loaded or not."""
    features = Source(1, PAIR)
    tail = conditioned_tail(features.encoder.output.shape[-1])
    model = join_condition(features.before_head(), None, tail, SIZE)
    ends = [run(model, raw | {ABNORMALITY_TYPE: np.full((5, 1), kind, np.float32)}) for kind in (0, 1)]
    assert np.abs(ends[0] - ends[1]).min() > 1e-4
    for kind, found in enumerate(ends):
        wanted = by_hand(tail, features.features(raw), np.full((5, 1), kind))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_its_sources_are_in_it_with_all_their_weights(approach):
    features, condition, tail, _ = approach
    parts = [features.encoder, tail] + ([] if condition is None else [condition.encoder, condition.head])
    counted = sum(part.count_params() for part in parts)
    assert joined(approach).count_params() == counted
