"""Imports go one way, lazy ones too: which room may import which, and no circles, read from the source of modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[1]
ROWS = {
    "arrays", "records", "files", "parsing", "outputs", "locks", "errors", "console", "limits", "interrupts", "dates",
}  # fmt: skip
TRAINING = ROWS | {"objectives", "data", "engine", "feedback"}
MAY_IMPORT = {
    "errors": set(),
    "arrays": set(),
    "records": {"arrays"},
    "console": set(),
    "limits": set(),
    "dates": {"errors"},
    "parsing": {"errors"},
    "interrupts": set(),
    "objectives": set(),
    "files": {"records", "errors"},
    "outputs": {"files", "records", "errors", "console"},
    "locks": {"files", "errors", "console"},
    "results": ROWS,
    "engine": ROWS | {"objectives"},
    "report": ROWS | {"results"},
    "annotate": ROWS | {"results", "data"},
    "data": ROWS | {"engine"},
    "prompting": ROWS | {"objectives", "data", "engine"},
    "feedback": ROWS | {"objectives", "data", "engine", "prompting"},
    "synthesis": TRAINING | {"prompting", "results"},
    "train": TRAINING | {"report", "results"},
    "methods": TRAINING | {"prompting", "train"},
    "evaluate": TRAINING | {"prompting", "report", "results"},
    "chat": TRAINING | {"prompting"},
    "worlds": TRAINING,
}
FORMULA = ["accord", "feedback", "formula"]
"""What rewards are called: text alone, which reports read too."""
STATISTICS = [["accord", "evaluate", name] for name in ("agreement", "kappas", "statistics")]
"""The statistics of agreement, which need no torch: the owner's page of `annotate` shows them as people answer."""
NO_TORCH = {"arrays", "records", "results", "report", "annotate"}
SHARED = {"method", "offline", "online", "rounds", "turn_rewards", "rollouts", "policy_gradient", "pairs", "pairwise"}
MODULES = sorted((ROOT / "accord").rglob("*.py"))


def imported(path: Path) -> Iterator[list[str]]:
    """Every name that a module imports, at its top or inside a function, as the parts of its full dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield from ([*(node.module or "").split("."), alias.name] for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    room, *inside = path.relative_to(ROOT / "accord").with_suffix("").parts
    for name in imported(path):
        described = ".".join(name)
        if room == "annotate" and name[:3] in STATISTICS:
            continue
        if name[0] == "accord" and room in MAY_IMPORT and name[:3] != FORMULA:
            assert set(name[1:2]) & (MAY_IMPORT[room] | {room}), f"{room} may not import {described}"
        if name[:2] == ["accord", "methods"] and room == "methods" and inside != ["__init__"]:
            assert set(name[2:3]) & SHARED, f"a method may not import {described}: only the drivers and their parts"
        assert name[0] != "torch" or room not in NO_TORCH, f"{room} may not import {described}"


LAZY = ("annotate", "data", "engine", "feedback", "objectives", "prompting", "report", "synthesis")
"""Packages whose modules are imported when first used, as `engine.fit`."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_name(path): path for path in MODULES}


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything but what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from runtime_nodes(node)


def needs(path: Path) -> set[str]:
    """The modules of accord that a module imports when it runs: at its top, in its functions, or by a lazy package."""
    wanted: set[str] = set()
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("accord"):
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in LAZY:
            wanted.add(f"accord.{node.value.id}.{node.attr}")
    packages = {f"accord.{package}" for package in (*LAZY, "")}
    return {name for name in wanted if name in NAMES and NAMES[name] != path and name not in packages}


@pytest.mark.parametrize("package", LAZY)
def test_what_is_used_of_a_lazy_package_is_listed(package: str) -> None:
    """A module that is not listed is there only when something else imported it before."""
    folder = ROOT / "accord" / package
    listed = {alias.asname or alias.name for alias in imported_by(folder / "__init__.pyi")}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(a.name == package and a.asname is None for a in imported_by(path, "accord")):
            used = {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == package
            }
            assert used <= listed, f"{path.name} uses {used - listed} of {package}"


def imported_by(path: Path, module: str | None = None) -> Iterator[ast.alias]:
    """What a module imports by name, of one other, or of any."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and module in (None, node.module):
            yield from node.names


def test_no_module_needs_itself() -> None:
    graph = networkx.DiGraph((name, other) for name, path in NAMES.items() for other in needs(path))
    assert [circle for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []
