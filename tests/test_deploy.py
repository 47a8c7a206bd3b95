"""deploy/ and the lock, which no container engine tries here: what can be said of them without one."""

import json
import re
import tomllib

import mlflow.environment_variables
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT

FILE = ROOT / "deploy" / "compose.yaml"
TEXT = FILE.read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED_EXTRAS = ("cmaes", "dicom", "postgresql", "s3")
PAGE = (ROOT / "docs" / "scale.md").read_text()


def test_every_service_listens_on_this_machine_alone_by_default():
    ports = [port for one in SERVICES.values() for port in one.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith(("${BIND:-127.0.0.1}:", "127.0.0.1:")) for port in ports)


def test_no_password_stands_in_it_and_the_page_makes_all_of_them():
    asked = set(re.findall(r"\$\{([A-Z0-9_]+):\?", TEXT))
    made = re.search(r"for name in ([A-Z0-9_ ]+);", PAGE)[1].split()
    assert asked == set(made)
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT))
    assert used - asked == {"BIND", "ALLOWED_HOSTS"}
    assert all(f"{name}=" in PAGE for name in used - asked)
    given = {name: value for one in SERVICES.values() for name, value in one.get("environment", {}).items()}
    secrets = {name: value for name, value in given.items() if re.search("PASSWORD|KEY", name)}
    assert len(secrets) >= 5
    assert all(value.startswith("${") for value in secrets.values())
    assert re.search(r"\w+://[^/\s]*:[^/\s]*@", TEXT) is None


def test_mlflow_knows_the_servers_options_and_variables():
    from mlflow.cli import server  # which imports much

    known = {option for parameter in server.params for option in (*parameter.opts, *parameter.secondary_opts)}
    words = SERVICES["mlflow"]["command"]
    assert words[:2] == ["mlflow", "server"]
    assert {word.partition("=")[0] for word in words[2:]} <= known
    variables = {name for name in SERVICES["mlflow"]["environment"] if name.startswith("MLFLOW_")}
    assert len(variables) == 4
    assert all(hasattr(mlflow.environment_variables, name) for name in variables)


def test_databases_that_services_name_are_made():
    named = set(re.findall(r"postgresql://mammo@postgresql:5432/(\w+)", TEXT))
    made = [*re.findall(r"CREATE DATABASE (\w+);", TEXT), SERVICES["postgresql"]["environment"]["POSTGRES_DB"]]
    assert named == set(made)
    assert len(named) == 3


def test_the_tests_start_the_server_with_the_same_options():
    """Of those that say what it does; addresses differ."""
    started = "".join(
        (ROOT / "tests" / name).read_text() for name in ("support_servers.py", "workflows/test_servers.py")
    )
    for word in SERVICES["mlflow"]["command"][2:]:
        option, _, value = word.partition("=")
        if option not in ("--allowed-hosts", "--serve-artifacts"):  # its default
            assert f'"{option}"' in started
        if option == "--app-name":
            assert f'"{value}"' in started
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_S3_ENDPOINT_URL"):
        assert name in started
        assert name in TEXT


def test_the_image_copies_what_the_package_is_built_from():
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((ROOT / one).exists() for one in copied)
    assert {
        "pyproject.toml",
        "mammo_mlflow",
        "search_spaces",
        "requirements.lock",
    } <= copied  # the package links to spaces
    (entry,) = (line for line in lines if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[0] in PYPROJECT["project"]["scripts"]


def test_the_lock_holds_one_version_of_each_dependency_within_its_range():
    locked = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
    assert all(re.match(r"[a-z0-9._-]+==\S+( ; .+)?$", line) for line in locked), "no addresses, no ranges"
    versions = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2].split()[0] for line in locked}
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = PYPROJECT["project"]["dependencies"] + [one for name in LOCKED_EXTRAS for one in extras[name]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
