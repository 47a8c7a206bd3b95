"""Draw public docstrings of the package at random, to be read by someone who did not write them.

    python scripts/draw_docstrings.py --seed 1 --count 20

Each is printed with its module, its name, and the signature of a function. The same seed draws the same ones.
"""

from __future__ import annotations

import argparse
import ast
import random
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mammo_mlflow"
Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def documented(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """A module, class or function with its name, if it has a docstring, and then the public ones inside it."""
    if ast.get_docstring(node):
        yield name, node
    if isinstance(node, ast.FunctionDef):
        return
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and not inner.name.startswith("_"):
            joint = ":" if isinstance(node, ast.Module) else "."
            yield from documented(inner, f"{name}{joint}{inner.name}")


def shown(name: str, node: Documented) -> str:
    """The name, the signature of a function, and the docstring, as they are to be read."""
    signature = ""
    if isinstance(node, ast.FunctionDef):
        signature = f"({ast.unparse(node.args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    text = "\n".join(f"    {line}".rstrip() for line in (ast.get_docstring(node) or "").splitlines())
    return f"{name}{signature}\n{text}\n"


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    asked = parser.parse_args()
    every: list[tuple[str, Documented]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        every += documented(ast.parse(path.read_text(encoding="utf-8")), module)
    drawn = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    for name, node in drawn:
        print(shown(name, node))
    print(f"{len(drawn)} of {len(every)}")


if __name__ == "__main__":
    main()
