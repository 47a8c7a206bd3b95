"""Pruning over folds: what it saves, and that the best trial is not lost to it."""

import shutil

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from support_jobs import PretendedFit, pretend_to_train

from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.executors.inline import InlineExecutor
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.search.pruning import make_pruner, over_folds
from mammo_mlflow.search.runs import StudyRuns
from mammo_mlflow.search.sampling import TrialProposer, distribution_of
from mammo_mlflow.search.spaces import read_space
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.study import StudyWorker, open_study
from mammo_mlflow.search.study_spec import StudySpec
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.training.cross_validation import collect
from mammo_mlflow.training.fit_runs import FitRuns

TRIALS, FOLDS, RATE = 20, 4, "learning_rate"
SPACE = "family: pretrained\nparameters:\n  learning_rate: {low: 1e-7, high: 1, log: true}\n"
FIXED = {"weights": "random", "views": 0, "folds": FOLDS, "final": "none", "precision": "float32", "threads": 1}
TRAINING = "mammo_mlflow.engine.train:train_fit"


class Pretending(InlineExecutor):
    """Runs everything as it is but for the training, which a cheap stand-in takes over."""

    def __init__(self):
        self.trained = 0

    def stream(self, next_job, on_event, on_idle):
        def replaced():
            job = next_job()
            if job is None or job.target != TRAINING:
                return job
            self.trained += 1
            return PretendedFit(**vars(job))

        return super().stream(replaced, on_event, on_idle)


class Silent:
    def update(self, name, done, total):
        pass


class Laboratory:
    """Studies of a learning rate with the real driver, Optuna on SQLite and MLflow on SQLite; one store for all."""

    def __init__(self, where):
        cache = Cache(where)
        patch_set = read_patch_set(make_phantom(PhantomSettings(240, 24, 32), where))
        (where / "scratch").mkdir()
        (where / "space.yaml").write_text(SPACE)
        self.space = read_space(where / "space.yaml", "pretrained", "vgg16")
        client = MlflowClient(f"sqlite:///{where}/mlflow.db")
        experiment = client.create_experiment("mammo", artifact_location=(where / "artifacts").as_uri())
        self.executor = Pretending()
        self.planner = Planner(patch_set, self.executor, cache)
        writer = Writer(client, experiment, {})
        self.session = Workbench(
            executor=self.executor,
            side=self.executor,
            cache=cache,
            progress=Silent(),
            workers=1,
            cores=1,
            resume=False,
            open_store=lambda: (writer, where / "scratch"),
        )
        self.storage = Storage(f"sqlite:///{where}/optuna.db")

    def base(self, seed):
        flat = build("mass_calc", {"backbone": "vgg16", RATE: 3e-4, "seed": seed, **FIXED}).flat()
        return {name: value for name, value in flat.items() if name not in ("task", "family")}

    def study(self, sampler, pruner, seed):
        """The study, and how many folds were trained."""
        base = self.base(seed)
        objectives = parse_objectives("roc_auc")
        made = make_pruner(pruner, len(objectives), FOLDS)
        name = f"{sampler} {pruner} {seed}"
        spec = StudySpec(
            name=name,
            task="mass_calc",
            space=self.space,
            base=base,
            paper=base,
            objectives=objectives,
            sampler=sampler,
            seed=seed,
            pruner=made,
            trials=TRIALS,
        )
        paper = self.plan(base)
        study = open_study(self.storage, spec, spec.key(paper))
        runs = StudyRuns(self.session.writer, study, {})
        top, _ = runs.open_study(name, None, {})
        before = self.executor.trained
        search = StudyWorker(self.session, self.planner, self.storage, study, spec, runs, top, {})
        search.run(wait=True)
        top.finish()
        self.session.writer.drain()
        return study, self.executor.trained - before

    def plan(self, setting):
        return self.planner.plans([build("mass_calc", setting)])[0]

    def values(self, setting):
        """The objective after one fold, after two, and so on to all of a trial with this setting."""
        plan = self.plan(setting)
        fits = FitRuns(self.session, plan, None, "")
        oof = collect(plan, None, {fit.name: pretend_to_train(fits.job(fit, {}), None) for fit in plan.fits}).oof
        seen = [oof[oof["fold"] <= done] for done in sorted(oof["fold"].unique())]
        return [out_of_fold("roc_auc", one["label"], one["probability"], one["fold"]) for one in seen]

    def simulated(self, sampler, seed):
        """The study as `study` makes it, in memory; every trial's values, had all its folds been trained."""
        base = self.base(seed)
        made = optuna.create_study(direction="maximize", sampler=RandomSampler(), pruner=make_pruner("auto", 1, FOLDS))
        proposer = TrialProposer(sampler, seed, None)
        values = []
        for number in range(TRIALS):
            trial, known = made.ask(), {} if number else {RATE: base[RATE]}
            draft = proposer.propose(
                made,
                made.trials[number],
                [other.params for other in made.trials[:number]],
                lambda suggest: self.space.draw(base, lambda item: suggest(item.name, distribution_of(item))),
                known,
                known_only=not number,
            )
            draft.store(trial)
            values.append(self.values(draft.values))
            for step, value in enumerate(values[-1], 1):
                trial.report(value, step)
                if step < FOLDS and trial.should_prune():
                    made.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                made.tell(trial, values[-1][-1])
        return made, [one[-1] for one in values]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, empty_stores, keras):
    return Laboratory(shutil.copytree(empty_stores, tmp_path_factory.mktemp("pruning") / "where"))


@pytest.mark.parametrize(("sampler", "seeds"), [("random", 10), ("tpe", 2)])
def test_pruning_saves_a_third_of_the_folds_and_keeps_the_best_trial(laboratory, simulation, sampler, seeds):
    shares = []
    for seed in simulation(seeds):
        study, values = laboratory.simulated(sampler, seed)
        best = values.index(max(values))
        assert study.trials[best].state == TrialState.COMPLETE, f"seed {seed} lost the best trial"
        assert study.best_trial.number == best
        shares.append(1 - sum(map(trained_folds, study.trials)) / (TRIALS * FOLDS))
    assert sum(shares) / len(shares) >= 0.3


def trained_folds(trial):
    return len(trial.intermediate_values)


def seen(study):
    return [(trial.state, trial.params, trial.intermediate_values) for trial in study.trials]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_in_both_stores_goes_as_the_simulated_one(laboratory, simulation, sampler):
    study, trained = laboratory.study(sampler, "auto", 0)
    wanted, values = laboratory.simulated(sampler, 0)
    assert seen(study) == seen(wanted)
    assert len(study.trials) == TRIALS
    assert trained == sum(map(trained_folds, study.trials)) < TRIALS * FOLDS
    assert study.best_trial.number == values.index(max(values))


def test_without_a_pruner_every_fold_is_trained_and_the_same_trials_are_drawn(laboratory, simulation):
    study, trained = laboratory.study("random", "none", 0)
    assert trained == TRIALS * FOLDS
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    pruned, values = laboratory.simulated("random", 0)
    assert [trial.value for trial in study.trials] == pytest.approx(values)
    assert study.best_trial.number == values.index(max(values))
    assert [trial.params for trial in pruned.trials] == [trial.params for trial in study.trials]


def test_names(recwarn):
    for name in ("auto", "median", "percentile", "percentile=75", "percentile=0.5"):
        made = make_pruner(name, 1, 2)
        assert isinstance(made, optuna.pruners.PercentilePruner)
        assert not over_folds(made)
    assert make_pruner("none", 1, 5) is make_pruner("none", 2, 5) is make_pruner("auto", 2, 5) is None
    assert not over_folds(None)
    assert over_folds(make_pruner("wilcoxon", 1, 6))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "objectives", "folds", "line"),
    [
        ("medain", 1, 5, "pruner: unknown 'medain', did you mean 'median'?"),
        ("median=3", 1, 5, "pruner: unknown 'median=3'"),
        ("", 1, 5, "pruner: unknown ''"),
        ("median", 2, 5, "pruner: expected none with two objectives, found 'median'"),
        ("wilcoxon", 1, 5, "pruner: expected at least 6 folds for wilcoxon, found 5"),
        ("percentile=", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile='"),
        ("percentile=100", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile=100'"),
        ("percentile=nan", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile=nan'"),
        ("percentile=many", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile=many'"),
    ],
)
def test_refusals(name, objectives, folds, line):
    with pytest.raises(UserError) as raised:
        make_pruner(name, objectives, folds)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
