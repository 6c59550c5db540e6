"""Numbers side by side in memory, which are read as a tuple of them is.

A tuple takes 40 bytes for a token and 32 for a log-probability, an object each; here they are 4 and 8. What is made by
the million, samples and the rows that are trained on, is made of these; whoever takes them takes tuples too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import calcsize, pack
from typing import Any, ClassVar, TypeAlias, TypeVar, overload

from typing_extensions import Self

T = TypeVar("T", int, float, bool)


class Numbers(Sequence[T]):
    """Numbers of one kind, which do not change: it is equal to a tuple of them, hashed as that, and added to it.

    `raw` is what memory holds of them. Raises struct.error where one is not of the kind, or too large for it.
    """

    __slots__ = ("raw",)
    kind: ClassVar[str]
    """The kind of number, by the letter that `struct` has for it."""

    def __init__(self, numbers: Iterable[T] = ()) -> None:
        if isinstance(numbers, type(self)):
            self.raw: bytes = numbers.raw
        else:
            listed = tuple(numbers)
            self.raw = pack(f"{len(listed)}{self.kind}", *listed)

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """The numbers that memory holds so."""
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
    """Whole numbers of four bytes, such as tokens."""

    __slots__ = ()
    kind = "i"


class Doubles(Numbers[float]):
    """Numbers of eight bytes, such as log-probabilities: those that Python has, bit for bit."""

    __slots__ = ()
    kind = "d"


class Bools(Numbers[bool]):
    """True or false, in a byte."""

    __slots__ = ()
    kind = "?"


Tokens: TypeAlias = Ints | tuple[int, ...]
LogProbs: TypeAlias = Doubles | tuple[float, ...]
Flags: TypeAlias = Bools | tuple[bool, ...]
