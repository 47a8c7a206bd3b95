from __future__ import annotations

import math
import warnings

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from mammo_mlflow.evaluation import figures
from mammo_mlflow.search.figures import study_figures

NOTE = "phantom data: no medical result"
FIGURES = {"history", "slices", "parallel_coordinates", "importances"}
BACKBONES = ["vgg16", "vgg19", "inception_v3", "resnet50", "inception_resnet_v2", "densenet121"]


def searched(trials=24, two=False, minimize=False):
    """A study over every kind of parameter, one of them conditional, with pruned and failed trials."""
    random = np.random.default_rng(0)

    def objective(trial):
        rate = trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True)
        optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd"])
        if optimizer == "sgd":
            trial.suggest_float("momentum", 0, 0.99)
        trial.suggest_categorical("backbone", BACKBONES)
        trial.suggest_categorical("augment", [True, False, None])
        trial.suggest_int("units", 64, 2048, log=True)
        trial.suggest_int("layers", 0, 4)
        value = 0.8 - 0.03 * (math.log10(rate) + 4) ** 2 + random.normal(0, 0.005)
        if trial.number == 3:
            raise RuntimeError("out of memory")
        if trial.number == 5:
            raise optuna.TrialPruned
        if two:
            return value, random.uniform(100, 900)
        trial.report(value - 0.01, 0)
        if trial.number in (7, 8):
            raise optuna.TrialPruned
        return -value if minimize else value

    directions = ["minimize" if minimize else "maximize", *["minimize"] * two]
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(0))
    paper = {"learning_rate": 1e-5, "optimizer": "adam", "backbone": "vgg16", "augment": True, "units": 64, "layers": 0}
    study.enqueue_trial(paper)
    study.optimize(objective, n_trials=trials, catch=RuntimeError)
    return study


def told(rows, distributions, direction="maximize"):
    """A study of finished trials with these parameters and values."""
    study = optuna.create_study(direction=direction)
    for params, value in rows:
        study.add_trial(
            create_trial(params=params, distributions={name: distributions[name] for name in params}, value=value)
        )
    return study


def texts(figure):
    return [artist.get_text() for artist in figure.findobj(Text) if artist.get_visible() and artist.get_text()]


def lines(figure, label):
    return [line.get_xydata() for axes in figure.axes for line in axes.get_lines() if line.get_label() == label]


@pytest.mark.parametrize("names", [["roc_auc"], ["sensitivity_at_specificity=0.9", "seconds"]])
def test_all_figures_with_their_titles_and_note(names, tmp_path):
    found = study_figures(searched(two=len(names) == 2), names, NOTE)
    assert set(found) == FIGURES | ({"pareto"} if len(names) == 2 else set())
    for name, figure in found.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        assert names[0] in figure.get_suptitle()
        assert figure.get_supxlabel().replace("\n", " ").endswith(NOTE)
        title, note = figure._suptitle.get_window_extent(renderer), figure._supxlabel.get_window_extent(renderer)
        legends = [legend.get_window_extent(renderer) for legend in figure.legends]
        drawn = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.get_visible()]
        for box in (title, note, *legends, *drawn):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, name
        for box in drawn:
            assert box.y1 <= title.y0 + 1 and box.y0 >= note.y1 - 1, name
            assert not any(box.overlaps(legend) for legend in legends), name
        assert not any(title.overlaps(legend) for legend in legends), name
        assert max(figure.get_size_inches()) < 12, name
        assert figures.save(figure, tmp_path / f"{name}.png").stat().st_size > 5000


def test_pyplot_and_warnings_are_left_alone():
    study, before = searched(), dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries, for whoever keeps them
        study_figures(study, ["roc_auc"], NOTE)
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_the_history_marks_the_papers_setting_and_the_best_and_shows_pruned_trials():
    study = searched()
    figure = study_figures(study, ["roc_auc"], None)["history"]
    best = study.best_trial
    (star,), (diamond,) = lines(figure, f"best: trial {best.number}"), lines(figure, "the paper's setting")
    assert star.tolist() == [[best.number, best.value]]
    assert diamond.tolist() == [[0, study.trials[0].value]]
    (pruned,) = lines(figure, "pruned")  # trial 5 had reported nothing
    assert pruned.tolist() == [[number, study.trials[number].intermediate_values[0]] for number in (7, 8)]
    (finished,) = lines(figure, "finished")
    assert finished[:, 0].tolist() == [n for n in range(24) if n not in (3, 5, 7, 8)]
    (running,) = lines(figure, "best so far")
    assert (np.diff(running[:, 1]) >= 0).all() and running[-1, 1] == best.value


def test_less_is_better_where_it_is_minimised():
    study = searched(minimize=True)
    figure = study_figures(study, ["log_loss"], None)["history"]
    assert lines(figure, f"best: trial {study.best_trial.number}")[0][0, 1] == study.best_value
    (running,) = lines(figure, "best so far")
    assert (np.diff(running[:, 1]) <= 0).all()
    assert "log_loss (lower is better)" in texts(figure)


def test_slices_have_log_axes_and_say_how_many_trials_have_a_conditional_parameter():
    study = searched()
    figure = study_figures(study, ["roc_auc"], None)["slices"]
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    assert panels["learning_rate"].get_xscale() == "log" and panels["layers"].get_xscale() == "linear"
    assert [label.get_text() for label in panels["backbone"].get_xticklabels()] == BACKBONES
    having = [t for t in study.trials if t.state == TrialState.COMPLETE and "momentum" in t.params]
    assert panels["momentum"].get_title(loc="right") == f"in {len(having)} of 20 trials"
    shown = panels["momentum"].collections[0].get_offsets()
    assert np.isfinite(np.ma.filled(shown, np.nan)).all(axis=1).sum() == len(having)


def test_parallel_coordinates_say_where_a_parameter_is_absent():
    figure = study_figures(searched(), ["roc_auc"], None)["parallel_coordinates"]
    assert texts(figure).count("absent") == 1
    assert {"adam", "sgd", "None", *BACKBONES} <= set(texts(figure))


def test_the_parameter_that_decides_is_the_most_important():
    for study in (searched(60), searched(60, minimize=True)):
        figure = study_figures(study, ["roc_auc"], None)["importances"]
        assert figure.axes[0].get_yticklabels()[0].get_text() == "learning_rate"
        assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(1)


def test_the_pareto_front_holds_what_nothing_beats():
    study = searched(two=True)
    figure = study_figures(study, ["roc_auc", "seconds"], None)["pareto"]
    (front,) = lines(figure, "front")
    assert sorted(map(tuple, front[:, ::-1])) == sorted(tuple(trial.values) for trial in study.best_trials)
    assert (np.diff(front[:, 0]) > 0).all() and (np.diff(front[:, 1]) > 0).all()
    assert {str(trial.number) for trial in study.best_trials} <= set(texts(figure))


X, UNITS, KIND = FloatDistribution(0, 1), IntDistribution(1, 9), CategoricalDistribution(["a", "b"])


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([], set()),
        ([({"x": 0.5, "units": 1}, 0.7)], set()),
        ([({"x": 0.5, "units": 1}, 0.7), ({"x": 0.6, "units": 2}, math.inf)], set()),
        ([({}, 0.7), ({}, 0.8)], {"history"}),
        ([({"x": 0.5}, 0.7), ({"x": 0.5}, 0.8)], {"history"}),
        ([({"x": 0.5}, 0.7), ({"x": 0.6}, 0.8), ({}, 0.9)], {"history", "slices"}),
        ([({"x": n / 9, "units": n}, 0.5) for n in range(1, 9)], FIGURES - {"importances"}),  # nothing differs
        ([({"x": n / 9, "units": n}, n) for n in range(1, 9)], FIGURES),
        ([({"x": 0.1, "kind": "a"}, 0.5), ({"units": 1, "kind": "b"}, 0.6)], {"history", "slices"}),
    ],
)
def test_what_makes_no_sense_yet_is_left_out(rows, names):
    study = told(rows, {"x": X, "units": UNITS, "kind": KIND})
    assert set(study_figures(study, ["roc_auc"], None)) == names


def test_a_search_space_that_changed_is_drawn():
    study = told([({"x": n / 9}, n) for n in range(5)], {"x": FloatDistribution(0, 1)})
    for n, choice in enumerate(["0.5", "none", "none"]):
        study.add_trial(
            create_trial(params={"x": choice}, distributions={"x": CategoricalDistribution(["0.5", "none"])}, value=n)
        )
    labels = [label.get_text() for label in study_figures(study, ["roc_auc"], None)["slices"].axes[0].get_xticklabels()]
    assert {"0.5", "none", "0.0"} <= set(labels)


def test_a_failed_papers_setting_is_not_marked():
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(state=TrialState.FAIL))
    for value in (0.5, 0.6):
        study.add_trial(create_trial(params={"x": value}, distributions={"x": X}, value=value))
    for figure in study_figures(study, ["roc_auc"], None).values():
        assert "the paper's setting" not in texts(figure)


def test_a_name_for_each_objective():
    with pytest.raises(ValueError, match="objective_names: expected 1, found 2"):
        study_figures(optuna.create_study(), ["roc_auc", "seconds"], None)
