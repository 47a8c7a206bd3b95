from types import SimpleNamespace

from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.experiment import build
from mammo_mlflow.search.study_spec import StudySpec

SPACE = SimpleNamespace(facts=dict)
PAPER = SimpleNamespace(fits=[SimpleNamespace(key="f", fold=0)])


def key(base):
    spec = StudySpec(
        task="mass_calc",
        space=SPACE,
        base=base,
        paper=base,
        objectives=parse_objectives("roc_auc"),
        sampler="tpe",
        seed=0,
    )
    return spec.key(PAPER)


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
