"""The command as a user meets it: help, and every mistake one line, exit code 2, and no run."""

import re
import shlex
import signal
import subprocess

import h5py
import numpy as np
import pytest
from support import ROOT, SMALL, command, environment

from mammo_mlflow import ending
from mammo_mlflow.backbones import BACKBONES, PAPER_BACKBONES
from mammo_mlflow.cli import main
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.presets import preset_values
from mammo_mlflow.testing.commands import CommandContract

TASK = ["--task", "mass_calc"]


class TestEveryCommand(CommandContract):
    @pytest.fixture(params=COMMANDS)
    def command(self, request):
        return COMMANDS[request.param]


INLINE = ["--executor", "inline"]


def refused(outcome, where, *words):
    """Lines that hold these words, none without one, exit code 2, no run."""
    assert outcome.code == 2, outcome.err
    assert outcome.complaints
    for line in outcome.complaints:
        assert line.startswith("mammo_mlflow: ")
        assert len(line) <= 400
        assert any(word in line for word in words)
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err
    assert not (where / "mlflow.db").exists()
    assert not (where / "mlruns").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "mas_calc"], ["task", "'mas_calc'", "did you mean 'mass_calc'"]),
        ([], ["--task"]),
        ([*TASK, "--backbone", "vgg61"], ["backbone", "'vgg61'", "did you mean 'vgg16'"]),
        ([*TASK, "--folds", "1"], ["folds", "from 2 to 1000", "1"]),
        ([*TASK, "--folds", "four"], ["folds", "whole number", "'four'"]),
        ([*TASK, "--folds", "4.5"], ["folds", "whole number", "'4.5'"]),
        ([*TASK, "--learning-rate", "-0.001"], ["learning_rate", "above 0", "-0.001"]),
        ([*TASK, "--learning-rate=-1e-3"], ["learning_rate", "above 0", "-0.001"]),
        ([*TASK, "--learning-rate", "-1e-3"], ["learning_rate", "above 0", "-0.001"]),
        ([*TASK, "--tuning-learning-rate", "-1"], ["tuning_learning_rate", "above 0", "-1"]),
        ([*TASK, "--learning-rate", "fast"], ["learning_rate", "a number", "'fast'"]),
        ([*TASK, "--learning-rate", "nan"], ["learning_rate", "above 0", "nan"]),
        ([*TASK, "--learning_rat", "0.1"], ["option", "--learning-rat", "did you mean '--learning-rate'"]),
        ([*TASK, "--learning-rat=0.1"], ["option", "--learning-rat", "did you mean '--learning-rate'"]),
        ([*TASK, "--resume", "yes"], ["resume", "true or false", "'yes'"]),
        ([*TASK, "--threshold", "yuden"], ["threshold", "yuden"]),
        ([*TASK, "--threshold", "1.5"], ["threshold", "1.5"]),
        ([*TASK, "--duplicates", "forbid"], ["duplicates", "'forbid'"]),
        ([*TASK, "--executor", "proces"], ["executor", "did you mean 'process'"]),
        ([*TASK, "--preset", "papers"], ["preset", "did you mean 'paper'"]),
        ([*TASK, "--seeds", "0"], ["seeds", "from 1 to 1000"]),
        ([*TASK, "--workers", "-1"], ["workers", "from 0 to 1024"]),
        ([*TASK, "--cache-limit-gb", "0"], ["cache_limit_gb", "above 0"]),
        ([*TASK, "--phantom-size", "8"], ["phantom: size", "32", "8"]),
        ([*TASK, "--data", "nowhere"], ["data", "nowhere", "nothing there"]),
        ([*TASK, "--unfrozen-layers", "14"], ["unfrozen_layers", "at most 13", "14"]),
        ([*TASK, "--weights", "nowhere"], ["weights", "nowhere"]),
    ],
)
def test_mistake_on_the_command_line(cli, tmp_path, arguments, words):
    given = arguments
    if arguments[:1] == TASK[:1]:
        given = [*INLINE, *SMALL, *arguments]  # the last one given counts
    refused(cli(*given), tmp_path, *words)


def test_all_mistakes_are_told_at_once(cli, tmp_path):
    outcome = cli(*TASK, *INLINE, *SMALL, "--folds", "1", "--learning-rate", "0", "--pooling", "mean")
    refused(outcome, tmp_path, "folds: ", "learning_rate: ", "pooling: ")


def test_unknown_command(cli, tmp_path):
    refused(cli(command="pretraind"), tmp_path, "pretraind")
    refused(cli(command=None), tmp_path, "command")


def test_parameters_are_spelled_as_mlflow_hands_them_on(cli, data):
    outcome = cli(*TASK, *INLINE, *SMALL, "--data", str(data), "--learning_rate=0", "--unfrozen_layers", "-1")
    assert outcome.code == 2
    assert "learning_rate: " in outcome.err
    assert "unfrozen_layers: " in outcome.err


def change(name, edit):
    def spoil(data):
        array = np.load(data / name)
        np.save(data / name, edit(array), allow_pickle=True)

    return spoil


def put(row, value, kind=None):
    def edit(array):
        array = array.astype(kind or array.dtype)
        array[row] = value
        return array

    return edit


def cut_short(data):
    path = data / "train_tensor.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def few_calcifications(array):
    array = array.copy()
    rows = np.flatnonzero(array > 2)
    array[rows[3:]] = 1
    return array


BAD_DATA = {
    "missing file": (lambda data: (data / "public_test_labels.npy").unlink(), ["public_test_labels.npy", "none"]),
    "object array": (change("train_labels.npy", lambda a: a.astype(object)), ["train_labels.npy", "objects"]),
    "object tensor": (change("train_tensor.npy", lambda a: a[:2].astype(object)), ["train_tensor.npy", "objects"]),
    "truncated": (cut_short, ["train_tensor.npy", "truncated"]),
    "empty file": (lambda data: (data / "train_tensor.npy").write_bytes(b""), ["train_tensor.npy", "empty"]),
    "no rows": (change("train_tensor.npy", lambda a: a[:0]), ["train_tensor.npy", "at least 2"]),
    "float tensor": (change("train_tensor.npy", lambda a: a / 65535), ["train_tensor.npy", "uint16", "float64"]),
    "wrong shape": (change("train_tensor.npy", lambda a: a[:, :30]), ["train_tensor.npy", "shape"]),
    "one row less": (change("public_test_tensor.npy", lambda a: a[:-1]), ["public_test_tensor.npy", "odd"]),
    "label 5": (change("train_labels.npy", put(3, 5)), ["train_labels.npy: row 3", "0 to 4", "5"]),
    "label -1": (change("train_labels.npy", put(3, -1)), ["train_labels.npy: row 3", "0 to 4", "-1"]),
    "label 1.5": (change("train_labels.npy", put(3, 1.5, float)), ["train_labels.npy: row 3", "1.5"]),
    "NaN label": (change("train_labels.npy", put(3, np.nan, float)), ["train_labels.npy: row 3", "finite", "nan"]),
    "odd and even": (change("train_labels.npy", lambda a: np.roll(a, 1)), ["train_labels.npy: row 0", "baseline"]),
    "too few of a class": (
        change("train_labels.npy", few_calcifications),
        ["folds: expected at most", "for mass_calc", "calcification", "found 4"],
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(cli, tmp_path, data, name):
    spoil, words = BAD_DATA[name]
    spoil(data)
    refused(cli(*TASK, *INLINE, *SMALL, "--data", str(data)), tmp_path, *words)


def repeat_in_test(data):
    tensor, test = np.load(data / "train_tensor.npy"), np.load(data / "public_test_tensor.npy")
    test[[1, 5]] = tensor[[1, 5]]
    np.save(data / "public_test_tensor.npy", test)


def test_the_same_patch_in_train_and_test_is_an_error_when_asked(cli, tmp_path, data):
    repeat_in_test(data)
    outcome = cli(*TASK, *INLINE, *SMALL, "--data", str(data), "--duplicates", "error")
    refused(outcome, tmp_path, "public_test_tensor.npy: 2 abnormalities are in train_tensor.npy")


def test_the_same_patch_in_train_and_test_and_constant_patches_warn(cli, tmp_path, data):
    repeat_in_test(data)
    change("train_tensor.npy", put([0, 7], 100))(data)
    # it stops once the data were read: the warnings are there, and nothing is trained
    outcome = cli(*TASK, *INLINE, *SMALL, "--data", str(data), "--weights", "nowhere")
    assert any("2 abnormalities are in train_tensor.npy" in line for line in outcome.warnings)
    assert any("train_tensor.npy: 2 constant patches" in line for line in outcome.warnings)
    assert len(outcome.complaints) == 1


def test_unknown_patients_warn(cli, data):
    for path in data.glob("*_groups.csv"):
        path.unlink()
    outcome = cli(*TASK, *INLINE, *SMALL, "--data", str(data), "--weights", "nowhere")
    assert any("patients are unknown" in line for line in outcome.warnings)


def weights_file(path, parameters):
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", shape=(parameters,), dtype="i1", chunks=True, compression="gzip", fillvalue=0)


def test_weights_of_the_wrong_network(cli, tmp_path):
    weights_file(tmp_path / "vgg16_notop.h5", BACKBONES["resnet50"].parameters)
    outcome = cli(*TASK, *INLINE, *SMALL, "--weights", str(tmp_path))
    refused(outcome, tmp_path, "vgg16_notop.h5", "14,714,688", "23,587,712")


def test_weights_that_are_no_weights(cli, tmp_path):
    (tmp_path / "vgg16_notop.h5").write_text("no weights")
    refused(cli(*TASK, *INLINE, *SMALL, "--weights", str(tmp_path)), tmp_path, "vgg16_notop.h5", "HDF5")


def test_a_file_where_the_cache_should_be(cli, tmp_path):
    (tmp_path / "file").write_text("")
    refused(cli(*TASK, *INLINE, *SMALL, "--cache-dir", "file/cache"), tmp_path, "cache_dir", "file/cache")


def test_a_tracking_server_that_does_not_answer(keras, cli, tmp_path, monkeypatch, phantom):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    refused(cli(*TASK, *INLINE, *SMALL), tmp_path, "tracking store http://127.0.0.1:9")


def test_windows_is_one_line_that_names_wsl(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    refused(cli(*TASK), tmp_path, "Windows", "WSL")


def test_the_methods_that_help_names_are_those_that_there_are(cli, tmp_path):
    from mammo_mlflow.workflows.ensemble import CHOICES

    assert set(COMMANDS["ensemble"].options.model_fields["method"].metadata[0].names()) == set(CHOICES)
    refused(cli("ensemble", *TASK, "--method", "avrage", command="settings"), tmp_path, "did you mean 'average'")


def test_help_names_every_command(cli):
    outcome = cli("--help", command=None)
    assert outcome.code == 0
    for name, one in COMMANDS.items():
        assert f"  {name} " in outcome.out and one.summary in outcome.out


def test_help_tells_what_presets_give_as_far_as_it_is_known(cli):
    said = " ".join(cli("--help").out.split())
    assert "(default: 12 in quick, 40 or 50 in paper)" in said  # epochs
    narrowed = " ".join(cli("--backbone", "vgg16", "--data", "DIR", *TASK, "--help").out.split())
    assert "from scratch (default: 2e-06)" in narrowed and "in paper)" not in narrowed
    assert "(default: by network in paper" not in narrowed


def test_settings_prints_the_whole_experiment_and_where_each_value_is_from(cli, tmp_path):
    outcome = cli("pretrained", *TASK, "--epochs", "7", "--early-stop", "3", command="settings")
    assert outcome.code == 0, outcome.err
    parameters = outcome.out.split("pretrained: options")[0]
    rows = {line.split()[0]: line.split()[1:] for line in parameters.splitlines()}
    every = len(PAPER_BACKBONES)
    assert rows["epochs"] == [*["7"] * every, "given"]
    assert rows["pooling"] == [*["average"] * every, "preset", "quick"]
    assert rows["final_epochs"] == [*["0"] * every, "default"]
    assert re.search(r"^preset +quick +default$", outcome.out, re.MULTILINE)
    experiment = build("mass_calc", {**preset_values("quick", "vgg16", "mass_calc"), "epochs": 7, "early_stop": 3})
    for name, value in experiment.flat().items():
        assert rows[name][0] == (str(value).lower() if isinstance(value, bool) else str(value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if one.example and name != "settings"])
def test_settings_resolves_the_example_of_every_command(cli, tmp_path, name):
    outcome = cli(name, *shlex.split(COMMANDS[name].example), command="settings")
    assert outcome.code == 0, outcome.err
    for option in shlex.split(COMMANDS[name].example)[::2]:
        (line,) = [one for one in outcome.out.splitlines() if one.startswith(f"{option[2:].replace('-', '_')} ")][:1]
        assert "given" in line
    assert list(tmp_path.iterdir()) == []


def test_settings_of_a_search_tells_what_is_drawn(cli):
    outcome = cli("search", *TASK, "--backbone", "vgg16", "--momentum", "0.8", command="settings")
    rows = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert "drawn: 1e-06 to 0.003" in rows["learning_rate"]
    assert rows["momentum"].endswith("given") and "0.8" in rows["momentum"]
    assert "drawn: architecture head" in rows["dense"]


def test_settings_of_an_unknown_command_or_a_mistake(cli, tmp_path):
    refused(cli("pretraind", command="settings"), tmp_path, "command: unknown 'pretraind', did you mean 'pretrained'")
    refused(cli("pretrained", *TASK, "--folds", "1", command="settings"), tmp_path, "folds: ", "from 2 to 1000")
    refused(cli("pretrained", *TASK, "--fold", "3", command="settings"), tmp_path, "'--fold', did you mean '--folds'")


def test_of_many_options_an_unknown_one_is_told_the_nearest(cli, tmp_path):
    refused(
        outcome := cli("--taks", "mass_calc", *TASK, command="pretrained"), tmp_path, "did you mean '--task'? (one of "
    )
    (line,) = outcome.complaints
    assert "e.g. --task" in line and line.count("--") <= 7


def test_an_option_that_is_missing_comes_with_its_values(cli, tmp_path):
    refused(cli(command="pretrained"), tmp_path, "options are required: --task (one of: mass_calc, benign_malignant)")


def test_settings_refuses_what_the_command_would_refuse_later(cli, tmp_path):
    refused(cli("promote", *TASK, "--objective", "nope", command="settings"), tmp_path, "objective: unknown 'nope'")
    refused(cli("pretrained", *TASK, "--threshold", "x", command="settings"), tmp_path, "threshold", "'x'")


def test_help_beside_an_unknown_family_shows_the_usual_one(cli):
    assert "not in family nope" not in cli("--family", "nope", "--help", command="search").out


def test_settings_of_words_that_are_no_options(cli, tmp_path):
    refused(cli("pretrained", *TASK, "x", command="settings"), tmp_path, "option: unknown 'x'")
    refused(cli("pretrained", *TASK, "-x", "3", command="settings"), tmp_path, "option: unknown '-x'")
    refused(cli("pretrained", *TASK, "--epochs", command="settings"), tmp_path, "--epochs: expected one argument")


def test_settings_tells_what_the_command_itself_sets(cli):
    outcome = cli("pretrained", *TASK, "--preset", "paper", "--early-stop", "3", "--threads", "999", command="settings")
    rows = {line.split()[0]: line.split() for line in outcome.out.splitlines()}
    assert rows["final_epochs"][-1] == "command"
    assert rows["workers"][1] == "1"
    searched = cli("search", *TASK, "--backbone", "vgg16", "--final", "none", command="settings")
    assert "the best trial's model: final=none, final_epochs=0, tta=none, threshold=0.5" in searched.out


def test_help_tells_what_a_command_sets_in_the_place_of_presets(cli):
    said = " ".join(cli("--help", command="controls").out.split())
    assert "one of refit, fold_average, none (default: none)" in said
    assert "0 takes the folds' own (default: 0)" in " ".join(cli("--help", command="search").out.split())


def test_text_that_is_not_utf8(cli, tmp_path):
    refused(cli("--task", "\udcff"), tmp_path, "task: expected text in UTF-8, found '\\udcff'")
    refused(cli("pretrained", "--task", "\udcff", command="settings"), tmp_path, "task: expected text in UTF-8")


def test_an_option_before_the_command(cli, tmp_path):
    refused(cli(command="--task"), tmp_path, "command: expected one of ", "before its options, found '--task'")


def test_dry_run_tells_fits_time_and_disk_and_makes_no_run(keras, cli, tmp_path):
    outcome = cli(*TASK, *INLINE, *SMALL, "--dry-run", "true", "--seeds", "2")
    assert outcome.code == 0
    rows = [line for line in outcome.out.splitlines() if line.startswith("vgg16 ")]
    assert len(rows) == 2
    assert "GB" in rows[0] and "min" in rows[0]
    assert not (tmp_path / "mlflow.db").exists()


def test_a_mistake_is_one_line_from_the_shell_too(run_command, tmp_path, cache):
    refused(run_command(tmp_path, cache, *TASK, "--data", "nowhere"), tmp_path, "nowhere")


def test_mlflow_run_with_a_mistake_ends_in_a_failed_run(system, tmp_path, cache):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run(
        ["mlflow", "run", str(ROOT), "-e", "pretrained", "-P", "task=mas_calc", "--env-manager", "local"],
        cwd=tmp_path,
        env=environment(cache, MLFLOW_TRACKING_URI=uri),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    assert "did you mean 'mass_calc'" in done.stderr
    client = MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FAILED"]


def test_the_console_script_is_the_module(system):
    shown = subprocess.run([*command("--help")], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0
    assert "-m mammo_mlflow pretrained" in shown.stdout


@pytest.fixture
def signals():
    """Gives back the handlers of signals that a command in this process takes."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start in the background ignore it
    yield
    ending.end_on_signals()  # forgets those that came
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [UserError("tracking store: expected an answer"), OSError(5), None])
def test_what_a_library_makes_of_a_signal_does_not_hide_it(monkeypatch, capsys, number, code, after):
    def call(command, options):
        try:
            signal.raise_signal(number)
        except BaseException:
            if after is not None:
                raise after  # noqa: B904 - as SQLAlchemy does of an interrupted transaction
        ending.end_if_told()

    monkeypatch.setattr(type(COMMANDS["doctor"]), "call", call)
    try:
        found = main(["doctor"])
    except SystemExit as ended:
        found = ended.code
    assert found == code
    said = "mammo_mlflow: interrupted; the same command goes on where it was\n"
    assert capsys.readouterr().err == (said if number == signal.SIGINT else "")
