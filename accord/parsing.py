"""YAML and JSON as people write them, read whole or refused.

Refused are a key that stands twice, of which the usual parsers keep the last, and YAML whose aliases (`&a`, `*a`)
unfold without end, which is counted before it is made.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
from contextlib import suppress
from typing import Any

import yaml

from accord.errors import InputError

MOST = 100_000
"""Values that a YAML with aliases may unfold to."""

DEEPEST = 100
"""Lists and mappings within each other."""

PATIENCE = 10.0
"""Seconds without anything from a pipe."""
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""To open a pipe without waiting for who writes to it."""


class Repeated(ValueError):
    """A key stands twice in an object."""


def parse_json(text: str | bytes, **given: Any) -> Any:
    """What a JSON text holds, as `json.loads` with what is given reads it; Repeated where a key stands twice."""
    return json.loads(text, object_pairs_hook=_unique, **given)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Repeated(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice in an object")
    return found


def read_content(path: str | os.PathLike[str]) -> bytes:
    """What is in a file that a person names, or comes by a pipe.

    OSError also where it is a device, of which there may be no end, or nobody writes to the pipe.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAIT)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a device, and no file", os.fspath(path))
        if not stat.S_ISFIFO(mode):
            return file.read()
        parts = list[bytes]()
        while select.select([file], [], [], PATIENCE)[0]:
            with suppress(BlockingIOError):
                if not (part := os.read(file.fileno(), 1 << 16)):
                    return b"".join(parts)
                parts.append(part)
        raise OSError(errno.EINVAL, "it is a pipe to which nobody writes", os.fspath(path))


def read_yaml(path: str | os.PathLike[str], called: str) -> Any:
    """What a YAML file holds; InputError, by what the file is `called`, where it cannot be read or used."""
    try:
        return parse_yaml(read_content(path))
    except OSError as error:
        raise InputError(f"{called} {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{called} {path} is not YAML that can be used: {error}.") from None


def parse_yaml(text: str | bytes) -> Any:
    """What a YAML text holds; `yaml.YAMLError`, a line that says where and why, where it cannot be used."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise yaml.YAMLError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date or a number that there is not
        raise yaml.YAMLError(f"a value cannot be read ({error})") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses keys that stand twice, and what unfolds or nests beyond measure."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        size, depth = (0, 0) if node is None else _measure(node, {})
        if self.is_aliased and size > MOST:
            raise yaml.YAMLError(f"its aliases unfold to {size:,} values, of which {MOST:,} are allowed")
        if depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested {depth:,} deep, and {DEEPEST} is allowed")
        return node

    is_aliased = False

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.is_aliased |= bool(self.check_event(yaml.AliasEvent))
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # others are refused, as they cannot be looked up
                is_merge = key.tag == "tag:yaml.org,2002:merge"
                known = (is_merge, key.value if is_merge else self.construct_object(key))
                if known in seen:
                    raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} twice in a mapping", key.start_mark)
                seen.add(known)
        return node


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node unfolds to, and how deep they nest; `known` has those of nodes that were measured."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise yaml.MarkedYAMLError(None, None, "a part that holds itself", node.start_mark)
        return measured
    known[id(node)] = None
    inside = [one for pair in node.value for one in (pair if isinstance(pair, tuple) else (pair,))]
    sizes = [_measure(one, known) for one in inside]
    known[id(node)] = found = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    return found
