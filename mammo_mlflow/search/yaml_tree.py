"""Read a YAML file into mappings, lists and texts.

Every scalar is read as a text: YAML would take `1:1.3` for a number in base 60, `on` for true and `1e-5` for a text.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from mammo_mlflow.errors import Faults, expected

MOST_BYTES = 100_000
"""The largest file that is read; PyYAML takes minutes for one that is much larger."""
FOLDERS = (Path("search_spaces"), (Path(__file__).parents[1] / "search_spaces").resolve())
"""The folders in which search spaces are looked for: in the current directory, then those that the package ships."""

Tree = str | list["Tree"] | dict[str, "Tree"]
"""The content of a file, or a part of it."""
KEYS = ("family", "backbone", "architecture", "parameters")
"""The top-level keys of a search space."""


def read_tree(path: Path, faults: list[str]) -> dict[str, Tree]:
    """Read the mapping in a YAML file. Repeated keys are added to `faults`; raises `Faults` without a mapping."""
    try:
        if path.stat().st_size > MOST_BYTES or not (path.is_file() or path.is_dir()):  # a pipe would be waited for
            raise Faults([str(expected(str(path), f"a file of at most {MOST_BYTES:,} bytes", "something else"))])
        root = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    except (FileNotFoundError, NotADirectoryError):
        there = {file.resolve(): str(file) for folder in reversed(FOLDERS) for file in folder.glob("*.yaml")}
        wanted, found = "a search space", f"nothing there (there are: {', '.join(sorted(there.values())) or 'none'})"
    except OSError as problem:
        wanted, found = "a readable file", str(problem.strerror)
    except UnicodeDecodeError as problem:
        wanted, found = "UTF-8 text", f"another byte at position {problem.start}"
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        wanted, found = "YAML", f"{problem.problem}{where}"
    except yaml.YAMLError as problem:
        wanted, found = "YAML text", " ".join(str(problem).split())
    except RecursionError:
        wanted, found = "YAML", "lists or mappings nested too deeply"
    else:
        tree = "" if root is None else _plain(path, "", root, faults)
        if isinstance(tree, dict) and tree:
            return tree
        wanted, found = f"a mapping of {', '.join(KEYS)}", value_in_words(tree)
    raise Faults([*faults, str(expected(str(path), wanted, found))])


def value_in_words(given: Tree) -> str:
    """Describe a part of the tree in words for messages."""
    if isinstance(given, str):
        return f"'{given}'" if given else "nothing"
    return ("a" if given else "an empty") + (" list" if isinstance(given, list) else " mapping")


class _Loader(yaml.BaseLoader):
    """PyYAML's loader of texts, which refuses aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # one that holds itself would never end
            raise yaml.composer.ComposerError(None, None, "an alias", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def _plain(path: Path, key: str, node: yaml.Node, faults: list[str]) -> Tree:
    """A node of PyYAML as a tree; repeated keys, and keys that are no text, are added to `faults`."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, key, item, faults) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return node.value
    found: dict[str, Tree] = {}
    for name_node, item in node.value:
        line = f"line {name_node.start_mark.line + 1}"
        if not isinstance(name_node, yaml.ScalarNode):
            place = f"{path}: {key}".removesuffix(": ")
            faults.append(str(expected(place, "names as keys", f"something else in {line}")))
            continue
        name, inner = name_node.value, f"{key}.{name_node.value}".lstrip(".")
        if name in found:
            faults.append(str(expected(f"{path}: {inner}", "it once", f"it again in {line}")))
        else:
            found[name] = _plain(path, inner, item, faults)
    return found
