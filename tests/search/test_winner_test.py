from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from mammo_mlflow.estimate import Difference
from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.search.winner_test import judge, paired_lead, simultaneous


def oof(noise: float, seed: int = 1) -> pd.DataFrame:
    label = np.arange(200) % 2
    p = np.clip(0.4 + 0.2 * label + np.random.default_rng(seed).normal(0, noise, 200), 0, 1)
    return pd.DataFrame({"patch": np.arange(200), "fold": np.arange(200) // 50, "label": label, "probability": p})


def test_the_bound_is_what_luck_reaches_in_simulated_studies():
    draws = np.random.default_rng(0).normal(0, 0.02, (200_000, 9)).max(axis=1)
    bound = judge(0.0, 0.02, 10).bound
    assert np.mean(draws <= bound) == pytest.approx(0.95, abs=0.003)


def test_the_more_trials_competed_the_further_the_best_has_to_lead():
    assert judge(0.04, 0.02, 2).bound == pytest.approx(0.02 * norm.ppf(0.95))
    assert not judge(0.04, 0.02, 2).within_noise
    assert judge(0.04, 0.02, 30).within_noise
    assert judge(0.07, 0.02, 30).sentence == (
        "The best of the 29 other settings leads the paper's by 0.07 on the same folds, more than the noise of"
        " choosing: were none truly better, luck alone would lead by up to 0.0583 in 95 % of such searches (standard"
        " error of the lead 0.02)."
    )
    assert "within the noise of choosing" in judge(0.04, 0.02, 30).sentence


def test_nothing_better_than_the_papers_setting():
    for lead in (0.0, -0.01):
        verdict = judge(lead, 0.0, 5)
        assert verdict.within_noise and "did no better than the paper's" in verdict.sentence
    assert judge(0.0, 0.0, 1).sentence == "The one other setting did no better than the paper's on the same folds."


def test_a_lead_that_cannot_be_judged_is_not_proven():
    without_error, undefined = judge(0.1, math.nan, 5), judge(math.nan, 0.1, 5)
    assert without_error.within_noise and "no standard error" in without_error.sentence
    assert undefined.within_noise and "undefined" in undefined.sentence
    assert not judge(0.1, 0.0, 5).within_noise


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_a_better_setting_leads_in_either_direction(name):
    (objective,) = parse_objectives(name)
    good, bad = oof(0.1), oof(0.5)
    found = paired_lead(objective, good, bad.sample(frac=1, random_state=0))
    values = [objective.value(OutOfFold.of_frame(frame), 0.0) for frame in (good, bad)]
    assert found.value == pytest.approx(abs(values[0] - values[1])) and found.error > 0
    assert paired_lead(objective, bad, good).value == pytest.approx(-found.value)
    assert not judge(found.value, found.error, 20).within_noise
    assert paired_lead(objective, good, good).error == 0


def test_patients_are_resampled_where_known():
    (objective,) = parse_objectives("accuracy")
    pair = [frame.assign(patient_id=np.arange(200) // 10) for frame in (oof(0.1), oof(0.5))]
    found = paired_lead(objective, *pair)
    first, second = (frame["probability"] for frame in pair)
    wanted = bootstrap_difference(pair[0]["label"], first, second, groups=np.arange(200) // 10, metric="accuracy")
    assert found == wanted
    assert found.error != paired_lead(objective, oof(0.1), oof(0.5)).error


def test_other_patches_or_folds_are_refused():
    (objective,) = parse_objectives("roc_auc")
    frame = oof(0.1)
    for other in (frame[frame["fold"] < 3], frame.assign(fold=frame["patch"] % 4), pd.concat([frame, frame])):
        with pytest.raises(ValueError):
            paired_lead(objective, frame, other)


def test_a_patch_under_several_seeds_is_one_patch():
    """Three seeds of the same predictions say no more than one does."""
    (objective,) = parse_objectives("roc_auc")
    once = [oof(0.3), oof(0.35, seed=2)]
    thrice = [pd.concat([f.assign(fold=f["fold"] + 1000 * seed) for seed in range(3)]) for f in once]
    assert paired_lead(objective, *thrice) == paired_lead(objective, *once)


def test_the_interval_of_a_winner_holds_for_all_that_competed():
    lead = Difference(0.03, -1, 1, 0.01)
    alone, best = simultaneous(lead, 2), simultaneous(lead, 30)
    assert (alone.low, alone.high) == pytest.approx((0.03 - 1.95996 * 0.01, 0.03 + 1.95996 * 0.01), abs=1e-6)
    draws = np.random.default_rng(0).normal(0, 1, (100_000, 29))
    assert np.mean(np.abs(draws).max(axis=1) * 0.01 <= 0.03 - best.low) == pytest.approx(0.95, abs=0.003)
    assert simultaneous(lead, 1) == alone
    assert math.isnan(simultaneous(Difference(0.1, 0, 1, math.nan), 5).low)


@pytest.fixture
def closing_interval(simulation):
    import closing_interval

    return closing_interval


def test_fresh_seeds_do_not_make_a_lucky_winner_better(closing_interval):
    """None is better than the paper's setting; the simulation is that of `benchmarks/closing_interval.py`."""
    ((_, above, widths),) = closing_interval.simulate(80, (10,))
    naive, whole, corrected = above
    assert naive > 0.1 and whole > 0.03
    assert corrected <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 80)
    assert widths[0] < 0.055 < 0.06 < widths[1] < 0.07


def test_of_equally_good_settings_a_verdict_seldom_calls_one_better(closing_interval):
    found = closing_interval.verdicts(150, 20)
    assert found.better / found.studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / found.studies)
    assert found.errors == pytest.approx(1, abs=0.2)
    assert 0 < found.lead < found.bound


def test_repeated_folds_take_away_the_chance_of_folds_and_not_that_of_patches(simulation):
    """The simulation is that of `benchmarks/fold_repeats.py`."""
    import fold_repeats

    once, _, often = fold_repeats.simulate(60, 8, 350, 0.15)
    assert often.error < 0.9 * once.error
    assert often.error > 0.7 * once.error  # a setting's own part, which patches were seen
    for one in (once, often):
        assert one.error == pytest.approx(one.spread, rel=0.3)
        assert one.called <= one.picked
    assert often.picked >= once.picked
