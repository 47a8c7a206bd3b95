from types import SimpleNamespace

from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.experiment import build
from mammo_mlflow.search.study_spec import StudySpec

SPACE = SimpleNamespace(facts=dict)
PAPER = SimpleNamespace(fits=[SimpleNamespace(key="f", fold=0)])


def key(base, others=(), **more):
    spec = StudySpec(
        task="mass_calc",
        space=SPACE,
        base=base,
        paper=base,
        objectives=parse_objectives("roc_auc"),
        sampler="tpe",
        seed=0,
        **more,
    )
    return spec.key(PAPER, others)


def test_a_study_goes_on_where_parameters_were_added_since():
    """What older code did not know, at its default, is not asked about; another value is another study."""
    now = {
        name: value
        for name, value in build("mass_calc", {"backbone": "m1"}, "scratch").flat().items()
        if name != "task"
    }
    before = {name: value for name, value in now.items() if name not in ("first_pool", "dense_l2", "feature_dropout")}
    assert key(now) == key(before)
    assert key(now | {"first_pool": 3}) != key(now)
    assert key(now | {"holdout": 0.3}) != key(now) != key({k: v for k, v in now.items() if k != "holdout"})


def test_weights_of_the_other_backbones_that_are_drawn_are_in_the_key():
    def other(identity):
        model, weights = SimpleNamespace(backbone="resnet50"), SimpleNamespace(identity=identity)
        return SimpleNamespace(experiment=SimpleNamespace(model=model), weights=weights)

    base = {"backbone": "vgg16"}
    keys = [key(base), key(base, [other("a")]), key(base, [other("b")])]
    assert len(set(keys)) == 3


def test_how_a_study_draws_is_in_its_key_where_it_is_not_as_before():
    base = {"backbone": "m1"}
    keys = [key(base), key(base, generation=8), key(base, generation=16), key(base, repeats=2)]
    assert len(set(keys)) == 4
    assert key(base, generation=0, repeats=1, all_tails=True) == keys[0]
