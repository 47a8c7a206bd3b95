"""Champions, as a user promotes them: candidates with planted predictions, registered in a real store."""

import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import command, environment
from support_promotion import TASK_MODEL, Place, predictions

from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.spending import ALPHA, error_share
from mammo_mlflow.names import Tag
from mammo_mlflow.tracking.champions import deciding, finish_decision, promote
from mammo_mlflow.tracking.compared import compared_of
from mammo_mlflow.tracking.registry import version_of

pytestmark = pytest.mark.usefixtures("keras")

LUCKY = 5
"""Under this seed a skill of 2 leads one of 1.5 by between 2.1 and 3.2 standard errors."""


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    yield
    logging.root.handlers[:] = handlers
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture
def place(tmp_path, planted_model, empty_stores, monkeypatch):
    shutil.copy(empty_stores / "mlflow.db", tmp_path)
    found = Place(tmp_path, planted_model)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    monkeypatch.chdir(tmp_path)
    return found


def test_the_first_champion_is_the_best_candidate(place):
    place.plant("scratch-m1", predictions(1.0))
    best = place.plant("pretrained-vgg16", predictions(2.0))
    place.plant("pretrained-vgg16-shuffled", predictions(3.0), control="shuffled")
    outcome = place.promote()
    assert place.champion == best
    assert outcome.complaints == []
    assert f"champion of mass_calc: {TASK_MODEL} v1 ({best}), none before" in outcome.out
    assert "0.500 [0.400, 0.600]" in outcome.out
    assert place.decisions() == [("promoted", "FINISHED")]


def test_a_better_one_is_promoted_and_a_worse_one_is_not(place):
    first = place.plant("a", predictions(1.5))
    place.promote()
    place.plant("worse", predictions(0.8, seed=1))
    outcome = place.promote()
    assert place.champion == first
    assert "FAILED  better" in outcome.out
    assert "as before: mammo-mass_calc-worse v1 fails the gate 'better'" in outcome.out
    better = place.plant("better", predictions(2.5, seed=2))
    outcome = place.promote()
    assert place.champion == better
    assert place.previous == 1
    assert f"{TASK_MODEL} v2 ({better}), {TASK_MODEL} v1 ({first}) before" in outcome.out
    assert [decision for decision, _ in place.decisions()] == ["promoted", "kept", "promoted"]


def test_an_equal_one_leaves_the_champion(place):
    first = place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", predictions(1.5))
    place.promote()
    assert place.champion == first
    assert place.versions == [1]
    # the champion itself is no candidate, unless it is named
    assert "lead in roc_auc +0.0000" in place.promote("--candidate", first.replace(" v", "/")).out


@pytest.mark.parametrize(
    ("planted", "gate"),
    [
        ({"probabilities": np.clip(predictions(2.5) ** 6, 0, 1)}, "calibrated"),
        ({"probabilities": predictions(2.5), "threshold": 0.97}, "sensitivity"),
        ({"probabilities": predictions(2.5), "data_sha256": "c"}, "data"),
        ({"probabilities": predictions(2.5), "phantom": "true", "data_sha256": "c"}, "data"),
    ],
)
def test_each_gate_keeps_the_champion(place, planted, gate):
    first = place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", **planted)
    outcome = place.promote()
    assert f"FAILED  {gate}" in outcome.out
    assert place.champion == first
    assert place.versions == [1]


def test_a_model_with_changed_files_fails_the_last_gate(place):
    place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", predictions(2.5))
    version = place.client.get_model_version_by_alias("mammo-mass_calc-b", "candidate")
    model = place.client.get_logged_model(version.source.removeprefix("models:/"))
    with (Path(model.artifact_location.removeprefix("file://")) / "requirements.txt").open("a") as file:
        file.write("# more\n")
    outcome = place.promote()
    assert "FAILED  signature: model: expected files of mammo-mass_calc-b v1" in outcome.out
    assert place.versions == [1]


def test_a_real_model_takes_a_phantoms_place(place):
    place.plant("a", predictions(3.0), phantom="true")
    place.promote()
    real = place.plant("b", predictions(1.0), data_sha256="c")
    place.promote("--candidate", "mammo-mass_calc-b@candidate")
    assert place.champion == real


def test_rollback_goes_back_and_stays(place):
    first = place.plant("a", predictions(1.0))
    place.promote()
    place.plant("b", predictions(2.5))
    place.promote()
    outcome = place.promote("--rollback", "true")
    assert place.champion == first
    assert place.previous is None
    assert f"{TASK_MODEL} v1 ({first}) again" in outcome.out
    assert "none; `ensemble` or a family makes one" in place.promote(code=2).complaints[0]
    assert place.champion == first
    assert "rollback: expected a champion" in place.promote("--rollback", "true", code=2).complaints[0]
    place.promote("--candidate", "mammo-mass_calc-b@candidate")  # unless it is named
    assert place.champion == "mammo-mass_calc-b v1"
    assert place.decisions()[-2:] == [("rolled back", "FINISHED"), ("promoted", "FINISHED")]


def test_what_was_rolled_back_stays_so_under_the_next_champion(place):
    place.plant("a", predictions(1.0))
    place.promote()
    place.plant("b", predictions(2.8))
    place.promote()
    place.promote("--rollback", "true")
    third = place.plant("c", predictions(2.0, seed=1))
    place.promote()
    assert place.champion == third
    place.plant("worse", predictions(0.5))
    place.promote()
    assert place.champion == third


def test_an_old_champion_named_again_is_a_decision_as_any_other(place):
    first = place.plant("a", predictions(1.0))
    place.promote()
    place.plant("b", predictions(2.5))
    place.promote()
    place.promote("--candidate", f"{TASK_MODEL}@previous")
    assert place.champion == "mammo-mass_calc-b v1"
    version = version_of(place.client.get_model_version(TASK_MODEL, "1"))
    made = promote(place.client, "mass_calc", version, "")
    assert made.tags[Tag.PROMOTED_FROM] == first
    assert made.tags["mammo.previous"] == "2"


def test_a_candidate_with_broken_predictions_stops_nobody(place):
    broken = predictions(3.0)
    broken[3] = np.nan
    place.plant("broken", broken)
    good = place.plant("good", predictions(1.0))
    outcome = place.promote()
    assert place.champion == good
    assert "mammo-mass_calc-broken v1" in outcome.out


def test_going_back_to_a_model_that_cannot_be_served_is_refused(place):
    place.plant("a", predictions(1.0))
    place.promote()
    second = place.plant("b", predictions(2.5))
    place.promote()
    version = place.client.get_model_version(TASK_MODEL, "1")
    model = place.client.get_logged_model(version.source.removeprefix("models:/"))
    (Path(model.artifact_location.removeprefix("file://")) / "requirements.txt").unlink()
    assert "they were changed" in place.promote("--rollback", "true", code=2).complaints[0]
    assert place.champion == second


def test_a_control_is_no_champion_even_by_name(place):
    place.plant("a-shuffled", predictions(3.0), control="shuffled")
    (line,) = place.promote("--candidate", "mammo-mass_calc-a-shuffled@candidate", code=2).complaints
    assert "candidate: expected a model that could be champion, found mammo-mass_calc-a-shuffled v1, a shuffled" in line


def test_candidates_are_found_behind_a_hundred_other_models(place):
    for number in range(101):
        place.client.create_registered_model(f"mammo-aaa-{number:03d}")
    best = place.plant("a", predictions(1.0))
    place.promote()
    assert place.champion == best


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "mass"), "task: unknown 'mass', did you mean 'mass_calc'"),
        (("--calibration", "0"), "calibration: expected a number in (0, 1]"),
        (("--objective", "seconds"), "objective: expected 'seconds' only as the second"),
        (("--objective", "auc"), "objective: unknown 'auc'"),
        (("--candidate", "nothing/1"), "of which the store has none, found 'nothing/1'"),
        (("--rollback", "true"), "rollback: expected a champion of mass_calc before the present one, found none"),
        ((), "candidate: expected a registered model of mass_calc, found none"),
    ],
)
def test_what_cannot_be_decided_is_a_line_and_no_run(place, arguments, said):
    (line,) = place.promote(*arguments, code=2).complaints
    assert said in line
    assert place.decisions() == []


KILLED = """
import os, signal, sys
from mlflow.tracking import MlflowClient
from mammo_mlflow.tracking.champions import deciding, promote
from mammo_mlflow.tracking.registry import find_model
call, when, uri, decision = sys.argv[1:]
real = getattr(MlflowClient, call)
def dying(self, *arguments, **options):
    if when == "after":
        real(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
client = MlflowClient(uri)
candidate = find_model(client, "mammo-mass_calc-b@candidate")
with deciding(client, "mass_calc"):
    setattr(MlflowClient, call, dying)
    promote(client, "mass_calc", candidate, decision)
"""


@pytest.mark.parametrize("call", ["create_model_version", "set_registered_model_alias", "set_model_version_tag"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_half_way_the_registry_is_as_before_or_after(place, kill, call, when):
    first = place.plant("a", predictions(1.0))
    place.promote()
    second = place.plant("b", predictions(2.5))
    run = place.writer.start_run("decision", parent=None, tags={}, params={})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, call, when, place.uri, run.id],
        env=environment(place.where, MLFLOW_TRACKING_URI=place.uri),
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    moved = call == "set_model_version_tag" or (call == "set_registered_model_alias" and when == "after")
    assert place.champion == (second if moved else first)
    with deciding(place.client, "mass_calc"):  # what the next command does first
        pass
    assert place.champion == (second if moved else first)
    assert place.versions == ([1, 2] if moved else [1])
    assert place.previous == (1 if moved else None)
    assert (place.client.get_run(run.id).info.status == "FINISHED") == moved
    if not moved:
        place.promote()
        assert place.champion == second


def test_two_promotions_at_once_leave_one_champion(place, system):
    place.plant("a", predictions(1.5))
    best = place.plant("b", predictions(2.0))
    line = command("--task", "mass_calc", name="promote")
    surroundings = environment(place.where, MLFLOW_TRACKING_URI=place.uri)
    both = [
        subprocess.Popen(
            line, cwd=place.where, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert place.champion == best
    assert place.versions == [1]
    assert sorted(place.decisions()) == [("kept", "FINISHED"), ("promoted", "FINISHED")]


def test_a_version_made_by_hand_stays(place):
    place.plant("a", predictions(1.0))
    place.promote()
    version = place.client.get_model_version(TASK_MODEL, "1")
    place.client.create_model_version(TASK_MODEL, version.source, version.run_id)
    finish_decision(place.client, TASK_MODEL)
    assert place.versions == [1, 2]


def test_the_champion_names_the_one_before_it(place):
    place.plant("a", predictions(1.0))
    place.promote()
    place.plant("b", predictions(2.5))
    candidate = version_of(place.client.get_model_version_by_alias("mammo-mass_calc-b", "candidate"))
    made = promote(place.client, "mass_calc", candidate, "")
    assert made.tags["mammo.previous"] == "1"
    place.client.delete_registered_model_alias(TASK_MODEL, "previous")
    finish_decision(place.client, TASK_MODEL)
    assert place.previous == 1


def study(place, trials, verdict="The best of them is within the noise of choosing."):
    """The run of a study as version 0.1.0 left it; the tags that its model has."""
    tags = {"mammo.study_id": "s1", "mammo.level": "study", "mammo.verdict": verdict}
    run = place.writer.start_run("study", parent=None, tags=tags, params={})
    run.log_metrics({"trials_complete": trials - 4, "trials_pruned": 4, "trials_fail": 2})
    run.finish()
    place.writer.drain()
    return {"study_id": "s1", "family": "pretrained", "backbone": "vgg16"}


def errors(place):
    """The error that each decision could spend, the first one first; None for those that compared nothing."""
    runs = place.client.search_runs(
        [place.experiment], "tags.`mammo.family` = 'promotion'", order_by=["attributes.start_time ASC"]
    )
    return [float(run.data.tags["mammo.error"]) if "mammo.error" in run.data.tags else None for run in runs]


@pytest.mark.parametrize("kept", [True, False])
def test_the_best_of_thirty_has_to_lead_by_more(place, kept):
    """By more than does for one setting; the number of trials is kept with the version, or told from its study."""
    place.plant("a", predictions(1.5))
    place.promote()
    tags = study(place, 30) | ({"compared": "30"} if kept else {})
    place.plant("b-searched", predictions(2.0, seed=LUCKY), **tags)
    outcome = place.promote()
    (said,) = [line for line in outcome.out.splitlines() if "FAILED  better" in line]
    assert "99.8667 % interval" in said
    assert "30 settings compared, decision 1 on these data may err by 0.02 of 0.025" in said
    assert "its study: The best of them is within the noise of choosing." in said


def test_the_same_lead_does_for_one_setting(place):
    place.plant("a", predictions(1.5))
    place.promote()
    best = place.plant("b", predictions(2.0, seed=LUCKY))
    assert "1 setting compared" in place.promote().out
    assert place.champion == best


def test_a_winner_whose_study_is_gone_says_which_command_makes_it_anew(place):
    first = place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b-searched", predictions(3.0), study_id="gone", family="siamese", backbone="vgg16")
    outcome = place.promote()
    assert place.champion == first
    (said,) = [line for line in outcome.out.splitlines() if "FAILED  better" in line]
    assert "expected the number of settings it is the best of, found none, since its study is gone" in said
    assert said.endswith("python -m mammo_mlflow search --task mass_calc --backbone vgg16 --family siamese")
    assert errors(place) == [None, None]


def test_an_ensemble_is_the_best_of_its_methods_and_of_its_members_trials(place):
    place.plant("a", predictions(1.5))
    place.promote()
    place.plant("m-searched", predictions(1.0), compared="12")
    place.plant("n", predictions(1.0))
    run = place.writer.start_run("e", parent=None, tags={}, params={"method": "best"})
    run.log_metrics({f"nested_{name}{end}": 0.5 for name in ("average", "grid_fine") for end in ("", "_low", "_high")})
    run.finish()
    place.writer.drain()
    members = "mammo-mass_calc-m-searched v1, mammo-mass_calc-n v1"
    place.plant("ensemble-x", predictions(2.5, seed=1), family="ensemble", members=members)
    version = place.client.get_model_version("mammo-mass_calc-ensemble-x", "1")
    planted = version_of(version)
    told = compared_of(place.client, replace(planted, run_id=run.id))
    assert told == 2 * 12
    assert compared_of(place.client, planted) == 12  # of a method that was given
    assert compared_of(place.client, replace(planted, tags={**planted.tags, "mammo.compared": "7"})) == 7
    with pytest.raises(UserError, match="a whole number above 0, found 'many'"):
        compared_of(place.client, replace(planted, tags={**planted.tags, "mammo.compared": "many"}))


def test_each_decision_has_its_share_of_the_error_and_the_same_one_spends_nothing(place):
    place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", predictions(1.5, seed=1))
    assert "decision 1 on these data" in place.promote().out
    assert "decision 1 on these data" in place.promote().out
    place.promote("--calibration", "0.2")  # another bound asks the same of the predictions
    place.plant("c", predictions(1.5, seed=2))
    assert "2 settings compared, decision 2 on these data may err by 0.003" in place.promote().out
    place.promote("--candidate", "mammo-mass_calc-b")
    first, second = ALPHA * error_share(1), ALPHA * error_share(2)
    assert errors(place) == pytest.approx([None, first, first, first, second, first], nan_ok=True)


def test_deleting_a_decisions_run_gives_no_error_back(place):
    place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", predictions(1.5, seed=1))
    place.promote()
    (run, _) = place.client.search_runs([place.experiment], "tags.`mammo.family` = 'promotion'")
    place.client.delete_run(run.info.run_id)
    place.plant("c", predictions(1.5, seed=2))
    assert "decision 2 on these data" in place.promote("--candidate", "mammo-mass_calc-c").out


def test_a_promotion_hands_its_error_on(place):
    place.plant("a", predictions(1.0))
    place.promote()
    place.plant("b", predictions(2.5, seed=1))
    place.promote()
    assert place.champion == "mammo-mass_calc-b v1"
    place.plant("c", predictions(2.5, seed=2))
    place.promote("--candidate", "mammo-mass_calc-c")
    place.plant("d", predictions(2.5, seed=3))
    place.promote("--candidate", "mammo-mass_calc-d")
    wanted = [None, ALPHA * error_share(1), ALPHA * (error_share(1) + error_share(2)), ALPHA * error_share(3)]
    assert errors(place) == pytest.approx(wanted, nan_ok=True)


def test_decisions_on_a_phantom_and_those_of_an_earlier_version(place):
    """Decisions without a stored error count where they had a champion to beat, on the same kind of data."""
    for phantom in ("false", "true"):
        for before in ("none", "x v1"):
            tags = {"task": "mass_calc", "family": "promotion", "decision": "kept", "phantom": phantom}
            tags["champion_before"] = before
            run = place.writer.start_run(
                "d", parent=None, tags={f"mammo.{name}": value for name, value in tags.items()}, params={}
            )
            run.finish()
    place.writer.drain()
    place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", predictions(1.5, seed=1))
    assert "decision 2 on these data" in place.promote().out


def test_a_model_that_calls_everything_positive_is_stopped(place):
    first = place.plant("a", predictions(1.5))
    place.promote()
    place.plant("b", predictions(2.5), threshold=1e-9)
    outcome = place.promote()
    assert "FAILED  specificity: specificity 0.000 at 1e-09" in outcome.out
    assert place.champion == first
    assert place.promote("--specificity-loss", "1", code=2).complaints == [
        "mammo_mlflow: specificity_loss: expected a number in [0, 1), found 1.0"
    ]
    assert "all passed" in place.promote("--specificity-loss", "0.99").out


def test_gates_judge_lesions_where_asked(place):
    """Two views of each lesion: the mean of both is what is compared, patients as clusters."""
    place.plant("first", predictions(1.0), views=2)
    out = place.promote("--unit", "lesion").out
    assert "the same 200 lesions and folds" in out
    assert place.champion == "mammo-mass_calc-first v1"
    place.plant("bare", predictions(1.5))
    out = place.promote("--unit", "lesion", "--candidate", "mammo-mass_calc-bare").out
    assert "oof.parquet: expected lesions for unit=lesion, of data whose train_groups.csv has patient_id, " in out
    place.plant("better", predictions(3.0, 1), views=2)
    out = place.promote("--unit", "lesion", "--candidate", "mammo-mass_calc-better").out
    assert "patients as clusters" in out
    assert place.champion == "mammo-mass_calc-better v1"
