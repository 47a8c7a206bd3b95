"""The commands against real servers: an MLflow server over PostgreSQL that asks for a password and keeps artifacts."""

import importlib.util

import pytest
from mlflow.server import get_app_client
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine, text
from support import PHANTOM, SMALL
from support_servers import TrackingServer
from werkzeug.security import generate_password_hash

ADMIN, PASSWORD = "admin", "ge-heim-9-admin"
USERS = {name: f"ge-heim-9-{name}" for name in ("anna", "ben")}
AUTH = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
SETTING = ["--task", "mass_calc", *SMALL, "--folds", "2"]


def as_user(name, password=None):
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password or USERS[name]}


def check_passwords_fast(database, passwords):
    """Store hashes that a server works out at once: MLflow checks the password of each request, 0.14 s of a core."""
    engine = create_engine(database)
    with engine.begin() as connection:
        for name, password in passwords.items():
            row = {"name": name, "hash": generate_password_hash(password, "pbkdf2:sha256:1")}
            connection.execute(text("UPDATE users SET password_hash = :hash WHERE username = :name"), row)
    engine.dispose()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, postgresql):
    """A tracking server with users: the first who writes owns the MLflow experiment, all may read it."""
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("needs flask_wtf: pip install 'mlflow[auth]'")
    where = tmp_path_factory.mktemp("guarded")
    database = postgresql()
    (where / "auth.ini").write_text(AUTH.format(database=database, admin=ADMIN))
    surroundings = {"MLFLOW_AUTH_CONFIG_PATH": str(where / "auth.ini"), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    surroundings["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of the tests"
    made = TrackingServer(where, "--app-name", "basic-auth", backend=postgresql(), **surroundings)
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in as_user(ADMIN, PASSWORD).items():
            patch.setenv(variable, value)
        users = get_app_client("basic-auth", tracking_uri=made.uri)
        for name, password in USERS.items():
            users.create_user(name, password)
        check_passwords_fast(database, {ADMIN: PASSWORD} | USERS)
        MlflowClient(made.uri).search_experiments()  # the first answer takes longest, beside other tests 10 s
    yield made
    made.stop()


@pytest.fixture(scope="module")
def told(guarded, run_command, tmp_path_factory, cache, phantom):
    """Runs a command against the server, as a user: told("anna", "--task", …, name="promote") -> Outcome."""
    where = tmp_path_factory.mktemp("commands")

    def tell(user, *arguments, password=None, **more):
        given = as_user(user, password) | {"MLFLOW_TRACKING_URI": guarded.uri}
        outcome = run_command(where, cache, *arguments, **given, **more)
        for secret in (PASSWORD, *USERS.values()):
            assert secret not in outcome.out + outcome.err
        assert "Traceback" not in outcome.err
        return outcome

    tell.where = where
    return tell


@pytest.fixture(scope="module")
def journey(told, phantom):
    """What one user did, from training to the report, by command."""
    two = "mammo-mass_calc-pretrained-vgg16,mammo-mass_calc-pretrained-vgg16-tuned"
    steps = {
        "pretrained": SETTING,
        "tuned": [*SETTING, "--unfrozen-layers", "1"],
        "ensemble": ["--task", "mass_calc", "--members", two, "--method", "average", "--folds", "2", *PHANTOM],
        "promote": ["--task", "mass_calc", "--executor", "inline"],
        "predict": ["--model", "models:/mammo-mass_calc@champion", "--input", str(phantom), "--output", "out.csv"],
        "report": ["--out", "report"],
    }
    ended = {}
    for name, arguments in steps.items():
        ended[name] = told("anna", *arguments, name="pretrained" if name == "tuned" else name)
        assert ended[name].code == 0, (name, ended[name].err)
    return ended


@pytest.fixture
def store(guarded, monkeypatch):
    """The store, as its administrator sees it."""
    for variable, value in as_user(ADMIN, PASSWORD).items():
        monkeypatch.setenv(variable, value)
    return MlflowClient(guarded.uri)


def runs(store, name="mammo"):
    return store.search_runs([store.get_experiment_by_name(name).experiment_id])


def lines(outcome):
    """What the command itself says of its failure; TensorFlow, inline, has lines of its own."""
    return [line for line in outcome.err.splitlines() if line.startswith("mammo_mlflow: ") or " ERROR " in line]


def test_from_training_to_the_report_over_http(told, journey, guarded, store):
    assert "registered" in journey["pretrained"].out
    assert not [one for one in told.where.iterdir() if one.name.startswith("ml")]  # all is on the server
    assert (told.where / "out.csv").exists()
    assert (told.where / "report" / "index.html").exists()
    assert {run.info.status for run in runs(store)} == {"FINISHED"}
    experiment = store.get_experiment_by_name("mammo")
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    assert list((guarded.where / "artifacts" / experiment.experiment_id).glob("*.txt")) == []


@pytest.mark.parametrize("user", ["anna", "nobody"])
def test_a_wrong_password_is_a_line(told, user):
    outcome = told(user, "--out", "page", password="wr0ng", name="report")
    (line,) = lines(outcome)
    assert outcome.code == 2
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line


def test_who_may_only_read_is_told_before_a_run_is_made(told, journey, store):
    before = len(runs(store))
    outcome = told("ben", "--out", "bens", name="report")
    (line,) = lines(outcome)
    assert outcome.code == 2
    assert outcome.warnings == []
    assert "Permission denied" in line
    assert len(runs(store)) == before


def test_who_may_not_register_under_a_name_is_told_and_leaves_no_run_open(told, journey, store):
    two = "mammo-mass_calc-pretrained-vgg16,mammo-mass_calc-pretrained-vgg16-tuned"
    arguments = [
        "--task",
        "mass_calc",
        "--members",
        two,
        "--method",
        "greedy",
        "--folds",
        "2",
        *PHANTOM,
    ]
    outcome = told("ben", *arguments, name="ensemble", MLFLOW_EXPERIMENT_NAME="bens")
    (line,) = lines(outcome)
    assert outcome.code == 2, outcome.err
    assert "a user who may do what the command does" in line
    assert {run.info.status for run in runs(store, "bens")} == {"FAILED"}


def test_a_champion_of_another_user_stays(told, journey, store):
    before = store.get_model_version_by_alias("mammo-mass_calc", "champion")
    candidate = ["--candidate", "mammo-mass_calc-pretrained-vgg16-tuned", "--calibration", "1"]
    arguments = ["--task", "mass_calc", "--executor", "inline", *candidate]
    told("ben", *arguments, name="promote", MLFLOW_EXPERIMENT_NAME="bens2")
    assert store.get_model_version_by_alias("mammo-mass_calc", "champion").version == before.version
    assert [one for one in store.search_registered_models() if one.name.startswith("mammo.lock")] == []
