"""The tutorials, followed to the letter but for their size."""

import re
import shlex

import pytest
from support import PHANTOM, ROOT, run_command

TRAINING = ("pretrained", "controls", "search")
SMALL = ["--epochs", "2", "--folds", "2", "--dense", "8", "--views", "1"]
FEWER = '("train", 32), ("public_test", 8)'
"""The patches of a tutorial that writes some."""


def steps(page):
    """The Python and shell blocks of a tutorial, in order; what is only shown (`console`) is left out."""
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text()
    return re.findall(r"```(python|bash)\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", ["first-model", "your-patches", "study"])
def test_a_tutorial_does_what_it_says(page, system, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done, small_phantom = [], str(cache / "phantom-v1-48-24-32px-seed0")
    for kind, block in steps(page):
        if kind == "python":
            exec(compile(block.replace('("train", 64), ("public_test", 32)', FEWER), page, "exec"), {})
            continue
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[:3] == ["python", "-m", "mammo_mlflow"]
            name, *rest = words[3:]
            smaller = [] if name not in TRAINING else SMALL if "--data" in rest else [*SMALL, *PHANTOM]
            rest = [small_phantom if word == "phantom" else word for word in rest]
            outcome = run_command(tmp_path, cache, *rest, *smaller, name=name)
            assert outcome.code == 0, f"{line}\n{outcome.err}"
            done.append(name)
    assert len(done) >= 2
