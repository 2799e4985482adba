"""demos/architecture.md names files, classes and functions that are there, and is short enough to be read."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "demos/architecture.md").read_text(encoding="utf-8")


def names_in(path: Path) -> set[str]:
    """The classes, functions and methods that a module defines; methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_every_path_exists() -> None:
    paths = set(re.findall(r"`([\w/]+/(?:\w+\.py)?)[`:]", PAGE))
    assert len(paths) > 20
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_hop_is_defined_where_it_is_said_to_be() -> None:
    hops = set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE))
    assert len(hops) > 20
    assert [hop for hop in sorted(hops) if hop[1] not in names_in(ROOT / hop[0])] == []


def test_every_folder_of_the_engine_is_listed() -> None:
    folders = {f"engine/{init.parent.name}/" for init in ROOT.glob("engine/*/__init__.py")}
    assert folders - set(re.findall(r"`([\w/]+/)`", PAGE)) == set()


def test_the_page_has_at_most_60_lines() -> None:
    assert len(PAGE.splitlines()) <= 60
