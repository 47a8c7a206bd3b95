"""The files that describe the project tell the same story."""

import ast
import re
import runpy
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path

import yaml

from mammo_mlflow import __version__
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.experiment import parameters
from mammo_mlflow.jobs.executors import EXECUTORS

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
README = (ROOT / "README.md").read_text()
GUIDES = [
    README,
    *(path.read_text() for kind in ("how-to", "tutorials") for path in (ROOT / "docs" / kind).glob("*.md")),
]


def command_lines(*pages):
    """Every line of the shell blocks of some pages, by default of the README."""
    blocks = [
        block for page in pages or [README] for block in re.findall(r"```(?:bash|console)\n(.*?)```", page, re.DOTALL)
    ]
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_conda_installs_what_pyproject_asks_for():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert sorted(pip) == sorted(PYPROJECT["project"]["dependencies"])
    python = next(entry for entry in conda["dependencies"] if isinstance(entry, str) and entry.startswith("python="))
    assert f">={python.removeprefix('python=')}," in PYPROJECT["project"]["requires-python"]


def options(command):
    return set(COMMANDS[command].options.model_fields)


def test_every_parameter_of_a_family_is_an_option_of_its_command():
    for family in ("pretrained", "scratch", "siamese", "views", "conditioned"):
        every = {item.name for item in parameters()}
        assert options(family) & every == {item.name for item in parameters(family)}
    assert {item.name for item in parameters()} <= options("search") & options("controls")


def test_the_project_and_the_docs_are_written_from_the_commands(monkeypatch):
    shipped = {name: EXECUTORS[name] for name in ("process", "inline", "ray")}  # tests may have added one of their own
    monkeypatch.setattr("mammo_mlflow.jobs.executors.EXECUTORS", shipped)
    written = runpy.run_path(str(ROOT / "scripts" / "command_tables.py"))
    assert (ROOT / "MLproject").read_text(encoding="utf-8") == written["project"](), "run scripts/command_tables.py"
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == written["page"]()
    assert set(PROJECT["entry_points"]) == {"main", *COMMANDS}


def test_the_guides_commands_exist():
    lines = command_lines(*GUIDES)
    runs = [shlex.split(line) for line in lines if "mlflow run" in line]
    assert runs
    for words in runs:
        words = words[words.index("run") :]
        entry = words[words.index("-e") + 1] if "-e" in words else "main"
        assert entry in PROJECT["entry_points"]
        given = [words[i + 1].split("=")[0] for i, word in enumerate(words) if word == "-P"]
        assert set(given) <= options("pretrained" if entry == "main" else entry), words
    for words in (shlex.split(line) for line in lines if "-m mammo_mlflow" in line):
        words = words[words.index("mammo_mlflow") + 1 :]
        words = words[1:] if words[0] == "settings" else words
        spelled = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
        assert spelled - {"help"} <= options(words[0]), words


def test_the_readmes_two_commands():
    lines = command_lines()
    assert "pip install -e . && mlflow run . -e pretrained -P task=mass_calc --env-manager local" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_the_parameters_that_are_told_exist():
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "how-to" / "train.md").read_text(), re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`([a-z_]+)`", cell)}
    assert {"task", "backbone", "data"} <= named
    assert named - set(PROJECT["entry_points"]) <= options("pretrained")


def test_the_readmes_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_is_short_and_has_no_long_sentence():
    text = re.sub(r"```.*?```|<[^>]+>|^[|#!].*?$", "\n\n", README, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    sentences = re.split(r"(?<=[.:?!])\s+|\n\n+|\n- ", text)
    assert [one for one in sentences if len(one.split()) > 35] == []
    assert 400 < len(README.split()) < 750


def test_every_page_is_on_the_site():
    told = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f"- {page}\n" not in told] == []


def test_compact_weights_are_packaged_with_their_licences():
    packaged = PYPROJECT["tool"]["setuptools"]["package-data"]["mammo_mlflow"]
    files = [path for pattern in packaged for path in (ROOT / "mammo_mlflow").glob(pattern)]
    assert {"vgg16.npz", "resnet50.npz"} <= {path.name for path in files}
    assert any("LICENSE" in path.name for path in files)
    assert sum(path.stat().st_size for path in files) < 40e6


def test_pre_commit_runs_the_linters_of_ci_and_downloads_nothing():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = repository["hooks"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in hooks} == {"system"}
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    linters = ("ruff", "mypy", "lint", "codespell", "proselint")
    assert [hook["entry"] for hook in hooks] == [line for line in lines if line.startswith(linters)]


def test_development_has_all_that_the_tests_have():
    assert "mammo-mlflow[test]" in PYPROJECT["dependency-groups"]["dev"]
    assert (ROOT / "mammo_mlflow" / "py.typed").exists()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["mammo_mlflow"]


def test_the_architecture_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page.split("```\nmammo_mlflow/\n")[1].split("```")[0]
    rooms = dict(re.findall(r"^  ([a-z_]+)/ +((?:.*\n(?:   .*\n)*))", tree, re.MULTILINE))
    files = [path for path in (ROOT / "mammo_mlflow").rglob("*.py") if not path.stem.startswith("__")]
    missing = []
    for path in files:
        room, *inner = path.relative_to(ROOT / "mammo_mlflow").parts
        # the commands are listed in docs/commands.md, and what a folder in a room is for is said once
        if (
            len(inner) <= 1
            and room != "commands"
            and not re.search(rf"\b{path.stem}\b", rooms[room] if inner else tree)
        ):
            missing.append(path.relative_to(ROOT).as_posix())
    assert missing == []


def test_the_files_that_the_docs_name_exist():
    known = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    pages = [ROOT / "README.md", ROOT / "tests" / "upgrades" / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {(page.name, name) for page in pages for name in re.findall(r"`([\w/]+\.py)", page.read_text())}
    assert len(named) > 50
    assert [one for one in sorted(named) if not any(path.endswith(f"/{one[1]}") for path in known)] == []


def test_the_same_seed_draws_the_same_docstrings(capsys, monkeypatch):
    said = []
    monkeypatch.setattr("ast.parse", cache(ast.parse))
    for seed in ("1", "1", "2"):
        monkeypatch.setattr(sys, "argv", ["draw_docstrings.py", "--seed", seed, "--count", "5"])
        runpy.run_path(str(ROOT / "scripts" / "draw_docstrings.py"), run_name="__main__")
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert said[0].count("\nmammo_mlflow") == 4


def test_the_changelog_tells_of_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", __version__)
    assert __version__ in headings
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
