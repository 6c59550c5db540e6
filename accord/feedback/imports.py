"""Import the user's functions by name, and read their signatures."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
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
    module_name, _, attribute = name.rpartition(":")
    is_file = module_name.endswith(".py")
    what = f"the {'file' if is_file else 'module'} {module_name}"
    if is_file and not Path(module_name).expanduser().is_file():
        raise InputError(f"{name}: there is no file {module_name}")
    if not is_file and module_name.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"{name} is of Python's own library, which gives no rewards: write a function that calls it")
    _look_in(os.getcwd())
    try:
        with users_code(what), within(IMPORT_SECONDS):
            module = _run(Path(module_name)) if is_file else importlib.import_module(module_name)
    except UsersFault as fault:
        if isinstance(fault.__cause__, ImportError | SyntaxError):
            raise InputError(f"{name}: {what} cannot be imported ({fault.__cause__})") from fault
        raise
    if not callable(getattr(module, attribute, None)):
        functions = [known for known in dir(module) if callable(getattr(module, known))]
        hint = nearest(attribute, functions, f"; did you mean {module_name}:{{}}?")
        raise InputError(f"{what} has no function {attribute}{hint}")
    return getattr(module, attribute)


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
