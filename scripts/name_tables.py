"""Write the tables of docs/architecture.md that tell what the store's names mean: those of `mammo_mlflow/names.py`.

    python scripts/name_tables.py

Each class there is a table, between the marks `<!-- names: CLASS -->` and `<!-- end -->`; its comments, above
names or beside one, are their meanings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES, PAGE = ROOT / "mammo_mlflow" / "names.py", ROOT / "docs" / "architecture.md"
ROWS = re.compile(r"((?:    # .*\n)+)((?:    [A-Z][^#\n]*(?:\n|$))+)|    ([A-Z][^#\n]*)  # (.*)")
BLOCK = re.compile(r"(<!-- names: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(kind: str) -> Iterator[tuple[list[str], str]]:
    """The names of a class that share a meaning, and the meaning."""
    body = NAMES.read_text(encoding="utf-8").split(f"class {kind}:\n")[1].split("\n\n\n")[0]
    for above, constants, lone, beside in ROWS.findall(body):
        yield re.findall(r'"([^"]+)"', constants or lone), beside or " ".join(re.findall(r"# (.*)", above))


def table(kind: str) -> str:
    """A class as Markdown. Behind the first name of a row the others leave out the prefix that all tags have."""
    lines = []
    for names, meaning in rows(kind):
        cells = [names[0], *(name.removeprefix("mammo") for name in names[1:])]
        lines.append(f"| {', '.join(f'`{cell}`' for cell in cells)} | {meaning} |")
    return "\n".join([f"| {kind.lower()} | meaning |", "|---|---|", *lines, ""])


def filled(text: str) -> str:
    """The page with its tables as they should be."""
    return BLOCK.sub(lambda found: found[1] + table(found[2]) + found[3], text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
