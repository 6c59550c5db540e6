"""What of a folder outlives a power cut, by what was synced of it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

OPEN, LIST = io.open, os.listdir
"""As they are before anything watches them."""

Tree = dict[str, bytes | None]
"""What is below a folder: bytes of files, and None for folders."""


class Durable:
    """What of a folder is on the disk: of each file what it had when it was synced, of each folder the names then.

    A file or folder is known by a number of its own, since the system gives an inode's number to others again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.folders: set[int] = set()
        self.ids: dict[int, int] = {}
        self.content: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        for path in [folder, *folder.rglob("*")]:
            self.sync(path)

    def id_of(self, path: Path) -> int:
        return self.ids.setdefault(path.lstat().st_ino, self._next())

    def _next(self) -> int:
        self.number += 1
        return self.number

    def sync(self, path: Path) -> None:
        if path.is_dir():
            self.folders.add(self.id_of(path))
            self.names[self.id_of(path)] = {one: self.id_of(path / one) for one in LIST(path)}
        else:
            self.content[self.id_of(path)] = _read(path)

    def about_to(self, what: str, path: Path) -> None:
        """Note what goes by a call, so that another that is given its inode is another."""
        goes = what in ("unlink", "rmdir", "rename") and path.exists()
        self.going = path.lstat().st_ino if goes else None

    def did(self, what: str, path: Path) -> None:
        if self.going is not None:
            self.ids.pop(self.going, None)
        if what == "mkdir":
            self.folders.add(self.id_of(path))
        if what == "fsync":
            self.sync(path)

    def trees(self) -> Iterator[Tree]:
        """What may be there after a power cut: nothing unsynced; or all names, and of contents nothing, or zeros."""
        kept: Tree = {}
        self._add(kept, "", self.id_of(self.folder))
        yield kept
        bare, zeros = dict[str, bytes | None](), dict[str, bytes | None]()
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_dir():
                bare[name] = zeros[name] = None
                continue
            synced, now = self.content.get(self.id_of(path), b""), _read(path)
            same = synced if now.startswith(synced) else b""
            bare[name], zeros[name] = synced, same + bytes(len(now) - len(same))
        yield bare
        yield zeros

    def _add(self, tree: Tree, folder: str, number: int) -> None:
        for name, inner in self.names.get(number, {}).items():
            path = f"{folder}/{name}" if folder else name
            if inner in self.folders:
                tree[path] = None
                self._add(tree, path, inner)
            else:
                tree[path] = self.content.get(inner, b"")


def _read(path: Path) -> bytes:
    with OPEN(path, "rb") as file:
        return bytes(file.read())
