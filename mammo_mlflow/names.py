"""Every name that is stored in MLflow, its registry and Optuna, with its meaning above or beside it.

The tables of docs/architecture.md are made of the comments of this file (`python scripts/name_tables.py`). A name is
kept for good: what was stored under it would not be found under another.
"""

from __future__ import annotations

PREFIX = "mammo."  # what every tag begins with
EXPERIMENT = "mammo"  # the MLflow experiment that runs go to where none is named
# where a logged model's metadata have what is known of it, and there the values of its training patches
METADATA, TRAINING_VALUES = "mammo", "training_values"
# the aliases of a model's newest version, of a task's champion, and of the champion before it
CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
LOCK = "mammo.lock-"  # what begins the name of a registered model that is none, but a lock while a command decides
SENSITIVITY_AT = "sensitivity_at_specificity"  # the metric, before `=` and the specificity
DATA_URI = "mammo-data:/"  # before the name of a data directory, as the source of a run's data set
SEARCHED = "searched"  # what ends the registered name of a study's model


class Tag:
    """The tags of runs and of registered versions."""

    # what was run; set: `pretrained`, `tuned`, `scratch` (the four settings that the paper keeps, on the common 4
    # folds), `siamese`, `views`, `conditioned`, `protocol` (hold-outs, and those that only serve a table), `control` or
    # `ensemble`
    TASK, FAMILY, BACKBONE = "mammo.task", "mammo.family", "mammo.backbone"
    UNFROZEN, SET, PRESET = "mammo.unfrozen", "mammo.set", "mammo.preset"
    CONTROL = "mammo.control"  # `none`, `baseline` or `shuffled`
    KEY = "mammo.key"  # sha256 that a finished run is found by
    # the sha256 of the training data, of the test data and of the folds
    DATA_SHA256, TEST_SHA256, FOLDS_SHA256 = "mammo.data_sha256", "mammo.test_sha256", "mammo.folds_sha256"
    # kind, source and identity of the backbone's weights
    WEIGHTS, WEIGHTS_SOURCE, WEIGHTS_SHA256 = "mammo.weights", "mammo.weights_source", "mammo.weights_sha256"
    # with what it was computed (backend and kind are part of the keys): Keras's backend; `cpu` (also where absent) or
    # `gpu`; the names of the cards
    KERAS_BACKEND = "mammo.keras_backend"
    DEVICE, DEVICE_NAME = "mammo.device", "mammo.device_name"
    PHANTOM = "mammo.phantom"  # `true` on phantom data
    FIT, CV_RUN_ID = "mammo.fit", "mammo.cv_run_id"  # which fit of which cross-validation
    TAIL = "mammo.tail"  # on the folds of trials: whether the trained tail was `kept` or `left out`
    OOF_PATCHES = "mammo.oof_patches"  # how many patches have an out-of-fold prediction
    # the run it was copied from, and the one that goes on with it; who writes; why a run failed
    REUSED_FROM, CONTINUED_BY = "mammo.reused_from", "mammo.continued_by"
    PROCESS, REASON = "mammo.process", "mammo.reason"
    HEARTBEAT = "mammo.heartbeat"  # when it last said that it lives, in seconds since 1970, on one of its open runs
    # a study's runs; level: `study`, `trial`, `repeat`, `best` (of a study with repeats), `fresh`
    STUDY, STUDY_ID, LEVEL, PART = "mammo.study", "mammo.study_id", "mammo.level", "mammo.part"
    TRIAL, TRIAL_STATE, PRUNED = "mammo.trial", "mammo.trial_state", "mammo.pruned"
    # on a study's run, beside `best.<parameter>`: how it ended
    BEST_TRIAL, CLOSING_VERSION = "mammo.best_trial", "mammo.closing_version"
    # on the runs of studies and ensembles: whether the best setting, or the ensemble, beats what it is held against
    VERDICT, TEST_VERDICT = "mammo.verdict", "mammo.test_verdict"
    # on an ensemble's run: the versions it is made of, and how
    MEMBERS, METHOD = "mammo.members", "mammo.method"
    # on a promotion's run (family `promotion`; an ingest's is `prepare`, a page's `report`, the whole paper's
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
    # on a lock: whose it is, which renewal of it, and what only processes of one machine have in common
    HOLDER, BEAT, PLACE = "mammo.holder", "mammo.beat", "mammo.place"
    # "patients as clusters" or "patches assumed independent"; "patients resampled": stored by an earlier version,
    # percentile bootstraps
    INTERVALS = "mammo.intervals"
    # which numbers of the run have no interval, and why: `test_roc_auc: fewer than 3 patients of a class; …`
    NO_INTERVAL = "mammo.no_interval"
    # the final model; files: their sha256, as they were when it was registered
    REGISTERED_NAME, VERSION, MODEL_ID = "mammo.registered_name", "mammo.version", "mammo.model_id"
    THRESHOLD, THRESHOLD_TRANSFERRED = "mammo.threshold", "mammo.threshold_transferred"
    FILES_SHA256 = "mammo.files_sha256"
    # how a recalibrated model's map was fitted, in words
    RECALIBRATED = "mammo.recalibrated"
    # of a model whose answer may be "refer": the coverage of each class, and between which probabilities it is that
    ANSWER_SETS = "mammo.answer_sets"
    # of networks of two views: how many training and test abnormalities have no other view, so that each is its own
    SINGLE_VIEWS = "mammo.single_views"
    # on the run of `reproduce`: the steps that are done; its metric `seconds` has by step number what each took
    STEPS = "mammo.steps"


class Artifact:
    """The artifacts of runs, and the files of logged ensembles."""

    # of a cross-validation, and of an ensemble, whose predictions are nested: a row for each training abnormality
    OOF, FOLDS = "oof.parquet", "folds.parquet"
    # of a fit, in its folder: predictions (a head's in all cached views, too), history, costs, and what was trained
    FIT, PREDICTIONS, FACTS, TAIL = "fit", "predictions.parquet", "fit.json", "tail.keras"
    # of a final run, and of an ensemble: test predictions; the threshold, and what it was chosen on
    TEST, THRESHOLD = "test.parquet", "threshold.json"
    RECALIBRATION = "recalibration.json"  # of a final run: the map that its model's answers go through
    FIGURES = "figures"  # of all of these, and of studies: the folder of figures
    COMPARISON = "comparison.csv"  # of runs that compare several
    # of an ensemble
    METHODS, WEIGHTS, DISAGREEMENT = "methods.csv", "weights.csv", "disagreement.csv"
    TRIALS, BEST = "trials.csv", "best.json"  # of a study
    GATES = "gates.csv"  # of a promotion
    # of a logged ensemble: one Keras model of all members, the combiner as arrays, and names and threshold
    MEMBERS, LEVEL1, ENSEMBLE = "members.keras", "level1.npz", "ensemble.json"


class Metric:
    """The metrics of runs: names, or how names begin; `_low` and `_high` end those of an interval's ends."""

    # of the folds, by metric, each on its run, with `_mean` and `_sd` on that of the cross-validation
    FOLD = "fold_"
    # of out-of-fold predictions, by metric; `oof_roc_auc` is the mean of the folds' AUCs weighted by positive ×
    # negative pairs, `oof_pooled_roc_auc` a diagnostic
    OOF, OOF_ROC_AUC, OOF_POOLED_ROC_AUC = "oof_", "oof_roc_auc", "oof_pooled_roc_auc"
    # the same where the probabilities of a lesion's views are averaged
    OOF_BY_LESION = "oof_by_lesion_"
    # before recalibration: Brier score and calibration of the out-of-fold predictions, whose other metrics are after it
    OOF_UNCALIBRATED = "oof_uncalibrated_"
    # of the test set, by metric, decided at 0.5
    TEST, TEST_ACCURACY, TEST_ROC_AUC = "test_", "test_accuracy", "test_roc_auc"
    # the same where a patient with abnormalities of both classes counts once for each
    BY_PATIENT = "test_by_patient_"
    BY_LESION = "test_by_lesion_"  # the same where the probabilities of a lesion's views are averaged
    AT_THRESHOLD = "at_threshold_"  # behind each of the three: decided at the stored threshold
    # how many patches, patients and lesions the test set has
    TEST_PATCHES, TEST_PATIENTS, TEST_LESIONS = "test_patches", "test_patients", "test_lesions"
    THRESHOLD = "threshold"  # the threshold of the final model
    # of answer sets, behind `oof_` and `test_`: how often each class is part of its patches' answer, share referred
    COVERAGE_0, COVERAGE_1, REFERRED = "coverage_0", "coverage_1", "referred"
    OBJECTIVE = "objective_"  # of a trial, by objective, with `_trials_mean` and `_sd` on the study
    # on a study: the best trial's objectives, and how many trials ended how
    BEST, TRIALS = "best_", "trials_"
    # on an ensemble, by method: nested, and where the method was chosen
    NESTED, OPTIMISTIC = "nested_", "optimistic_"
    MEMBER = "member_"  # on an ensemble, by name: its members
    # on an ensemble, behind `test_` on the test set: its lead over the best member, and DeLong's p
    LEAD, DELONG_P = "lead", "delong_p"
    FIT_SECONDS = "fit_seconds"  # seconds of the fits, on the cross-validation
    TTA_SECONDS = "tta_seconds"  # seconds of predicting scored patches in all their views, on the cross-validation


class Attribute:
    """The attributes of Optuna's studies and trials, beside the facts that are shown of a study."""

    # of a study: its id in the tags of runs, the key by which it is continued, and its space
    ID, KEY, SPACE = "id", "key", "space"
    # of a trial: who works on it, the whole experiment, the link to its run, and where it has one why it ended so
    PROCESS, SETTING, LINK, REASON = "process", "setting", "mlflow_run", "reason"
    PRESET = "preset"  # of the first trial: `paper`


def registered_name(task: str, *parts: str) -> str:
    """The name of a registered model, `mammo-<task>-<part>-…`, without empty parts; that of champions has no part."""
    return "-".join(["mammo", task, *map(plain_name, filter(None, parts))])


def plain_name(network: str) -> str:
    """A network's name as part of MLflow's and Keras's own names, which do not take the `+` of joined backbones."""
    return network.replace("+", "_")
