"""One option of a command: its name, type and help, and the conversion of the value given for it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from accord.cli.other_names import REFUSED
from accord.errors import InputError, nearest
from accord.parsing import parse_yaml

REQUIRED = inspect.Parameter.empty

Group = Literal[
    "method",
    "command",
    "sampling",
    "training",
    "rewards and judges",
    "evaluation while training",
    "input and output",
    "chat template",
    "adapters",
    "memory",
    "compute",
]
"""The groups of options in the help, in its order."""

MAY_BE_EMPTY = ("hint",)
"""Options for which an empty string has a meaning though it is not their default."""

PASSED_ON = ("options", "overrides", "grid")
"""Options whose values belong to another command's options, which checks them."""


@dataclass(frozen=True)
class Option:
    """One option: its Python name, the part of its type that can be typed, its default, its help and its group."""

    name: str
    type: Any
    default: Any
    help: str
    group: Group

    @property
    def flag(self) -> str:
        """Its spelling on the command line, such as --learning-rate."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_flag(self) -> bool:
        """Whether it may be given without a value."""
        return self.type is bool

    @property
    def is_mapping(self) -> bool:
        """Whether it takes named values, as --models.NAME VALUE."""
        return any(get_origin(member) is dict for member in members(self.type))

    @property
    def is_list(self) -> bool:
        """Whether several values may be given, as --data a.jsonl b.jsonl."""
        return any(get_origin(member) is list for member in members(self.type))

    def names_in(self, value: Any) -> dict[str, str] | None:
        """The named values in a string such as prompt=question,chosen=best; None where the string or option has none.

        A part without a name belongs to the value before it: label=ann,bob. Raises InputError where a name occurs
        twice, or is missing before a =.
        """
        if not (self.is_mapping and isinstance(value, str) and "=" in value) or str in members(self.type):
            return None
        named: dict[str, str] = {}
        for part in value.split(","):
            name, equals, typed = (text.strip() for text in part.partition("="))
            if equals or not named:
                self.require_new(name, named)
                named[name] = typed
            else:
                named[list(named)[-1]] += f",{part}"
        return named

    def require_new(self, name: str, named: Collection[str]) -> None:
        """Raise InputError where the name is empty, or already among the named values."""
        if not name:
            raise InputError(f"{self.flag} has a value without a name; write {self.flag} NAME=VALUE.")
        if name in named:
            raise InputError(f"{self.flag} names {name} twice; give each name one value.")

    def read(self, value: Any) -> Any:
        """The value converted to the option's type, from a string as typed or a value from YAML.

        Raises InputError where it does not fit.
        """
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        if value == "null" and NoneType in members(self.type):
            return None
        if _is_empty(value) and self.default != "" and self.name not in MAY_BE_EMPTY:
            raise InputError(f"{self.flag} is empty; give it a value, or leave it out.")
        if any("\0" in text for text in _texts(value)):
            raise InputError(f"{self.flag} contains a NUL character; remove it.")
        value = self.names_in(value) or value
        adapter: TypeAdapter[Any] = TypeAdapter(self.type, config=ConfigDict(coerce_numbers_to_str=True))
        readings = list(_readings(value))
        if "list[" in str(self.type):  # "[a, b]" is a list where a string fits too
            readings = [*(_with_lists(value)), *readings]
        readings += [[value]] if self.is_list else []  # a list may be given as its only element
        for candidate in readings:
            if _is_bool(candidate) and bool not in members(self.type):  # pydantic would read it as 0 or 1
                continue
            try:
                read = adapter.validate_python(candidate)
            except ValidationError:
                continue
            if read == read:  # no option is NaN
                return self._checked(read)
        why = REFUSED.get((self.name, str(value)))
        near = f": {why}." if why else nearest(str(value), choices(self.type)) or "."
        raise InputError(f"{self.flag} must be {_wanted(self)}, not {_shown(value)}{near}")

    def _checked(self, read: Any) -> Any:
        """The value itself; InputError where it is an empty list or mapping, or an integer beyond 64 bits."""
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
    """Options keyed by their Python names; InputError where two keys are spellings of one name."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in named:
            raise InputError(f"{where} has {name} twice, with - and with _ or as a number and a text; give it once.")
        named[name] = value
    return named


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _readings(value: Any) -> Iterator[Any]:
    """The value as given, then as YAML parses the strings in it."""
    yield value
    try:
        if isinstance(value, str):
            yield parse_yaml(value)
        elif isinstance(value, Mapping):
            yield {k: parse_yaml(v) if isinstance(v, str) else v for k, v in value.items()}
    except yaml.YAMLError:
        return


def _with_lists(value: Any) -> Iterator[Any]:
    """The value with lists and mappings for the texts that write them; YAML would cut other texts, as at a #."""
    try:
        if isinstance(value, Mapping):
            yield {name: parse_yaml(one) if _writes_several(one) else one for name, one in value.items()}
        elif _writes_several(value):
            yield parse_yaml(value)
    except yaml.YAMLError:
        return


def _writes_several(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith(("[", "{"))


def _texts(value: Any) -> list[str]:
    """The strings in a value, a list of values, or a mapping of named values."""
    several = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [one for one in several if isinstance(one, str)]


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(isinstance(one, bool) for one in value))


def _is_empty(value: Any) -> bool:
    """Whether a string, or one in a list, is empty, as from an unset shell variable."""
    return value == "" or (isinstance(value, list) and "" in value)


def choices(kind: Any) -> list[str]:
    """The values of a Literal type."""
    return [str(choice) for member in members(kind) if get_origin(member) is Literal for choice in get_args(member)]


_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _wanted(option: Option) -> str:
    if option.is_mapping:
        kind = metavar(option.type).removeprefix(".NAME ")
        value = "VALUE" if "TEXT" in kind else kind
        return f"given by names, as {option.flag}.NAME {value} or {option.flag} NAME={value}"
    if allowed := choices(option.type):
        return f"one of {', '.join(allowed)}"
    return " or ".join(
        _WANTED.get(member, "several values separated by spaces")
        for member in members(option.type)
        if member is not NoneType
    )


def metavar(kind: Any) -> str:
    """The placeholder in the help for a value of this type: ` N`, ` TEXT ...`, `.NAME TEXT`."""
    for member in members(kind):
        if get_origin(member) is dict:
            return f".NAME{metavar(get_args(member)[1])}"
        if get_origin(member) is Literal:
            return f" {'|'.join(map(str, get_args(member)))}"
        if get_origin(member) is list:
            return f"{metavar(get_args(member)[0])} ..."
    return {int: " N", float: " X"}.get(next(m for m in members(kind) if m is not NoneType), " TEXT")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()
