"""What the project relies on of Optuna beyond its public interface: a test each, on studies in memory."""

import ast
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from support import syntax_tree

import mammo_mlflow
from mammo_mlflow.search.optuna_private import (
    DRAFT,
    ShownStudy,
    as_drawn,
    as_ended,
    can_give,
    draft_trial,
    enqueued_parameters,
    resume_trial,
    store_parameter,
    store_trial,
)

RATE = FloatDistribution(0.1, 0.9)
MOVED = "Optuna has no {} any more: mend mammo_mlflow/search/optuna_private.py"


@pytest.fixture
def study():
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(0))


def need(what, name):
    assert hasattr(what, name), MOVED.format(f"{type(what).__name__}.{name}")


def complete(study, **params):
    study.add_trial(optuna.create_trial(params=params, distributions=dict.fromkeys(params, RATE), value=0.0))


@pytest.mark.parametrize(
    ("paper", "hidden"), [({"a": 0.5}, True), ({"a": 0.5, "b": 0.5}, False)], ids=["lacks one", "has all"]
)
def test_samplers_do_not_see_a_first_trial_without_what_all_others_have(study, paper, hidden):
    need(study, "_storage")
    need(study, "_get_trials")
    complete(study, **paper)
    complete(study, a=0.2, b=0.3)
    complete(study, a=0.4, b=0.6)
    number = study.ask().number
    view = ShownStudy(study, study.trials)
    view.common = True
    running = study.trials[number]
    said = "samplers read a study's trials by something else than Study._get_trials now"
    for kind, settings in ((optuna.samplers.QMCSampler, {}), (optuna.samplers.TPESampler, {"multivariate": True})):
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            mine, plain = (kind(seed=0, **settings) for _ in range(2))  # each keeps the first space it has seen
        assert set(mine.infer_relative_search_space(view, running)) == {"a", "b"}, said
        if hidden:
            assert set(plain.infer_relative_search_space(study, running)) == {"a"}, "the class is not needed any more"
    assert [trial.number for trial in view.trials] == [1, 2, 3] if hidden else [0, 1, 2, 3], said
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]


def test_every_complete_trial_is_seen_while_there_is_only_the_first(study):
    complete(study, a=0.5)
    view = ShownStudy(study, study.trials)
    view.common = True
    assert [trial.number for trial in view.trials] == [0]


def test_samplers_and_pruners_see_the_trials_that_are_shown_alone(study):
    complete(study, a=0.2)
    complete(study, a=0.8)
    first, second = study.trials
    other = as_ended(as_drawn(second), TrialState.COMPLETE, [-1.0])
    assert (as_drawn(second).state, as_drawn(second).values, second.values) == (TrialState.RUNNING, None, [0.0])
    view = ShownStudy(study, [as_drawn(first), other])
    assert [trial.state for trial in view.get_trials()] == [TrialState.RUNNING, TrialState.COMPLETE]
    assert [trial.number for trial in view.get_trials(states=(TrialState.COMPLETE,))] == [1]
    assert view.best_trial.values == [-1.0], "Optuna asks for the best trial in another way now"
    with pytest.raises(ValueError):
        ShownStudy(study, []).best_trial  # noqa: B018
    assert [trial.values for trial in study.trials] == [[0.0], [0.0]]


def test_what_a_sampler_notes_of_a_draft_is_stored_with_it(study):
    for value in (0.2, 0.4, 0.6, 0.8):
        complete(study, a=value)
    view, draft = ShownStudy(study, study.trials), draft_trial(4)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True, n_startup_trials=2)
    space = sampler.infer_relative_search_space(view, draft)
    drawn = sampler.sample_relative(view, draft, space)
    assert view.noted, "what samplers note goes elsewhere than through Study._storage now"
    trial = store_trial(study, draft_trial(4, drawn, dict.fromkeys(drawn, RATE), {"mine": 1}, view.noted))
    stored = study.trials[4]
    assert (trial.number, stored.state, stored.params) == (4, TrialState.RUNNING, drawn)
    assert (stored.user_attrs, stored.system_attrs) == ({"mine": 1}, view.noted)
    assert stored._trial_id != DRAFT
    study.tell(trial, 1.0)
    assert study.trials[4].value == 1.0


def test_a_trial_that_was_begun_elsewhere_is_gone_on_with(study):
    begun = study.ask()
    begun.suggest_float("a", 0.1, 0.9)
    frozen = study.trials[0]
    need(frozen, "_trial_id")
    trial = resume_trial(study, frozen)
    assert (trial.number, trial.params) == (begun.number, begun.params), "Trial(study, id) gives another trial now"
    trial.set_user_attr("process", "mine")
    study.tell(trial, 1.0)
    assert study.trials[0].state == TrialState.COMPLETE
    assert study.trials[0].user_attrs == {"process": "mine"}
    assert len(study.trials) == 1, "Trial(study, id) makes a new trial now"


def test_a_parameter_is_stored_without_a_sampler(study):
    trial = study.ask()
    need(trial, "storage")
    need(trial, "_trial_id")
    need(trial.storage, "set_trial_param")
    given = {
        "a": (0.3, RATE),
        "layers": (2, IntDistribution(0, 3)),
        "optimizer": ("sgd", CategoricalDistribution(["adam", "sgd"])),
    }
    for name, (value, distribution) in given.items():
        store_parameter(trial, name, value, distribution)
    (stored,) = study.trials
    assert stored.params == {name: value for name, (value, _) in given.items()}, "values are stored in another form now"
    assert stored.distributions == {name: distribution for name, (_, distribution) in given.items()}


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (RATE, [0.1, 0.5, 0.9], [0.0, 1.0, "adam"]),
        (FloatDistribution(0.1, 0.5, step=0.2), [0.1, 0.3, 0.5], [0.2]),
        (IntDistribution(1, 7, step=3), [1, 4, 7], [2, 8, "adam"]),
        (CategoricalDistribution(["adam", False]), ["adam", False], ["sgd", 7]),
    ],
    ids=["range", "steps", "whole", "choices"],
)
def test_a_distribution_tells_what_it_contains(distribution, inside, outside):
    need(distribution, "_contains")
    told = [can_give(distribution, value) for value in (*inside, *outside)]
    assert told == [True] * len(inside) + [False] * len(outside), "BaseDistribution._contains answers otherwise now"


def test_parameters_that_were_enqueued_are_known_of_their_trial(study):
    study.enqueue_trial({"a": 0.25})
    enqueued, other = study.ask(), study.ask()
    need(study.trials[0], "system_attrs")
    said = "Optuna keeps enqueued parameters elsewhere than under system_attrs['fixed_params'] now"
    assert enqueued_parameters(study.trials[enqueued.number]) == {"a": 0.25}, said
    assert enqueued_parameters(study.trials[other.number]) == {}


def test_no_other_module_uses_private_names_of_optuna():
    names = {name for kind in (optuna.Study, optuna.Trial, FrozenTrial) for name in vars(kind) if name[0] == "_"}
    names |= {"_storage", "_study_id", "_trial_id", "_contains", "system_attrs", "set_trial_param", "fixed_params"}
    names = {name for name in names if not name.startswith("__")}
    package = Path(mammo_mlflow.__file__).parent
    found = []
    for path in (*(package / "search").rglob("*.py"), package / "testing" / "samplers.py"):
        if path.name == "optuna_private.py":
            continue
        for node in ast.walk(syntax_tree(path)):
            own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            imported = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("optuna._", "optuna.storages._")
            )
            if not own and (imported or (isinstance(name, str) and name in names)):
                found.append(f"{path.relative_to(package)}:{node.lineno}: {name or node.module}")
    assert found == []
