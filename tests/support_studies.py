"""Studies of one parameter whose training a cheap stand-in takes over, in real stores."""

import optuna
from mlflow.tracking import MlflowClient
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from support_jobs import PretendedFit, pretend_to_train

from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.executors.inline import InlineExecutor
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.search.optuna_private import ShownStudy
from mammo_mlflow.search.pruning import make_pruner
from mammo_mlflow.search.runs import StudyRuns
from mammo_mlflow.search.sampling import TrialProposer, distribution_of
from mammo_mlflow.search.spaces import read_space
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.stored_study import open_study
from mammo_mlflow.search.study import StudyWorker
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

    def attempts(self, next_job, on_event, on_idle):
        def replaced():
            job = next_job()
            if job is None or job.target != TRAINING:
                return job
            self.trained += 1
            return PretendedFit(**vars(job))

        return super().attempts(replaced, on_event, on_idle)


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
        self.client = MlflowClient(f"sqlite:///{where}/mlflow.db")
        self.experiment = self.client.create_experiment("mammo", artifact_location=(where / "artifacts").as_uri())
        self.executor = Pretending()
        self.planner = Planner(patch_set, self.executor, cache)
        self.where, self.cache = where, cache
        self.open()
        self.storage = Storage(f"sqlite:///{where}/optuna.db")

    def open(self):
        """A workbench of its own, as another process has; what the last one has not written is lost."""
        writer = Writer(self.client, self.experiment, {})
        self.session = Workbench(
            executor=self.executor,
            side=self.executor,
            cache=self.cache,
            progress=Silent(),
            workers=1,
            cores=1,
            resume=False,
            open_store=lambda: (writer, self.where / "scratch"),
        )

    def base(self, seed):
        flat = build("mass_calc", {"backbone": "vgg16", RATE: 3e-4, "seed": seed, **FIXED}).flat()
        return {name: value for name, value in flat.items() if name not in ("task", "family")}

    def spec(self, sampler, pruner, seed, name="", **more):
        """The specification of a study; `more` are fields of it."""
        base = self.base(seed)
        objectives = parse_objectives("roc_auc")
        made = make_pruner(pruner, len(objectives), FOLDS)
        name = name or f"{sampler} {pruner} {seed}"
        fields = {"trials": TRIALS, "pruner": made, "sampler": sampler, "seed": seed, **more}
        return StudySpec(
            name=name, task="mass_calc", space=self.space, base=base, paper=base, objectives=objectives, **fields
        )

    def study(self, sampler, pruner, seed, name="", **more):
        """The study, and how many folds were trained; `more` are fields of its specification."""
        spec = self.spec(sampler, pruner, seed, name, **more)
        name, paper = spec.name, self.plan(spec.base)
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
                ShownStudy(made, made.trials),
                made.trials[number],
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
