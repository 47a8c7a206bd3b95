"""What this project calls things in the store, the registry and Optuna, each name with its meaning above it.

The tables of docs/architecture.md are made of the comments of this file (`python scripts/name_tables.py`). A name is
kept for good: what was stored under it would not be found under another.
"""

from __future__ import annotations

PREFIX = "mammo."
"""What every tag begins with."""
EXPERIMENT = "mammo"
"""The MLflow experiment that runs go to where none is named."""
METADATA, TRAINING_VALUES = "mammo", "training_values"
"""Where a logged model's metadata have what is known of it, and there the values of its training patches."""
CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
"""The aliases: of a model's newest version, of a task's champion, and of the champion before it."""
SEARCHED = "searched"
"""What ends the registered name of a study's model."""


class Tag:
    """The tags of runs and of registered versions."""

    # what was run; set: `pretrained`, `tuned`, `scratch` (the four settings that the paper keeps, on the common 4
    # folds), `siamese`, `conditioned`, `protocol` (hold-outs, and those that only serve a table), `control` or
    # `ensemble`
    TASK, FAMILY, BACKBONE = "mammo.task", "mammo.family", "mammo.backbone"
    UNFROZEN, SET, PRESET = "mammo.unfrozen", "mammo.set", "mammo.preset"
    # `none`, `baseline` or `shuffled`
    CONTROL = "mammo.control"
    # sha256 that a finished run is found by
    KEY = "mammo.key"
    # data and folds
    DATA_SHA256, TEST_SHA256, FOLDS_SHA256 = "mammo.data_sha256", "mammo.test_sha256", "mammo.folds_sha256"
    # kind, source and identity of the backbone's weights
    WEIGHTS, WEIGHTS_SOURCE, WEIGHTS_SHA256 = "mammo.weights", "mammo.weights_source", "mammo.weights_sha256"
    # TensorFlow by default; `KERAS_BACKEND=jax` runs the same code (part of the keys)
    KERAS_BACKEND = "mammo.keras_backend"
    # `true` on phantom data
    PHANTOM = "mammo.phantom"
    # which fit of which cross-validation
    FIT, CV_RUN_ID = "mammo.fit", "mammo.cv_run_id"
    # how many patches have an out-of-fold prediction
    OOF_PATCHES = "mammo.oof_patches"
    # resuming; who writes; why a run failed
    REUSED_FROM, CONTINUED_BY = "mammo.reused_from", "mammo.continued_by"
    PROCESS, REASON = "mammo.process", "mammo.reason"
    # a study's runs; level: `study`, `trial`, `fresh`
    STUDY, STUDY_ID, LEVEL, PART = "mammo.study", "mammo.study_id", "mammo.level", "mammo.part"
    TRIAL, TRIAL_STATE, PRUNED = "mammo.trial", "mammo.trial_state", "mammo.pruned"
    # on a study's run, beside `best.<parameter>`: how it ended
    BEST_TRIAL, CLOSING_VERSION = "mammo.best_trial", "mammo.closing_version"
    # on the runs of studies and ensembles: whether the best setting, or the ensemble, beats what it is held against
    VERDICT, TEST_VERDICT = "mammo.verdict", "mammo.test_verdict"
    # on an ensemble's run: the versions it is made of, and how
    MEMBERS, METHOD = "mammo.members", "mammo.method"
    # on a promotion's run (family `promotion`; an ingest's is `prepare`, a page's `report`, the whole study's
    # `reproduce`): `promoted`, `kept` or `rolled back`; it is FINISHED only where that has come to be
    DECISION, CANDIDATE = "mammo.decision", "mammo.candidate"
    CHAMPION_BEFORE, FAILED_GATE = "mammo.champion_before", "mammo.failed_gate"
    # on the run of a decision that compared candidates with a champion: what it asked, as a hash; the one-sided error
    # it could spend; what the next one has in addition
    QUESTION, ERROR, HANDED_ON = "mammo.question", "mammo.error", "mammo.error_handed_on"
    # on a version: of how many settings it is the best (trials of its study, methods of an ensemble times those of its
    # members); 1 where absent
    COMPARED = "mammo.compared"
    # on a version of `mammo-<task>`: the candidate it was, the champion before it, the run of the decision
    # that made it champion, whether it came to that, whether someone went back from it
    PROMOTED_FROM, PREVIOUS, DECIDED_BY = "mammo.promoted_from", "mammo.previous", "mammo.decided_by"
    WAS_CHAMPION, ROLLED_BACK = "mammo.was_champion", "mammo.rolled_back"
    # "patients as clusters" or "patches assumed independent"; "patients resampled": stored by an earlier version,
    # percentile bootstraps
    INTERVALS = "mammo.intervals"
    # which figures of the run stand without an interval, and why: `test_roc_auc: fewer than 3 patients of a class; …`
    NO_INTERVAL = "mammo.no_interval"
    # the final model; files: their sha256, as they were when it was registered
    REGISTERED_NAME, VERSION, MODEL_ID = "mammo.registered_name", "mammo.version", "mammo.model_id"
    THRESHOLD, THRESHOLD_TRANSFERRED = "mammo.threshold", "mammo.threshold_transferred"
    FILES_SHA256 = "mammo.files_sha256"
    # on the run of the whole study: the steps that are done
    STEPS = "mammo.steps"


def registered_name(task: str, *parts: str) -> str:
    """The name of a registered model, of the `parts` that are not empty; that of a task's champions has none."""
    return "-".join(["mammo", task, *filter(None, parts)])
