"""Open text files: their compression and encoding, and what is in them where that is no text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from accord.console import error_text
from accord.errors import InputError


def _open_zstandard(path: Path) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
    ".zstd": _open_zstandard,
}

MAX_RATIO, MIN_LIMIT = 200, 2**28
"""A compressed file may expand to `MAX_RATIO` times its size, or to `MIN_LIMIT` bytes if that is more."""


BEGINNINGS = {
    b"version https://git-lfs.": ("a pointer of git-lfs in place of the data: fetch them by git lfs pull", ()),
    b"\x1f\x8b": ("compressed by gzip: add .gz to its name", (".gz",)),
    b"BZh": ("compressed by bzip2: add .bz2 to its name", (".bz2",)),
    b"\xfd7zXZ": ("compressed by xz: add .xz to its name", (".xz",)),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard: add .zst to its name", (".zst", ".zstd")),
    b"PK\x03\x04": ("a zip archive, or a spreadsheet: unpack it, or save the sheet as .csv", ()),
    b"PAR1": ("a Parquet file: name it .parquet", (".parquet",)),
    b"ARROW1": ("an Arrow file: name it .arrow", (".arrow", ".feather")),
}
"""How files of some kinds begin: what each is, and the suffixes that it has."""


def require_kind(path: Path) -> None:
    """Raise InputError for a file whose beginning shows another kind than its name."""
    try:
        with path.open("rb") as file:
            begin = file.read(64)
    except OSError:
        return  # told where it is read
    for sign, (what, suffixes) in BEGINNINGS.items():
        if begin.startswith(sign) and path.suffix.lower() not in suffixes:
            raise InputError(f"{path} is {what}")
    if path.suffix.lower() not in (".txt", ".md") and re.match(rb"\s*<(!doctype|html)", begin, re.IGNORECASE):
        raise InputError(f"{path} is a web page in place of the data: download the file itself")


class _Decompressed(io.RawIOBase):
    """The content of a compressed file. Raises InputError beyond the limit on its size, against decompression bombs."""

    def __init__(self, path: Path, packed: IO[bytes]) -> None:
        self.path, self.packed = path, packed
        self.limit, self.seen = max(MIN_LIMIT, MAX_RATIO * path.stat().st_size), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self.packed.readinto(buffer)  # type: ignore[attr-defined]
        self.seen += size
        if self.seen > self.limit:
            raise InputError(
                f"{self.path} expands to more than {MAX_RATIO} times its size, which no data should; decompress it and "
                "check its content"
            )
        return int(size)

    def close(self) -> None:
        self.packed.close()
        super().close()


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a text file, decompressed if need be. Raises InputError if it cannot be read or is not UTF-8."""
    require_kind(path)
    try:
        opener = OPENERS.get(path.suffix.lower())
        binary = io.BufferedReader(_Decompressed(path, opener(path)), 1 << 16) if opener else path.open("rb")
        file = io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        with file:
            yield file
    except UnicodeDecodeError as error:
        if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") and error.start == 0:
            raise InputError(f"{path} is UTF-16 text: save it as UTF-8") from None
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be read to its end ({error_text(error)})") from None
