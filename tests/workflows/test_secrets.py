"""A password in the address of the tracking server, and what search, report and promotion leave of it: nothing."""

from support import PHANTOM

SETTING = ["--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *PHANTOM, "--folds", "2"]
SETTING += ["--epochs", "1", "--views", "1", "--precision", "float32", "--dense", "16", "--unfrozen-layers", "0"]
SETTING += ["--fresh-seeds", "0", "--executor", "inline", "--trials", "2", "--sampler", "random"]
SETTING += ["--pruner", "none", "--space", "space.yaml"]
SPACE = """
family: pretrained
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
"""
SECRET = "ge-heim-9"


def test_no_password_is_left_anywhere(server, run_command, tmp_path, cache):
    uri = server.uri.replace("://", f"://me:{SECRET}@")
    (tmp_path / "space.yaml").write_text(SPACE)
    said = []
    commands = {
        "search": SETTING,
        "report": ["--out", "report"],
        "promote": ["--task", "mass_calc", "--executor", "inline"],
    }
    for name, arguments in commands.items():
        outcome = run_command(tmp_path, cache, *arguments, name=name, MLFLOW_TRACKING_URI=uri)
        assert outcome.code == 0, outcome.err
        said += [outcome.out, outcome.err]
    away = run_command(tmp_path, cache, name="report", MLFLOW_TRACKING_URI=f"http://me:{SECRET}@127.0.0.1:9")
    assert away.code == 2
    said += [away.out, away.err]
    assert SECRET not in "".join(said)
    written = [path for folder in (server.where, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert {"mlflow.db", "optuna.db", "trials.csv", "index.html"} <= {path.name for path in written}
    for path in written:
        assert SECRET.encode() not in path.read_bytes(), path
    links = b"".join(path.read_bytes() for path in written if path.name in ("optuna.db", "trials.csv", "index.html"))
    assert f"{server.uri}/#/experiments/".encode() in links
