"""From a command's name and options, as arguments or values, to a checked call that is ready to run.

Options may be written with dashes or underscores; a YAML file given by --config holds the same names, and options on
the command line override it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from accord.cli.option import REQUIRED, Option, in_python
from accord.cli.options import help_text, options_of
from accord.cli.other_names import NOT_OFFERED, nearest_methods, ours, translation
from accord.cli.table import COMMANDS, FAMILIES
from accord.dates import fixed
from accord.errors import InputError, nearest
from accord.locks import alone_with
from accord.outputs import overwriting
from accord.parsing import read_yaml

CONFIG = Option(
    "config", str, None, "A YAML file of options; those on the command line override it.", "input and output"
)
OVERWRITE = Option(
    "overwrite",
    bool,
    False,
    "Also overwrite files that accord did not write, or that were changed since.",
    "input and output",
)
"""An option of every command that has --out."""


OTHER_FORMATS = {".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt", ".md", ".bz2", ".xz", ".zst"}
"""Suffixes of other formats, refused as names for files of rows, which are JSONL."""


@dataclass(frozen=True)
class Call:
    """A command with its converted options; `function(**arguments)` runs it, in its `context()`."""

    command: str
    options: Mapping[str, Any]
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    overwrites: bool = False

    @contextmanager
    def context(self) -> Iterator[None]:
        """Apply --overwrite and fix the date in the block, and lock the command's one output file against other
        processes."""
        with overwriting(self.overwrites), fixed(), self._alone():
            yield

    def run(self) -> None:
        """Run the command and ignore its return value."""
        with self.context():
            self.function(**self.arguments)

    def _alone(self) -> AbstractContextManager[None]:
        file = Path(str(self.options.get("out", "")))
        there = next(one for one in (file, *file.parents) if one.exists())
        can = file.is_file() or (there != file and there.is_dir())
        return alone_with(file) if COMMANDS[self.command].file and can else nullcontext()


def bind(command: str, values: Mapping[str, Any]) -> Call:
    """The call of a command with these values (strings, or values from YAML); None leaves a default.

    Raises InputError where the command or an option does not exist, a value does not fit, or one is missing.
    """
    target: Any = target_of(command)
    options = accepted_options(target)
    arguments: dict[str, Any] = {}
    for name, value in in_python(values, f"what `accord {command}` is given").items():
        require_known(command, name, options)
        if value is not None:
            arguments[name] = options[name].read(value)
    absent = [option.flag for option in options.values() if option.default is REQUIRED and option.name not in arguments]
    if absent:
        raise InputError(f"`accord {command}` needs {' and '.join(absent)}.")
    overwrites = arguments.pop(OVERWRITE.name, False)
    if COMMANDS[command].file.endswith(".jsonl"):
        require_rows_name(arguments.get("out"))
    if not hasattr(target, "fit"):
        if hasattr(target, "options"):  # they check themselves, before any stage of a recipe runs
            taken = {field.name for field in fields(target.options)}
            target.options(**{name: value for name, value in arguments.items() if name in taken})
        if hasattr(target, "check"):
            names = inspect.signature(target.check).parameters.keys() & options.keys()
            target.check(**{name: arguments.get(name, options[name].default) for name in names})
        return Call(command, arguments, target, arguments, overwrites)
    own, of_run = ({field.name for field in fields(kind)} for kind in (target, target.options))
    method = target(**{name: value for name, value in arguments.items() if name in own})
    target.options(**{name: value for name, value in arguments.items() if name in of_run})
    rest = {name: value for name, value in arguments.items() if name not in own}
    return Call(command, arguments, method.fit, rest, overwrites)


def require_rows_name(out: str | None) -> None:
    """Raise InputError where a file of rows (JSONL) would get the suffix of another format."""
    if out is not None and Path(out).suffix.lower() in OTHER_FORMATS:
        raise InputError(
            f"--out {out}: rows are written as lines of JSON; give a name that ends in .jsonl, or in .jsonl.gz."
        )


def accepted_options(target: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a command's function or class, with --overwrite where it writes something."""
    options = options_of(target)
    return {**options, OVERWRITE.name: OVERWRITE} if "out" in options else options


def target_of(command: str) -> Callable[..., Any]:
    """The function or the method's class that a command calls; InputError where there is no such command."""
    if command in FAMILIES:
        raise InputError(f"`accord {command}` needs a question: {', '.join(questions(command))}.")
    if command not in COMMANDS:
        near = nearest_methods(command) or nearest(command, COMMANDS)
        raise InputError(f"there is no command {command!r}{near}; `accord --help` lists them.")
    module, name = COMMANDS[command].target.split(":")
    target: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return target


def questions(family: str) -> list[str]:
    """The second words of a family's commands."""
    return [name.split()[1] for name in COMMANDS if name.startswith(f"{family} ")]


def help_of(command: str, *, briefly: bool = False) -> str:
    """The help of a command; `briefly` shows only its most important options and those special to it."""
    target = target_of(command)
    entry = COMMANDS[command]
    options = [option for option in accepted_options(target).values() if option.name != entry.further]
    needed = {option.name for option in options if option.default is REQUIRED}
    words = [name.upper() if name in needed else f"[{name.upper()}]" for name in entry.positional]
    words += ["..."] * entry.takes_all
    words += [f"{o.flag} {o.name.upper()}" for o in options if o.default is REQUIRED and o.name not in entry.positional]
    usage = f"usage: accord {' '.join([command, *words])} [options]"
    return help_text(usage, target, [*options, CONFIG], f"accord {command} --help" if briefly else "")


def require_known(command: str, name: str, known: Collection[str], where: str = "") -> None:
    """Raise InputError where a command has no option of this name."""
    if name not in known:
        shown = name.replace("_", "-")
        if why := next((why for end, why in NOT_OFFERED.items() if name.endswith(end)), None):
            raise InputError(f"`accord {command}` has no option {shown}{where}: {why}; leave it out.")
        same = ours(name, known)
        near = nearest(shown, [k.replace("_", "-") for k in known])
        near = f"; did you mean {same.replace('_', '-')}?" if same else near
        if shown == "loss-type":
            near = ": each loss is a command, dpo (sigmoid, also robust by --label-smoothing), ipo or kto"
        raise InputError(
            f"`accord {command}` has no option {shown}{where}{near}; `accord {command} --help` lists them."
        )


def read_words(command: str, words: Sequence[str]) -> dict[str, Any]:
    """A command's options from its command-line arguments, as strings by name, over those of a --config file.

    Raises InputError where the command or an option does not exist, a value is missing, or the file cannot be read.
    """
    options, entry = accepted_options(target_of(command)), COMMANDS[command]
    leading = list(takewhile(lambda word: not word.startswith("-"), words))
    arguments: dict[str, Any] = _positional(command, leading)
    from_file: dict[str, Any] = {}
    further: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for key, value in _pairs(command, words[len(leading) :], options):
        name, dot, inner = key.partition(".")
        name = name.replace("-", "_")
        option = CONFIG if name == CONFIG.name else options.get(name)
        negated = options.get(name[3:]) if name.startswith("no_") else None
        if option is None and entry.further:
            further[key] = "true" if value is None else value[0]
        elif option is None and negated and negated.is_flag and value is None:
            arguments[negated.name] = "false"
        elif option is None or (dot and not option.is_mapping):
            require_known(command, f"{name}{dot}{inner}", [*options, CONFIG.name])
        elif value is None and not option.is_flag:
            raise InputError(f"`accord {command}` needs a value for --{key}.")
        elif value and option is CONFIG:
            from_file = _merged(from_file, read_config(command, Path(value[0]), options))
        elif value and (named := {inner: value[0]} if dot else option.names_in(value[0])):
            before = arguments[name] if isinstance(arguments.get(name), dict) else {}
            for one in named:
                option.require_new(one, before)
            arguments[name] = {**before, **named}
        elif value and option.is_list:
            several[name] = [*several.get(name, ()), *value]
            arguments[name] = several[name] if len(several[name]) > 1 else value[0]
        elif name == "reward" and value and arguments.get(name, value[0]) != value[0]:
            raise InputError(
                f"`accord {command}` takes one --reward: add them up, as '{arguments[name]} + {value[0]}'."
            )
        else:
            arguments[name] = "true" if value is None else value[0]
    if further:
        arguments[entry.further] = further
        spelled = {key.replace("-", "_") for key in further}
        if isinstance(before := from_file.get(entry.further), Mapping):
            from_file[entry.further] = {k: v for k, v in before.items() if str(k).replace("-", "_") not in spelled}
    return _merged(from_file, arguments)


def _pairs(command: str, words: Sequence[str], options: Mapping[str, Option]) -> Iterator[tuple[str, list[str] | None]]:
    """The options among the arguments, without dashes, with their values: several for a list, None for none."""
    rest = list(words)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--") or key == "--":
            raise InputError(f"`accord {command}` cannot tell what {key} is; options are written as --name value.")
        values = [value] if equals else []
        option = options.get(key[2:].replace("-", "_"))
        while rest and not rest[0].startswith("--") and (not values or (option and option.is_list)):
            values.append(rest.pop(0))
        yield key[2:], values or None


def read_config(command: str, path: Path, known: Collection[str]) -> dict[str, Any]:
    """The options in a YAML file, by their Python names.

    Those of another command, such as the method of a sweep, are put under the option that holds them. Raises InputError
    where it cannot be read, or has an option that the command does not have.
    """
    options = read_yaml(path, "--config") or {}
    if not isinstance(options, Mapping):
        raise InputError(f"--config {path} must hold options by name, such as `learning-rate: 1e-5`.")
    further = COMMANDS[command].further
    rest = {key: options[key] for key in options if str(key).replace("-", "_") not in known} if further else {}
    named = in_python({key: options[key] for key in options if key not in rest}, f"--config {path}")
    unknown = [name for name in named if name not in known]
    if named.get("command") in COMMANDS and "command" in unknown:
        raise InputError(
            f"--config {path} is what a run of `accord {named['command']}` recorded: take out `command`, `date` and "
            "the names that end in _sha256, to give its settings again."
        )
    if len(unknown) > 1:
        raise InputError(
            f"--config {path} has {len(unknown)} options that `accord {command}` does not have: "
            f"{translation(unknown, known)}; `accord {command} --help` lists all options."
        )
    for name in unknown:
        require_known(command, name, known, f" in {path}")
    for name, value in rest.items():
        if any(isinstance(one, Mapping) for one in (value if isinstance(value, list) else [value])):
            raise InputError(f"--config {path}: {name} must be a value or several, not options by name.")
    if rest:
        inner: Any = named.get(further) or {}
        if not isinstance(inner, Mapping):
            raise InputError(f"--config {path}: {further} must be options by name, not {inner}.")
        named[further] = {**inner, **rest}
    return named


def _positional(command: str, words: Sequence[str]) -> dict[str, Any]:
    """The arguments before the first option, by the names of the options they stand for."""
    entry = COMMANDS[command]
    names = entry.positional
    if entry.takes_all and len(words) > len(names):
        return {**dict(zip(names[:-1], words, strict=False)), names[-1]: list(words[len(names) - 1 :])}
    if len(words) > len(names):
        raise InputError(
            f"`accord {command}` cannot tell what {words[len(names)]} is; options are written as --name value."
        )
    return dict(zip(names, words, strict=False))


def _merged(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Options where `then` overrides `first`; named values of one option are merged."""
    both = {
        name: {**first[name], **value}
        for name, value in then.items()
        if isinstance(value, Mapping) and isinstance(first.get(name), Mapping)
    }
    return {**first, **then, **both}
