"""Immutable arrays of numbers, stored compactly and read like tuples.

In a tuple a token takes 40 bytes and a log-probability 32, since each is a Python object; here they take 4 and 8.
Samples and training rows, of which there are millions, hold these; functions that read them accept tuples too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import calcsize, pack
from typing import Any, ClassVar, TypeAlias, TypeVar, overload

from typing_extensions import Self

T = TypeVar("T", int, float, bool)


class Numbers(Sequence[T]):
    """An immutable array of one kind of number; compares equal to, hashes like and concatenates with a tuple.

    `raw` is its bytes. Raises struct.error where a number has another type or is too large.
    """

    __slots__ = ("raw",)
    kind: ClassVar[str]
    """The `struct` format character of the kind of number."""

    def __init__(self, numbers: Iterable[T] = ()) -> None:
        if isinstance(numbers, type(self)):
            self.raw: bytes = numbers.raw
        else:
            listed = tuple(numbers)
            self.raw = pack(f"{len(listed)}{self.kind}", *listed)

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """The array stored in these bytes."""
        made = cls.__new__(cls)
        made.raw = raw
        return made

    def _read(self) -> memoryview:
        return memoryview(self.raw).cast(self.kind)  # type: ignore[call-overload, no-any-return]

    def __len__(self) -> int:
        return len(self.raw) // calcsize(self.kind)

    def __iter__(self) -> Iterator[T]:
        return iter(self._read())  # type: ignore[arg-type]

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Self: ...
    def __getitem__(self, at: int | slice) -> T | Self:
        found: Any = self._read()[at]
        return self.of(found.tobytes()) if isinstance(at, slice) else found

    def __eq__(self, other: object) -> bool:
        if type(other) is type(self):
            return self.raw == other.raw
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Self | tuple[T, ...]) -> Self:
        if not isinstance(other, (tuple, type(self))):
            return NotImplemented
        return self.of(self.raw + type(self)(other).raw)

    def __radd__(self, other: tuple[T, ...]) -> Self:
        return type(self)(other) + self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.raw,)


class Ints(Numbers[int]):
    """Whole numbers of four bytes, such as token ids."""

    __slots__ = ()
    kind = "i"


class Doubles(Numbers[float]):
    """Floating-point numbers of eight bytes, such as log-probabilities: Python's floats, bit for bit."""

    __slots__ = ()
    kind = "d"


class Bools(Numbers[bool]):
    """Truth values of one byte."""

    __slots__ = ()
    kind = "?"


Tokens: TypeAlias = Ints | tuple[int, ...]
LogProbs: TypeAlias = Doubles | tuple[float, ...]
Flags: TypeAlias = Bools | tuple[bool, ...]
