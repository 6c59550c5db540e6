"""The command line: every command's options come from a typed function or dataclass, and say what that says.

A command is imported when it is called, so `accord --help` answers at once. Options may be written with dashes or
underscores; a YAML file given by --config holds the same names, and options on the command line override it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from accord.cli.table import COMMANDS, OPEN, POSITIONAL, QUESTIONS, SEVERAL
from accord.errors import InputError, TrainingStopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 for input that cannot be used, 3 for a run that stopped itself."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if args[0] == "--version":
        from accord import __version__

        print(f"accord {__version__}")
        return 0
    try:
        execute(*spelt_out(args))
    except InputError as error:
        print(f"accord: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as error:
        print(f"accord: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("accord: stopped; a training run goes on with the same command and --resume.", file=sys.stderr)
        return 130
    return 0


def overview(command: str = "") -> str:
    """The commands, or the questions of one, a line each."""
    width = max(map(len, COMMANDS))
    listed = {name: what for name, (_, what) in COMMANDS.items() if name.startswith(command)}
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in listed.items())
    if command:
        return (
            f"usage: accord {command} QUESTION [options]\n\n{lines}\n\n`accord {command} QUESTION --help` explains "
            "a question's options. The question may be left out where the options say which it is."
        )
    return (
        "accord aligns language models with human preferences, end to end.\n\nusage: accord COMMAND [options]\n\n"
        f"{lines}\n\n`accord COMMAND --help` explains a command's options; `accord demo` is the place to start."
    )


def spelt_out(args: Sequence[str]) -> tuple[str, list[str]]:
    """The command that the words begin with, and its options."""
    if len(args) > 1 and args[0] in QUESTIONS and not args[1].startswith("-"):
        return f"{args[0]} {args[1]}", list(args[2:])
    return args[0], list(args[1:])


def question(command: str, options: Collection[str]) -> str:
    """The full name of a command whose options have these names."""
    if command not in QUESTIONS:
        return command
    given = {"", *(name.split(".")[0] for name in options)}
    return f"{command} {next(asked for option, asked in QUESTIONS[command].items() if option in given)}"


def execute(command: str, args: Sequence[str]) -> Any:
    """Parse the options of a command and run it.

    Raises:
        InputError: no command or option is called that, or a value does not fit.
    """
    return parse(command, args)()


def parse(command: str, args: Sequence[str]) -> Callable[[], Any]:
    """The command with its options, checked and ready to be called."""
    if command in QUESTIONS:
        if not args or set(args) & {"-h", "--help"}:
            return lambda: print(overview(command))
        command = question(command, _names_of(args))
    target = target_of(command)
    parser = _parser(command, target)
    known = {a.dest for a in parser._actions if a.dest != "help"}
    flags = {a.dest for a in parser._actions if getattr(a, "_typehint", None) is bool}
    args = _named(command, args)
    further: dict[str, Any] = {}
    if command in OPEN:
        args, further[OPEN[command]] = _further(args, known)
    given = _normalized(command, args, known, flags)
    arguments = _fitted(target) if _is_method(target) else inspect.signature(target).parameters
    required = [n for n, p in arguments.items() if p.default is inspect.Parameter.empty]
    absent = [n for n in required if not any(re.split(r"[.=]", a)[0] == f"--{n}" for a in given)]
    if absent and "--help" not in given:
        wanted = " and ".join(f"--{n.replace('_', '-')}" for n in absent)
        raise InputError(f"`accord {command}` needs {wanted}.")
    import jsonargparse

    try:
        options = parser.parse_args(given).as_dict()
        options.pop("config", None)
    except jsonargparse.ArgumentError as error:
        raise InputError(_one_sentence(str(error))) from error
    if not _is_method(target):
        return lambda: target(**options, **further)
    own = {f.name: options.pop(f.name) for f in fields(target)}
    method = target(**own)
    return lambda: method.fit(options.pop("model"), options.pop("data"), **options)


def target_of(command: str) -> Any:
    """What a command calls: a function, or a method's class.

    Raises:
        InputError: no command is called that.
    """
    if command not in COMMANDS:
        raise InputError(f"there is no command {command!r}{_nearest(command, COMMANDS)}; `accord --help` lists them.")
    module, name = COMMANDS[command][0].split(":")
    return getattr(importlib.import_module(module), name)


def _parser(command: str, target: Any) -> Any:
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"accord {command}",
        description=inspect.cleandoc(target.__doc__ or "").split("\n\nArgs:")[0],
        exit_on_error=False,
        default_env=False,
        formatter_class=_formatter(),
    )
    parser.add_argument("--config", type=str | None, help="A YAML file of options; those given here override it.")
    if not _is_method(target):
        skipped: set[str | int] = {OPEN[command]} if command in OPEN else set()
        parser.add_function_arguments(target, as_group=False, fail_untyped=False, skip=skipped)
        return parser
    helps = _documented(target)
    for name, parameter in _fitted(target).items():
        bare = parameter.default is inspect.Parameter.empty
        kind: Any = str if bare else str | None if parameter.default is None else type(parameter.default)
        extra = {"required": True} if bare else {"default": parameter.default}
        parser.add_argument(f"--{name}", type=kind, help=helps.get(name, ""), **extra)
    parser.add_class_arguments(target, as_group=False, fail_untyped=False)
    return parser


def _is_method(target: Any) -> bool:
    """Whether a command is a method, whose settings are its dataclass's and whose data are `fit`'s, or a function."""
    return inspect.isclass(target)


def _fitted(method: type) -> dict[str, inspect.Parameter]:
    """The parameters of a method's `fit`, and those that it hands on to `run`."""
    parameters = dict(list(inspect.signature(method.fit).parameters.items())[1:])  # type: ignore[attr-defined]
    handed_on = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    for name in handed_on:
        del parameters[name]
        parameters |= {
            f.name: inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default)
            for f in fields(method.options)  # type: ignore[attr-defined]
        }
    parameters.pop("on_step", None)
    return parameters


def _formatter() -> type:
    import jsonargparse

    class Dashes(jsonargparse.DefaultHelpFormatter):
        """Shows options as they are usually typed."""

        def _format_action_invocation(self, action: Any) -> str:
            takes_none = action.nargs == 0 or getattr(action, "_typehint", None) is bool
            names = ", ".join(action.option_strings) if action.nargs == 0 else action.option_strings[0]
            return names.replace("_", "-") + ("" if takes_none else f" {action.dest.upper()}")

        def _expand_help(self, action: Any) -> str:
            text = super()._expand_help(action)
            return text[:1].upper() + text[1:]

        def _format_usage(self, *args: Any) -> str:
            return f"usage: {self._prog} [options]\n\n"

    return Dashes


def _documented(method: type) -> dict[str, str]:
    """What the docstrings of `fit` and `run`, of the method and of what it derives from, say of each argument."""
    helps: dict[str, str] = {}
    kinds = [vars(kind) for kind in reversed(method.__mro__)]
    for function in (kind[name] for kind in kinds for name in ("run", "fit") if name in kind):
        if "Args:\n" not in (function.__doc__ or ""):
            continue
        body = inspect.cleandoc(function.__doc__ or "").split("Args:\n")[1].split("\n\n")[0]
        arguments = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", body, re.MULTILINE)
        helps |= {name: " ".join(text.split()) for name, text in arguments}
    return helps


def _named(command: str, args: Sequence[str]) -> list[str]:
    """The options with the leading positional ones, where the command has them, under their names."""
    names = POSITIONAL.get(command, ())
    words = list(takewhile(lambda arg: not arg.startswith("-"), args))
    leading = words[: len(names)]
    if command in SEVERAL and len(words) > len(names):
        leading = [*words[: len(names) - 1], json.dumps(words[len(names) - 1 :])]
        args = args[len(words) - len(names) :]
    return [f"--{name}={value}" for name, value in zip(names, leading, strict=False)] + list(args[len(leading) :])


def _further(args: Sequence[str], known: set[str]) -> tuple[list[str], dict[str, str]]:
    """The options that are known, and those that are not, by name."""
    own: list[str] = []
    others: dict[str, str] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        key, equals, value = arg[2:].partition("=")
        if not arg.startswith("--") or key.replace("-", "_") in {*known, "help"}:
            own.append(arg)
        elif not equals and (not rest or rest[0].startswith("--")):
            others[key] = "true"
        else:
            others[key] = value if equals else rest.pop(0)
    return own, others


def _normalized(command: str, args: Sequence[str], known: set[str], flags: set[str]) -> list[str]:
    """Options with underscores and a value each, those of a --config file first.

    Raises:
        InputError: an option is not known, or the file cannot be read.
    """
    given: list[str] = []
    from_file: list[str] = []
    for i, arg in enumerate(args):
        if not arg.startswith("--") or arg == "--":
            given.append("--help" if arg == "-h" else arg)
            continue
        key, equals, value = arg[2:].partition("=")
        name, dot, rest = key.partition(".")
        name = name.replace("-", "_")
        if name == "config":
            path = value or (args[i + 1] if i + 1 < len(args) else "")
            from_file = _from_file(command, Path(path), known)
        _check(command, name, known | {"help"}, "")
        if name in flags and not equals and (i + 1 == len(args) or args[i + 1].startswith("--")):
            equals, value = "=", "true"
        given.append(f"--{name}{dot}{rest}{equals}{value}")
    return from_file + given


def _names_of(args: Sequence[str]) -> set[str]:
    """The options' names, those in a --config file among them."""
    names = {arg[2:].split("=")[0] for arg in args if arg.startswith("--")}
    for place, arg in enumerate(args):
        if arg.startswith("--config"):
            path = arg.partition("=")[2] or "".join(args[place + 1 : place + 2])
            names |= set(map(str, _read_options(Path(path))))
    return names


def _from_file(command: str, path: Path, known: set[str]) -> list[str]:
    return options_as_args(command, _read_options(path), known, f" in {path}")


def _read_options(path: Path) -> Mapping[str, Any]:
    try:
        options = yaml.safe_load(path.read_bytes()) or {}
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"--config {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(options, Mapping):
        raise InputError(f"--config {path} must hold options by name, such as `learning-rate: 1e-5`.")
    return options


def options_as_args(command: str, options: Mapping[str, Any], known: set[str] | None, where: str = "") -> list[str]:
    """Options by name as the command line takes them; those set to null are left to their defaults."""
    args = []
    for key, value in options.items():
        name = str(key).replace("-", "_")
        if known is not None:
            _check(command, name, known, where)
        if isinstance(value, Mapping):
            args += [f"--{name}.{k}={v}" for k, v in value.items()]
        elif value is not None:
            text = (
                value
                if isinstance(value, str)
                else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()
            )
            args.append(f"--{name}={text}")
    return args


def _check(command: str, name: str, known: set[str], where: str) -> None:
    if name not in known:
        shown = name.replace("_", "-")
        near = _nearest(shown, [k.replace("_", "-") for k in known])
        raise InputError(
            f"`accord {command}` has no option {shown}{where}{near}; `accord {command} --help` lists them."
        )


def _nearest(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _one_sentence(message: str) -> str:
    line = re.sub(r"<class '(\w+)'>", r"\1", " ".join(message.split()))
    return re.sub(r'Parser key "([\w.]+)"', lambda m: f"--{m[1].replace('_', '-')}", line)


if __name__ == "__main__":
    sys.exit(main())
