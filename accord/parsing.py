"""YAML and JSON written by people, parsed completely or refused.

Refused are duplicate keys, of which the usual parsers silently keep the last, and YAML whose aliases (`&a`, `*a`)
expand without bound (a "billion laughs" file), measured before anything is built.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import stat
from contextlib import suppress
from typing import Any

import yaml

from accord.errors import InputError

MOST = 100_000
"""The most values that YAML with aliases may expand to."""

DEEPEST = 100
"""The deepest nesting of lists and mappings."""

PATIENCE = 10.0
"""Seconds to wait for data on a pipe."""

NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""The flag that opens a pipe without waiting for a writer."""


SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
"""What words for true and false are, where nothing says whether a text or one of these is wanted."""


class Repeated(ValueError):
    """A key occurs twice in a JSON object."""


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text; `options` are arguments of `json.loads`. Raises Repeated where a key occurs twice."""
    return json.loads(text, object_pairs_hook=_unique, **options)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Repeated(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice in an object")
    return mapping


def read_content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file or a pipe that the user names.

    Raises OSError also where it is a device, which may have no end, or a pipe that nobody writes to.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAIT)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a device, not a file", os.fspath(path))
        if not stat.S_ISFIFO(mode):
            return file.read()
        parts = list[bytes]()
        while select.select([file], [], [], PATIENCE)[0]:
            with suppress(BlockingIOError):
                if not (part := os.read(file.fileno(), 1 << 16)):
                    return b"".join(parts)
                parts.append(part)
        raise OSError(errno.EINVAL, "it is a pipe that nobody writes to", os.fspath(path))


def read_yaml(path: str | os.PathLike[str], called: str) -> Any:
    """The value of a YAML file; InputError, with the file's name in messages (`called`), where it cannot be used."""
    try:
        return parse_yaml(read_content(path))
    except OSError as error:
        raise InputError(f"{called} {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{called} {path} is not valid YAML: {error}.") from None


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text; `yaml.YAMLError`, one line that says where and why, where it cannot be used."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        lines = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).splitlines()
        is_unquoted = mark and "${" in "".join(lines[mark.line : mark.line + 1])
        quote = '; within { } and [ ], put what has ${...} in it in quotes: "${name}/model"' if is_unquoted else ""
        raise yaml.YAMLError(f"{where}{error.problem or error.context}{quote}") from None
    except yaml.YAMLError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a number that does not exist
        raise yaml.YAMLError(f"a value cannot be read ({error})") from None


def parse_untyped(text: str) -> Any:
    """The value of a YAML text whose type nobody knows: as of `parse_yaml`, but yes, no, on and off are true and
    false."""
    value = parse_yaml(text)
    return SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


UNLIKE = [f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "bool", "int", "float")]
"""The kinds of plain values that are not read as YAML 1.1 reads them."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses duplicate keys and values that expand or nest beyond the limits.

    Texts are what would be dates, 1:30 (90 in YAML 1.1, in base 60), 010 (8) and yes, no, on and off (true and false):
    whoever wrote them mostly meant something else, and what needs a number or true or false converts a text itself.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in UNLIKE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        size, depth = (0, 0) if node is None else _measure(node, {})
        if self.is_aliased and size > MOST:
            raise yaml.YAMLError(f"its aliases expand to {size:,} values, more than the {MOST:,} allowed")
        if depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested {depth:,} deep, more than the {DEEPEST} allowed")
        return node

    is_aliased = False

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.is_aliased |= bool(self.check_event(yaml.AliasEvent))
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # PyYAML itself refuses other keys, which are not hashable
                is_merge = key.tag == "tag:yaml.org,2002:merge"
                known = (is_merge, key.value if is_merge else self.construct_object(key))
                if known in seen:
                    raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} twice in a mapping", key.start_mark)
                seen.add(known)
        return node


for _kind, _first, _written in (
    ("bool", "tTfF", "true|True|TRUE|false|False|FALSE"),
    ("int", "-+0123456789", r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)"),
    ("float", "-+.0123456789", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?"),
    ("float", "-+.", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_written})$"), list(_first))


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """The number of values a node expands to, and their nesting depth; `known` caches these by the node's id."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise yaml.MarkedYAMLError(None, None, "a value that contains itself", node.start_mark)
        return measured
    known[id(node)] = None
    inside = [one for pair in node.value for one in (pair if isinstance(pair, tuple) else (pair,))]
    sizes = [_measure(one, known) for one in inside]
    known[id(node)] = found = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    return found
