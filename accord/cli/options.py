"""A command's options, read off the types of what it calls: a function's signature, or a method's settings and `fit`.

What is said of an option is what the docstrings say: `Args:` of functions, and the docstring under a dataclass's field.
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

from accord.cli.option import REQUIRED, Group, Option, members, metavar

MOST_IMPORTANT = (
    "database", "model", "models", "data", "seeds", "generator", "constitution", "score", "count", "task", "people",
    "overlap", "guidelines", "reward", "judge", "against", "teacher", "verifier", "out", "n", "beta", "tau",
    "group_size", "rounds", "kl_coefficient", "learning_rate", "batch_size", "epochs", "max_steps", "max_new_tokens",
    "temperature",
)  # fmt: skip
"""What matters most where a command has MANY options; the help begins with at most SHOWN_FIRST of them."""
SHOWN_FIRST, MANY = 10, 14

VALUES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "None": None, "Literal": Literal,
    "dict": dict, "Mapping": dict, "list": list, "Sequence": list,
    "Source": str | list[str] | dict[str, float],
}  # fmt: skip
"""What can be written on a command line or in YAML, by its name in annotations."""

OF_FUNCTIONS: dict[str, Group] = {
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "stop"), "sampling"),
    **dict.fromkeys(("seed", "dtype", "max_length", "tokens_per_pass"), "compute"),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "system"), "chat template"),
    **dict.fromkeys(("data", "out", "split", "limit", "columns", "model", "reference"), "input and output"),
}
"""The groups of options that many functions have; what is required is input or output too."""

OF_CLASSES: dict[str, Group] = {
    "OptimizerConfig": "training", "AdapterConfig": "adapters", "MemoryConfig": "memory", "TrainingConfig": "training",
    "TemplateOptions": "chat template", "SamplerConfig": "sampling", "SamplingConfig": "sampling",
    "DialogueMethod": "sampling", "RewardOptions": "rewards and judges",
    "PolicyOptions": "evaluation while training", "HeldOutOptions": "evaluation while training",
}  # fmt: skip
"""The groups of fields that methods, and what their `fit` takes, inherit, by the class that declares them first."""


@functools.cache
def options_of(target: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a function, or of a method: its `fit`, the fields of its class, and how a run is run."""
    listed = _of_method(target) if inspect.isclass(target) else _of_function(target)
    return {option.name: option for option in listed}


def help_text(usage: str, target: Callable[..., Any], options: Collection[Option], whole: str = "") -> str:
    """The page that explains a command: what it does, then its options in groups, the ten that matter first.

    With `whole`, which shows the whole page, it ends after the options that only this command has.
    """
    first: list[Option] = []
    if len(options) > MANY:
        rank = {name: place for place, name in enumerate(MOST_IMPORTANT)}
        ranked = sorted(options, key=lambda option: rank.get(option.name, len(rank)))
        chosen = [*(o for o in ranked if o.default is REQUIRED), *(o for o in ranked if o.name in rank)]
        first = sorted(list(dict.fromkeys(chosen))[:SHOWN_FIRST], key=ranked.index)
    groups = {"what matters most": first}
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
    text = (option.help[:1].upper() + option.help[1:]).partition("; in Python also")[0].removesuffix(".")
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
    """What `fit` takes, then how a run is run (the method's `options`), then the method's settings."""
    fits = [vars(base)["fit"] for base in reversed(method.__mro__) if "fit" in vars(base)]
    for parameter, kind, text in _parameters(method.fit, *fits):
        yield Option(parameter.name, kind, parameter.default, text, "input and output")
    yield from _of_fields(method.options, lambda name, owner: OF_CLASSES.get(owner, "input and output"))
    yield from _of_fields(method, lambda name, owner: OF_CLASSES.get(owner, "method"))


def _of_fields(kind: type, group: Callable[[str, str], Group]) -> Iterator[Option]:
    """The fields of a dataclass; `group` is of a field's name and the name of the class that first declares it."""
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
    """A function's parameters with their types and what is said of them, but for those that only Python gives.

    What it does not say itself is said by the functions that it overrides.
    """
    explained = {name: text for each in (*overridden, function) for name, text in _explained(each).items()}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in ("self", "on_step"):
            yield parameter, _type_written(parameter.annotation), explained.get(parameter.name, "")


def _explained(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a function says of its arguments, by their names."""
    parsed = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    return {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}


def _type_written(annotation: str) -> Any:
    """The type of what can be written for an annotation: its members that are VALUES, or a text where it has none.

    So annotations may name what torch brings, whose modules are not imported: `Policy | str | Path` is a text.
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
