"""Cross-validations on the small phantom, without the command around them."""

from mlflow.tracking import MlflowClient

from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.experiment import build, parameters
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.executors import make_executor
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.training.cross_validation import cross_validate

SMALL = {
    "weights": "random",
    "folds": 2,
    "epochs": 2,
    "tuning_epochs": 2,
    "views": 2,
    "final": "none",
    "dense": "16",
    "batch_size": 8,
    "precision": "float32",
}


class Silent:
    """A progress that shows nothing."""

    def update(self, name, done, total):
        pass


class Laboratory:
    """Plans and cross-validates on the phantom, into one tracking store."""

    def __init__(self, where, phantom, cache, executor="inline"):
        self.where, self.patch_set, self.cache, self.executor = where, read_patch_set(phantom), Cache(cache), executor
        self.client = MlflowClient(f"sqlite:///{where}/mlflow.db")
        self.experiment = self.client.create_experiment("mammo", artifact_location=(where / "artifacts").as_uri())

    def plan(self, task="mass_calc", family="pretrained", patch_set=None, **values):
        known = {item.name for item in parameters(family)}
        small = {name: value for name, value in SMALL.items() if name in known}
        planner = Planner(patch_set or self.patch_set, make_executor(self.executor, 1), self.cache)
        return planner.plans([build(task, small | values, family)])[0]

    def session(self, executor=None, workers=1, resume=False):
        scratch = self.where / "scratch"
        scratch.mkdir(exist_ok=True)
        writer = Writer(self.client, self.experiment, {})
        made = make_executor(executor or self.executor, workers)
        return Workbench(
            executor=made,
            side=made,
            cache=self.cache,
            progress=Silent(),
            workers=workers,
            cores=1,
            resume=resume,
            open_store=lambda: (writer, scratch),
        )

    def cross_validate(self, plan, session=None, figures=False):
        session = session or self.session()
        run = session.writer.start_run(plan.name, parent=None, tags={"mammo.key": plan.key}, params={})
        done = cross_validate(session, plan, run, figures=figures)
        run.finish()
        session.writer.drain()
        session.executor.close()
        return done

    def run(self, **values):
        return self.cross_validate(self.plan(**values))

    def fit_runs(self, done):
        """The runs of the fits of a cross-validation, by name."""
        query = f"tags.`mlflow.parentRunId` = '{done.run.id}'"
        return {run.data.tags["mammo.fit"]: run for run in self.client.search_runs([self.experiment], query)}

    def trained(self, done):
        """The fits that it trained itself, and did not find finished."""
        return {name for name, run in self.fit_runs(done).items() if "mammo.reused_from" not in run.data.tags}
