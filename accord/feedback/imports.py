"""Import the user's functions by name, and read their signatures."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from accord.errors import InputError, UsersFault, nearest, users_code
from accord.limits import within

IMPORT_SECONDS = 600.0
"""The time limit of an import."""


def import_function(name: str) -> Any:
    """Import the function of `module:function` or `path/file.py:function`.

    Modules are also searched in the working directory; a file's own imports beside the file. Raises InputError if the
    module is missing, cannot be imported within `IMPORT_SECONDS`, or has no callable of that name.
    """
    module_name, attribute, what = _parts(name)
    is_file = module_name.endswith(".py")
    _look_in(os.getcwd())
    try:
        with users_code(what), within(IMPORT_SECONDS):
            module = _run(Path(module_name)) if is_file else importlib.import_module(module_name)
    except UsersFault as fault:
        if isinstance(fault.__cause__, ImportError | SyntaxError):
            raise InputError(f"{name}: {what} cannot be imported ({fault.__cause__})") from fault
        raise
    if not callable(getattr(module, attribute, None)):
        raise _lacks(name, [known for known in dir(module) if callable(getattr(module, known))])
    return getattr(module, attribute)


def require_function(name: str) -> None:
    """Raise InputError where `import_function` would find no module, no Python in it, or no such name, as far as that
    can be told without running its code."""
    module_name, attribute, what = _parts(name)
    if module_name in sys.modules:
        import_function(name)
        return
    _look_in(os.getcwd())
    packages: list[ModuleSpec] = []
    if module_name.endswith(".py"):
        file = Path(module_name).expanduser()
    else:
        packages, module = _find_module(module_name, name)
        if module is None or module.origin is None or not module.origin.endswith(".py"):
            return
        file = Path(module.origin)
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{name}: {what} cannot be imported ({error})") from None
    defined = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    named = {n.asname or n.name for n in nodes if isinstance(n, ast.alias)}
    named |= {n.id for n in nodes if isinstance(n, ast.Name)}
    if attribute in defined | named or not UNFORESEEN.isdisjoint(_names(nodes)):
        return
    around = [node for package in packages for node in _nodes_of(package, set())]
    is_set = any(isinstance(n, ast.Attribute) and n.attr == attribute and isinstance(n.ctx, ast.Store) for n in around)
    if not is_set and "setattr" not in _names(around):
        raise _lacks(name, defined)


UNFORESEEN = {"*", "__getattr__", "eval", "exec", "globals", "locals", "modules", "setattr", "sys.modules", "vars"}
"""Names in a module's source that may define others which are not in it."""

MAKERS = {"__import__", "__path__", "eval", "exec", "meta_path", "modules", "path_hooks"}
MAKERS |= {f"sys.{name}" for name in MAKERS}
"""Names in a package's source that may make modules which have no file in it."""


def _find_module(module_name: str, name: str) -> tuple[list[ModuleSpec], ModuleSpec | None]:
    """The packages of a module and the module, found without importing anything; the module is None where a package, or
    a module that is no package, may make it as it is imported.

    Raises InputError where an import would find no such module.
    """
    specs, parts = list(_specs(module_name)), module_name.split(".")
    found = [spec for spec in specs if spec is not None]
    if len(found) == len(parts):
        return found[:-1], found[-1]
    nodes = (node for package in found for node in _nodes_of(package, set()))
    if specs[-1] is None and all(MAKERS.isdisjoint(_names([node])) for node in nodes):
        absent = ".".join(parts[: len(specs)])
        raise InputError(f"{name}: the module {module_name} cannot be imported (No module named {absent!r})")
    return found, None


def _specs(module_name: str) -> Iterator[ModuleSpec | None]:
    """What an import would find of each part of a module's name, to the first that is missing (None) or no package."""
    found, *inner = module_name.split(".")
    spec = importlib.util.find_spec(found)
    yield spec
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return
        within = getattr(sys.modules.get(found), "__path__", spec.submodule_search_locations)
        found = f"{found}.{part}"
        finders = [finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")]
        spec = next((one for find in finders if (one := find(found, within))), None)
        yield spec


def _nodes_of(module: ModuleSpec, seen: set[str]) -> Iterator[ast.AST]:
    """The syntax of a module, and of the modules of its package that it imports; but not of those that are imported
    already, and have made what they make. `seen` collects the names of the modules looked at."""
    if module.name in seen or module.name in sys.modules or not str(module.origin).endswith(".py"):
        return
    seen.add(module.name)
    nodes: list[ast.AST] = []
    with suppress(OSError, SyntaxError, ValueError):  # importing it will tell
        nodes += ast.walk(ast.parse(Path(str(module.origin)).read_bytes()))
    yield from nodes
    top = module.name.partition(".")[0]
    for name in (name for node in nodes for name in _imported(node, module)):
        for spec in _specs(name) if name.partition(".")[0] == top else ():
            yield from () if spec is None else _nodes_of(spec, seen)


def _imported(node: ast.AST, module: ModuleSpec) -> list[str]:
    """The modules that a statement imports, and its other names as if they were modules too."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        with suppress(ImportError):
            base = importlib.util.resolve_name("." * node.level + base, module.parent)
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    """The names in some source: of variables, of what is imported or defined, and of variables' attributes (sys.x)."""
    names: set[str] = set()
    for node in nodes:
        names.update(name for kind in ("id", "name", "asname") if (name := getattr(node, kind, None)) is not None)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
    return names


def _parts(name: str) -> tuple[str, str, str]:
    """The module or file and the function of a name, and what the first is called in messages.

    Raises InputError where there is no such file, or the module is of Python's own library.
    """
    module_name, _, attribute = name.rpartition(":")
    is_file = module_name.endswith(".py")
    if is_file and not Path(module_name).expanduser().is_file():
        raise InputError(f"{name}: there is no file {module_name}")
    if not is_file and module_name.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"{name} is of Python's own library, which gives no rewards: write a function that calls it")
    return module_name, attribute, f"the {'file' if is_file else 'module'} {module_name}"


def _lacks(name: str, functions: Iterable[str]) -> InputError:
    """The error where a module has these functions, and not the one named."""
    module_name, attribute, what = _parts(name)
    hint = nearest(attribute, functions, f"; did you mean {module_name}:{{}}?")
    return InputError(f"{what} has no function {attribute}{hint}")


def _look_in(folder: str) -> None:
    """Append a folder to the module search path."""
    if folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
        sys.path.append(folder)
        importlib.invalidate_caches()


def _run(file: Path) -> Any:
    """Import a file once, registered by its full path, since its name may be that of another module."""
    file = file.expanduser().resolve()
    if (name := str(file)) not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # of a name that ends in .py
        sys.modules[name] = importlib.util.module_from_spec(spec)  # before it runs: dataclasses look their module up
        _look_in(str(file.parent))
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def signature_of(function: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function. Raises InputError if it has no signature, as some built-in functions."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise InputError(f"{name} does not declare its arguments: call it in a function of your own") from None
