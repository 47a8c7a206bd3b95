"""The quick form of `benchmarks/interval_coverage.py`: intervals hold the true value, where percentiles did not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from mammo_mlflow.evaluation.metrics import RATES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"


@pytest.fixture(scope="module")
def benchmark(simulation):
    spec = importlib.util.spec_from_file_location("interval_coverage", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("design", "least"),
    [
        ({"patches": 126, "auc": 0.97, "correlation": 0.7}, 0.92),
        ({"patches": 126, "auc": 0.9, "correlation": 0.4, "both_classes": True, "prevalence": 0.3}, 0.92),
        ({"patches": 30, "auc": 0.97, "correlation": 0.4}, 0.88),
    ],
)
def test_intervals_cover(benchmark, design, least):
    """Six hundred sets: a coverage of 0.95 is found above 0.92 in all but one of a thousand."""
    ours, _, _ = benchmark.cell(benchmark.Design(**design), 600, 0, seed=7)
    assert set(ours) == set(RATES)
    for name, tally in ours.items():
        assert tally.coverage > least, (name, tally)
        assert tally.withheld <= (0.02 if design["patches"] > 100 else 0.1) * 600, (name, tally)


def test_the_percentiles_of_before_do_not(benchmark):
    ours, before, _ = benchmark.cell(benchmark.Design(126, 0.97, 0.7), 120, 120, seed=7)
    assert before["roc_auc"].coverage < 0.9 < ours["roc_auc"].coverage
    assert before["log_loss"].coverage < 0.9 < ours["log_loss"].coverage


def test_the_table_says_what_it_counts(benchmark):
    (design,) = [benchmark.Design(37, 0.9, 0.4)]
    rows = list(benchmark.lines([design], 20, 4, 1))
    assert [row[3] for row in rows] == list(design.truth()) and {len(row) for row in rows} == {len(benchmark.HEADINGS)}
    assert all(float(row[5]) <= 100 for row in rows)
