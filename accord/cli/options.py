"""A command's options, derived from what it calls: a function's signature, or a method's settings and its `fit`.

Their help is taken from docstrings: `Args:` of a function, and the docstring under a field of a dataclass.
"""

from __future__ import annotations

import ast
import functools
import inspect
import shutil
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser

from accord.cli.option import REQUIRED, Group, Option, choices, members, metavar

MOST_IMPORTANT = (
    "database", "model", "models", "data", "seeds", "generator", "constitution", "score", "count", "task", "people",
    "overlap", "guidelines", "reward", "judge", "against", "teacher", "verifier", "out", "n", "beta", "tau",
    "group_size", "rounds", "kl_coefficient", "learning_rate", "batch_size", "epochs", "max_steps", "max_new_tokens",
    "temperature",
)  # fmt: skip
"""Options shown first, at most SHOWN_FIRST of them, in the help of a command with more than MANY options."""
SHOWN_FIRST, MANY = 10, 14

VALUES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "None": None, "Literal": Literal,
    "dict": dict, "Mapping": dict, "list": list, "Sequence": list,
    "Source": str | list[str] | dict[str, float],
}  # fmt: skip
"""The types that can be written on a command line or in YAML, by their names in annotations."""

OF_FUNCTIONS: dict[str, Group] = {
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "stop"), "sampling"),
    **dict.fromkeys(("seed", "dtype", "max_length", "tokens_per_pass"), "compute"),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "system"), "chat template"),
    **dict.fromkeys(("data", "out", "split", "limit", "columns", "model", "reference"), "input and output"),
}
"""The groups of options that many functions share; required options count as input and output."""

OF_CLASSES: dict[str, Group] = {
    "OptimizerConfig": "training", "AdapterConfig": "adapters", "MemoryConfig": "memory", "TrainingConfig": "training",
    "TemplateOptions": "chat template", "SamplerConfig": "sampling", "SamplingConfig": "sampling",
    "DialogueMethod": "sampling", "RewardOptions": "rewards and judges",
    "PolicyOptions": "evaluation while training", "HeldOutOptions": "evaluation while training",
}  # fmt: skip
"""The groups of inherited fields of methods and their `fit`, by the class that first declares the field."""


@functools.cache
def options_of(target: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a function, or of a method (the arguments of `fit`, the run's options, the method's settings)."""
    listed = _of_method(target) if inspect.isclass(target) else _of_function(target)
    return {option.name: option for option in listed}


def help_text(usage: str, target: Callable[..., Any], options: Collection[Option], whole: str = "") -> str:
    """The help page of a command: what it does, then its options in groups, the most important ones first.

    `whole` is the command that prints the full page; where given, groups that are not special to this command are
    only counted.
    """
    first: list[Option] = []
    if len(options) > MANY:
        rank = {name: index for index, name in enumerate(MOST_IMPORTANT)}
        ranked = sorted(options, key=lambda option: rank.get(option.name, len(rank)))
        chosen = [*(o for o in ranked if o.default is REQUIRED), *(o for o in ranked if o.name in rank)]
        first = sorted(list(dict.fromkeys(chosen))[:SHOWN_FIRST], key=ranked.index)
    groups = {"main options": first}
    for group in get_args(Group):
        groups[group] = [option for option in options if option.group == group and option not in first]
    groups["method"].sort(key=lambda option: option.name not in vars(target).get("__annotations__", ()))
    left_out = {}
    if whole and first:
        left_out = {name: groups.pop(name) for name in get_args(Group)[2:] if groups[name]}
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    sections = [f"{name}:\n" + "\n".join(_line(o, width) for o in some) for name, some in groups.items() if some]
    if left_out:
        names = textwrap.fill(", ".join(f"{name} ({len(some)})" for name, some in left_out.items()), width - 2)
        sections.append(f"`{whole}` shows all options:\n" + textwrap.indent(names, "  "))
    return "\n\n".join([usage, inspect.cleandoc(target.__doc__ or "").split("\n\nArgs:")[0], *sections])


def _line(option: Option, width: int) -> str:
    head = f"  {option.flag}" + ("" if option.is_flag else metavar(option.type))
    if option.is_flag and option.default is True:
        head = f"  --no-{option.flag[2:]}"
    text = option.help.partition("; in Python also")[0].removesuffix(".")
    if option.is_flag and option.default is True:
        text = f"Turn off: {text[:1].lower()}{text[1:]}"
    elif (first := text.split(" ", 1)[0].rstrip(";,:")) not in choices(option.type) and ":" not in first:
        text = text[:1].upper() + text[1:]  # a value, such as ai:MODEL, is written as it is typed
    if option.default is REQUIRED:
        text += " (required)"
    elif option.is_flag:
        text += " (default: on)" if option.default else ""
    elif option.default not in (None, ""):
        text += f" (default: {option.default})"
    indent = " " * 28
    begin = f"{head:<28}" if len(head) < 27 else f"{head}\n{indent}"
    return begin + textwrap.fill(f"{text}.", width - 28, break_on_hyphens=False).replace("\n", f"\n{indent}")


def _of_function(function: Callable[..., Any]) -> Iterator[Option]:
    for parameter, kind, text in _parameters(function):
        is_read = parameter.default is REQUIRED or any(get_origin(member) is dict for member in members(kind))
        group = OF_FUNCTIONS.get(parameter.name, "input and output" if is_read else "command")
        yield Option(parameter.name, kind, parameter.default, text, group)
    if hasattr(function, "options"):
        own: Group = "command"
        yield from _of_fields(function.options, lambda n, owner: OF_FUNCTIONS.get(n) or OF_CLASSES.get(owner, own))


def _of_method(method: Any) -> Iterator[Option]:
    """The arguments of `fit`, then the run's options (the method's `options`), then the method's settings."""
    fits = [vars(base)["fit"] for base in reversed(method.__mro__) if "fit" in vars(base)]
    for parameter, kind, text in _parameters(method.fit, *fits):
        yield Option(parameter.name, kind, parameter.default, text, "input and output")
    yield from _of_fields(method.options, lambda name, owner: OF_CLASSES.get(owner, "input and output"))
    yield from _of_fields(method, lambda name, owner: OF_CLASSES.get(owner, "method"))


def _of_fields(kind: type, group: Callable[[str, str], Group]) -> Iterator[Option]:
    """The fields of a dataclass; `group` maps a field and the class that first declares it to its group."""
    owners, types, helps = dict[str, str](), dict[str, Any](), dict[str, str]()
    for base in reversed(kind.__mro__):
        annotations = vars(base).get("__annotations__", {})
        if annotations:
            explained = {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(base).params}
        for name, annotation in annotations.items():
            owners.setdefault(name, base.__name__)
            types[name] = _type_written(annotation)
            helps[name] = " ".join(explained.get(name, helps.get(name, "")).split())
    for field in fields(kind):
        default = REQUIRED if field.default is MISSING else field.default
        yield Option(field.name, types[field.name], default, helps[field.name], group(field.name, owners[field.name]))


def _parameters(
    function: Callable[..., Any], *overridden: Callable[..., Any]
) -> Iterator[tuple[inspect.Parameter, Any, str]]:
    """A function's parameters with their types and help, except those that only Python callers can give.

    Help that its docstring lacks comes from the functions that it overrides.
    """
    explained = {name: text for each in (*overridden, function) for name, text in _explained(each).items()}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in ("self", "on_step"):
            yield parameter, _type_written(parameter.annotation), explained.get(parameter.name, "")


def _explained(function: Callable[..., Any]) -> dict[str, str]:
    """The descriptions of a function's arguments in its docstring, by name."""
    parsed = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    return {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}


def _type_written(annotation: str) -> Any:
    """The part of an annotated type that can be written: its members in VALUES, or a string where it has none.

    Annotations may thus name types of modules that are not imported, such as torch: `Policy | str | Path` is a string.
    """
    node, nodes = ast.parse(annotation, mode="eval").body, list[ast.expr]()
    while isinstance(node, ast.BinOp):
        nodes.insert(0, node.right)
        node = node.left
    texts = [ast.unparse(member) for member in (node, *nodes)]
    kinds = [eval(text, dict(VALUES)) for text in texts if text.partition("[")[0] in VALUES]
    if not set(kinds) - {None}:
        kinds.append(str)
    if "Any" in texts:
        kinds.append(None)
    return Union[tuple(kinds)]  # noqa: UP007  (of members that are known only now)
