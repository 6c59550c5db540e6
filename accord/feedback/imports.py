"""Import the user's functions by name, and read their signatures."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
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
    file = Path(module_name).expanduser() if module_name.endswith(".py") else _source_of(module_name, name)
    if file is None:
        return
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{name}: {what} cannot be imported ({error})") from None
    defined = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    named = {n.asname or n.name for n in nodes if isinstance(n, ast.alias)}
    named |= {n.id for n in nodes if isinstance(n, ast.Name)}
    of_others = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    if attribute not in defined | named and UNFORESEEN.isdisjoint(defined | named | of_others):
        raise _lacks(name, defined)


UNFORESEEN = {"*", "__getattr__", "eval", "exec", "globals", "locals", "modules", "setattr", "vars"}
"""Names in a module's source that may define others which are not in it."""


def _source_of(module_name: str, name: str) -> Path | None:
    """The file of a module's source, found without importing anything; None where it has none, or where its package may
    make the module as it is imported.

    Raises InputError where an import would find no such module.
    """
    found, *inner = module_name.split(".")
    spec = importlib.util.find_spec(found)
    for part in inner:
        if spec is None:
            break
        package, found = spec.submodule_search_locations, f"{found}.{part}"
        if package is None:  # no package: what it may make when it is imported is not known
            return None
        spec = importlib.machinery.PathFinder.find_spec(found, package)
        if spec is None and _may_make_modules(package):
            return None
    if spec is None:
        raise InputError(f"{name}: the module {module_name} cannot be imported (No module named {found!r})")
    return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None


def _may_make_modules(package: Iterable[str]) -> bool:
    """Whether a file of a package, given its folders, speaks of Python's modules or of the package's path."""
    texts = (file.read_bytes() for folder in package for file in Path(folder).glob("*.py"))
    return any(word in text for text in texts for word in (b"modules", b"__path__"))


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
