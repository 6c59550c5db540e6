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
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser
import yaml

from accord.errors import InputError, nearest
from accord.parsing import parse_yaml

REQUIRED = inspect.Parameter.empty

Group = Literal[
    "reads and writes",
    "the method's own",
    "the command's own",
    "training",
    "sampling",
    "adapters",
    "memory",
    "computing",
    "watching",
]

FIRST = (
    "database", "model", "models", "data", "seeds", "generator", "constitution", "score", "count", "task", "people",
    "overlap", "guidelines", "reward", "judge", "teacher", "verifier", "out", "beta", "tau", "group_size", "rounds",
    "kl_coefficient", "learning_rate", "batch_size", "epochs", "max_steps", "max_new_tokens", "temperature",
)  # fmt: skip
"""What matters most where a command has many options; the help begins with at most TEN of them."""

TEN, MANY = 10, 14

VALUES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "None": None, "Literal": Literal,
    "dict": dict, "Mapping": dict, "list": list, "Sequence": list,
    "Source": str | list[str] | dict[str, float],
}  # fmt: skip
"""What can be written on a command line or in YAML, by its name in annotations."""

OF_FUNCTIONS: dict[str, Group] = {
    **dict.fromkeys(("max_new_tokens", "temperature", "top_k", "top_p"), "sampling"),
    **dict.fromkeys(("seed", "dtype", "max_length", "tokens_per_pass"), "computing"),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "system"), "reads and writes"),
    **dict.fromkeys(("data", "out", "split", "limit", "columns", "model", "reference"), "reads and writes"),
}
"""The groups of functions' options that are not their own; what is required is read or written too."""

OF_CLASSES: dict[str, Group] = {
    "OptimizerConfig": "training", "AdapterConfig": "adapters", "MemoryConfig": "memory", "TemplateOptions": "training",
    "TrainingConfig": "training", "SamplerConfig": "sampling", "SamplingConfig": "sampling",
    "DialogueMethod": "sampling",
    "PolicyOptions": "watching", "HeldOutOptions": "watching", "RewardOptions": "watching",
}  # fmt: skip
"""The groups of fields that methods, and what their `fit` takes, inherit, by the class that declares them first."""


MAY_BE_EMPTY = ("hint",)
"""Options to which an empty text means something, beside those whose default it is."""


PASSED_ON = ("options", "overrides", "grid")
"""Options whose values are those of other commands' options, which are read there."""


@dataclass(frozen=True)
class Option:
    """One option: its name in Python, its type as far as it can be written, its default and what is said of it."""

    name: str
    type: Any
    default: Any
    help: str
    group: Group

    @property
    def flag(self) -> str:
        """How it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_flag(self) -> bool:
        """Whether it may stand without a value."""
        return self.type is bool

    @property
    def is_mapping(self) -> bool:
        """Whether it is given by names, as --models.NAME VALUE."""
        return any(get_origin(member) is dict for member in _members(self.type))

    @property
    def is_list(self) -> bool:
        """Whether several values may be given, as --data a.jsonl b.jsonl."""
        return any(get_origin(member) is list for member in _members(self.type))

    def names_in(self, value: Any) -> dict[str, str] | None:
        """What a text gives by names, as prompt=question,chosen=best; None where it is none, or no such option's.

        What has no name of its own belongs to the value before it: label=ann,bob. Raises InputError where a name stands
        twice, or there is none before a =.
        """
        if not (self.is_mapping and isinstance(value, str) and "=" in value) or str in _members(self.type):
            return None
        named: dict[str, str] = {}
        for part in value.split(","):
            name, equals, said = (text.strip() for text in part.partition("="))
            if equals or not named:
                self.require_new(name, named)
                named[name] = said
            else:
                named[list(named)[-1]] += f",{part}"
        return named

    def require_new(self, name: str, named: Collection[str]) -> None:
        """Raise InputError where what is given by names has this one already, or it is none."""
        if not name:
            raise InputError(f"{self.flag} has a value without a name; write {self.flag} NAME=VALUE.")
        if name in named:
            raise InputError(f"{self.flag} names {name} twice; give each name one value.")

    def read(self, value: Any) -> Any:
        """The value in the option's type: of a text as it is typed, or of what YAML made of it.

        Raises InputError where it does not fit.
        """
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        if value == "null" and NoneType in _members(self.type):
            return None
        if _is_empty(value) and self.default != "" and self.name not in MAY_BE_EMPTY:
            raise InputError(f"{self.flag} is empty; give it a value, or leave it out.")
        if any("\0" in text for text in _texts(value)):
            raise InputError(f"{self.flag} has a NUL character, which stands in no text; write it anew.")
        value = self.names_in(value) or value
        adapter: TypeAdapter[Any] = TypeAdapter(self.type, config=ConfigDict(coerce_numbers_to_str=True))
        # Where one text or a list of them fits, "[a, b]" is a list.
        readings = list(_readings(value))[:: -1 if "list[" in str(self.type) else 1]
        readings += [[value]] if self.is_list else []  # of several one is enough
        for candidate in readings:
            if _is_bool(candidate) and bool not in _members(self.type):  # which pydantic takes for 0 and 1
                continue
            try:
                read = adapter.validate_python(candidate)
            except ValidationError:
                continue
            if read == read:  # no option is NaN
                return self._checked(read)
        near = nearest(str(value), _choices(self.type)) or "."
        raise InputError(f"{self.flag} must be {_wanted(self)}, not {_shown(value)}{near}")

    def _checked(self, read: Any) -> Any:
        """The value, where it is one at all. Raises InputError where it is an empty list, or beyond what any counts."""
        if isinstance(read, dict) and self.name not in PASSED_ON:
            for name, one in read.items():
                if _is_empty(one):
                    raise InputError(f"{self.flag}.{name} is empty; give it a value, or leave it out.")
        if read in ([], {}):
            raise InputError(f"{self.flag} is empty; give it a value, or leave it out.")
        for one in read if isinstance(read, list) else [read]:
            if type(one) is int and self.name == "seed" and not 0 <= one < 2**63:
                raise InputError(f"seed must be from 0 to 2^63 - 1, not {one}.")
            if type(one) is int and abs(one) >= 2**63:
                raise InputError(f"{self.flag} must be below 2^63, not {one}.")
        return read


def in_python(values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Values by the names that their options have in Python; InputError where two names are one, spelled apart."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in found:
            raise InputError(f"{where} has {name} twice, with - and with _ or as a number and a text; give it once.")
        found[name] = value
    return found


@functools.cache
def options_of(target: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a function, or of a method: its `fit`, the fields of its class, and how a run is run."""
    listed = _of_method(target) if inspect.isclass(target) else _of_function(target)
    return {option.name: option for option in listed}


def help_text(usage: str, target: Callable[..., Any], options: Collection[Option]) -> str:
    """The page that explains a command: what it does, then its options in groups, the ten that matter first."""
    first: list[Option] = []
    if len(options) > MANY:
        ranked = sorted(options, key=lambda o: FIRST.index(o.name) if o.name in FIRST else len(FIRST))
        chosen = [*(o for o in ranked if o.default is REQUIRED), *(o for o in ranked if o.name in FIRST)]
        first = sorted(list(dict.fromkeys(chosen))[:TEN], key=ranked.index)
    groups = {"what matters most": first}
    for group in get_args(Group):
        groups[group] = [option for option in options if option.group == group and option not in first]
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    sections = [f"{name}:\n" + "\n".join(_line(o, width) for o in some) for name, some in groups.items() if some]
    return "\n\n".join([usage, inspect.cleandoc(target.__doc__ or "").split("\n\nArgs:")[0], *sections])


def _line(option: Option, width: int) -> str:
    head = f"  {option.flag}" + ("" if option.is_flag else _metavar(option.type))
    if option.is_flag and option.default is True:
        head = f"  --no-{option.flag[2:]}"
    text = option.help[:1].upper() + option.help[1:]
    if option.default is REQUIRED:
        text += " (required)"
    elif option.is_flag:
        text += " (default: on)" if option.default else ""
    elif option.default not in (None, ""):
        text += f" (default: {option.default})"
    indent = " " * 28
    begin = f"{head:<28}" if len(head) < 27 else f"{head}\n{indent}"
    return begin + textwrap.fill(text, width - 28).replace("\n", f"\n{indent}")


def _of_function(function: Callable[..., Any]) -> Iterator[Option]:
    for parameter, kind, text in _parameters(function):
        is_read = parameter.default is REQUIRED or any(get_origin(member) is dict for member in _members(kind))
        group = OF_FUNCTIONS.get(parameter.name, "reads and writes" if is_read else "the command's own")
        yield Option(parameter.name, kind, parameter.default, text, group)
    if hasattr(function, "options"):
        own: Group = "the command's own"
        yield from _of_fields(function.options, lambda n, owner: OF_FUNCTIONS.get(n) or OF_CLASSES.get(owner, own))


def _of_method(method: Any) -> Iterator[Option]:
    """What `fit` takes, then how a run is run (the method's `options`), then the method's settings."""
    fits = [vars(base)["fit"] for base in reversed(method.__mro__) if "fit" in vars(base)]
    for parameter, kind, text in _parameters(method.fit, *fits):
        yield Option(parameter.name, kind, parameter.default, text, "reads and writes")
    yield from _of_fields(method.options, lambda name, owner: OF_CLASSES.get(owner, "reads and writes"))
    yield from _of_fields(method, lambda name, owner: OF_CLASSES.get(owner, "the method's own"))


def _of_fields(kind: type, group: Callable[[str, str], Group]) -> Iterator[Option]:
    """The fields of a dataclass; `group` is of a field's name and the name of the class that first declares it."""
    owners, types, helps = dict[str, str](), dict[str, Any](), dict[str, str]()
    for base in reversed(kind.__mro__):
        annotations = vars(base).get("__annotations__", {})
        if annotations:
            said = {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(base).params}
        for name, annotation in annotations.items():
            owners.setdefault(name, base.__name__)
            types[name] = _written(annotation)
            helps[name] = " ".join(said.get(name, helps.get(name, "")).split())
    for field in fields(kind):
        default = REQUIRED if field.default is MISSING else field.default
        yield Option(field.name, types[field.name], default, helps[field.name], group(field.name, owners[field.name]))


def _parameters(
    function: Callable[..., Any], *overridden: Callable[..., Any]
) -> Iterator[tuple[inspect.Parameter, Any, str]]:
    """A function's parameters with their types and what is said of them, but for those that only Python gives.

    What it does not say itself is said by the functions that it overrides.
    """
    said = {name: text for each in (*overridden, function) for name, text in _said(each).items()}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in ("self", "on_step"):
            yield parameter, _written(parameter.annotation), said.get(parameter.name, "")


def _said(function: Callable[..., Any]) -> dict[str, str]:
    parsed = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    return {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}


def _written(annotation: str) -> Any:
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


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _readings(value: Any) -> Iterator[Any]:
    """The value, and what YAML makes of the texts in it."""
    yield value
    try:
        if isinstance(value, str):
            yield parse_yaml(value)
        elif isinstance(value, Mapping):
            yield {k: parse_yaml(v) if isinstance(v, str) else v for k, v in value.items()}
    except yaml.YAMLError:
        return


def _texts(value: Any) -> list[str]:
    """The texts in a value, which is one, or several, or some by names."""
    several = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [one for one in several if isinstance(one, str)]


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(isinstance(one, bool) for one in value))


def _is_empty(value: Any) -> bool:
    """Whether a text is empty, or one of several is, as where a shell knows no such variable."""
    return value == "" or (isinstance(value, list) and "" in value)


def _choices(kind: Any) -> list[str]:
    return [str(choice) for member in _members(kind) if get_origin(member) is Literal for choice in get_args(member)]


_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _wanted(option: Option) -> str:
    if option.is_mapping:
        kind = _metavar(option.type).removeprefix(".NAME ")
        value = "VALUE" if "TEXT" in kind else kind
        return f"given by names, as {option.flag}.NAME {value} or {option.flag} NAME={value}"
    choices = _choices(option.type)
    if choices:
        return f"one of {', '.join(choices)}"
    return " or ".join(
        _WANTED.get(member, "several with spaces between") for member in _members(option.type) if member is not NoneType
    )


def _metavar(kind: Any) -> str:
    for member in _members(kind):
        if get_origin(member) is dict:
            return f".NAME{_metavar(get_args(member)[1])}"
        if get_origin(member) is Literal:
            return f" {'|'.join(map(str, get_args(member)))}"
        if get_origin(member) is list:
            return " TEXT ..."
    return {int: " N", float: " X"}.get(next(m for m in _members(kind) if m is not NoneType), " TEXT")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()
