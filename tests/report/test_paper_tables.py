"""The paper's tables as rows: every printed value has its place, every command is one that exists."""

import shlex

import pytest

from mammo_mlflow.cli import parse
from mammo_mlflow.report.fill_rows import ReportedRuns, command_for
from mammo_mlflow.report.paper_tables import tables
from mammo_mlflow.report.printed_values import preferred_value, printed

TABLES = tables()


def rows(number, task=None):
    (table,) = [one for one in TABLES if one.number == number and task in (None, one.task)]
    return table.rows


def value(row, metric="accuracy", split="test"):
    found = preferred_value([one for one in row.printed if (one.metric, one.split) == (metric, split)])
    return None if found is None else found.value


def test_the_tables_of_the_paper():
    assert [table.number for table in TABLES] == ["4.1", "4.2", "5.1", "5.2", "6.1", "6.2", "7", "7", "8"]
    assert len({table.name for table in TABLES}) == len(TABLES)


@pytest.mark.parametrize(
    ("number", "task", "figures"),
    [
        ("4.1", "mass_calc", [0.6726, 0.7202, 0.7827, 0.7530, 0.8035]),
        ("4.2", "benign_malignant", [0.4345, 0.6429, 0.6518, 0.6518, 0.6517]),
        ("5.1", "mass_calc", [0.78, 0.85, 0.83, 0.83, 0.77, 0.75]),
        ("5.2", "benign_malignant", [0.64, 0.61, 0.57, 0.65, 0.62, 0.57]),
        ("6.1", "mass_calc", [0.67, 0.81, 0.86, 0.84, 0.83]),
        ("6.2", "benign_malignant", [0.64, 0.67, 0.64, 0.67, 0.68]),
        ("7", "mass_calc", [0.7798, 0.8423, None, None, 0.8542, 0.8780]),
        ("7", "benign_malignant", [0.6667, 0.6429, None, None, 0.6667, 0.6845]),
        ("8", "benign_malignant", [0.60, None, None]),
    ],
)
def test_the_papers_test_accuracies(number, task, figures):
    assert [value(row) for row in rows(number, task)][: len(figures)] == figures  # then networks of our own


def test_other_values_of_the_paper():
    assert [value(row, "roc_auc") for row in rows("5.1")][:6] == [0.870, None, 0.912, None, 0.848, None]
    assert value(rows("4.1")[0], split="train") == 0.7588
    assert value(rows("5.1")[0], split="validation") == 0.78
    assert rows("5.1")[0].printed[0].sd == 0.01


def test_no_printed_value_is_lost_or_shown_twice():
    shown = [one for table in TABLES for row in table.rows for one in row.printed]
    assert sorted(map(repr, shown)) == sorted(map(repr, printed()))


def test_where_the_paper_contradicts_itself_its_table_counts():
    vgg16 = rows("5.1")[0]
    assert value(vgg16) == 0.78
    assert [(one.source, one.value) for one in vgg16.printed if one.note] == [
        ("section 5.1.1", 0.77),
        ("section 5.2.1", 0.79),
    ]


@pytest.mark.parametrize("phantom", [False, True])
def test_every_command_is_one_that_exists(phantom):
    name = "phantom-v1-64-32-80px-seed0" if phantom else "my data"
    store = ReportedRuns(results=[], tests={}, metrics={}, fits={}, phantom=phantom, data=name)
    seen = set()
    for table in TABLES:
        for row in table.rows:
            if row.optimistic:
                continue
            words = shlex.split(command_for(row, store))
            assert words[:3] == ["python", "-m", "mammo_mlflow"]
            command, given = parse(words[3:])  # raises for what it does not know
            assert (command.name, given.task) == (row.family, row.task)
            if phantom:
                assert (given.phantom_train, given.phantom_size) == (64, 80) and "--data" not in words
            else:
                assert given.data == "DIR"
            seen.add(command_for(row, store))
    assert len(seen) == sum(not row.optimistic for table in TABLES for row in table.rows)
