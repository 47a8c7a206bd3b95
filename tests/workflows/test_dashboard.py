"""The command `dashboard`, with the servers that it starts."""

import re
import urllib.request

import optuna
import psutil
from support import Running, wait_for


def test_each_link_opens_and_nothing_is_left_when_it_ends(empty_stores, tmp_path, cache, system):
    where = tmp_path / "where"
    where.mkdir()
    for name in ("mlflow.db", "optuna.db"):
        (where / name).write_bytes((empty_stores / name).read_bytes())
    (where / "report").mkdir()
    (where / "report" / "index.html").write_text("<title>the report</title>")
    optuna.create_study(storage=f"sqlite:///{where}/optuna.db", study_name="one")
    started = Running(where, cache, name="dashboard")
    try:
        wait_for(lambda: "Ctrl-C" in started.out.read_text())
        links = dict(re.findall(r"(\w+): +(http://\S+)", started.out.read_text()))
        assert links.keys() == {"runs", "studies", "report"}
        assert links["runs"].endswith("runs?workflowType=machine_learning")
        for name, shown in (("runs", "MLflow"), ("studies", "Optuna"), ("report", "the report")):
            with urllib.request.urlopen(links[name], timeout=30) as page:
                assert shown in page.read().decode()
        family = started.family()
        assert len(family) >= 6  # a shell and a server each, at least
        said = [word for one in family for word in one.cmdline()]
        assert not [word for word in said if word.endswith(".db")]  # an address may have a password
    finally:
        started.process.terminate()
        started.process.wait(20)
    _, alive = psutil.wait_procs(family, 10)
    assert not alive
