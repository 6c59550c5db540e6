"""Base classes of evaluation results: the parts of a result, its file, and how it is printed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from rich.console import Console, Group
from rich.table import Table
from typing_extensions import Self

from accord.console import show, status, without_halves, without_secrets
from accord.dates import today
from accord.outputs import save_text
from accord.results.intervals import Interval

if TYPE_CHECKING:
    from pandas import DataFrame


Name: TypeAlias = Annotated[str, AfterValidator(without_secrets)]
"""The name of a judge or reward as given, with secrets in URLs removed."""

FILE = "evaluation.json"
"""The file of a result in its folder."""


def called(name: str) -> str:
    """A short name for a path: a file's own name, a model's run folder; other names are returned as they are."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or "//" in name or " " in name:
        return name
    kept = {"model": "", "best": " best"}.get(parts[-1]) if len(parts) > 1 else None
    return parts[-1] if kept is None else parts[-2] + kept


def _is_known(value: Any) -> bool:
    """Whether a value is an interval with a finite estimate: files may also hold null, or a null estimate."""
    if not isinstance(value, Mapping):
        return value is not None
    return isinstance(value.get("estimate"), int | float) and isfinite(value["estimate"])


Measured = BeforeValidator(lambda value: value if _is_known(value) else None)
"""Reads an interval whose estimate is unknown as None."""

MaybeInterval = Annotated[Interval | None, Measured]
"""An interval, or None where nothing could be measured."""


def _measured(value: Any) -> Any:
    return {k: v for k, v in value.items() if _is_known(v)} if isinstance(value, Mapping) else value


Intervals = Annotated[dict[str, Interval], BeforeValidator(_measured)]
"""Intervals by name; names without a measurement are absent."""


class Record(BaseModel):
    """A part of a result. Unknown fields of a file are ignored; a docstring describes each field."""

    model_config = ConfigDict(
        frozen=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class PromptSettings(Record):
    """How models were asked."""

    form: Literal["chat", "plain"] = "chat"
    """Asked in a user's message, or as text to continue."""
    chat_template: str | None = None
    """The chat template used in place of the models' own, if any."""
    system: Literal["refuse", "fold"] = "refuse"
    """Whether system messages were folded into the first question."""
    max_new_tokens: int = 128
    """Maximum number of tokens per answer."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the most likely token."""
    seed: int = 0
    """Seed of the draws."""
    dtype: str = ""
    """The precision of matrix products."""


def absent_unless_given(**more: Any) -> Any:
    """A field that defaults to None and is then left out of the file."""
    return Field(default=None, exclude_if=lambda value: value is None, **more)


class Evaluation(Record):
    """The result of an evaluation, one class per `kind`."""

    kind: str
    """The kind of evaluation."""
    warnings: list[str] = []
    """Reasons why the numbers may mislead, one sentence each."""
    date: str | None = absent_unless_given()
    """The date that chat templates were given (YYYY-MM-DD), where models read chats."""

    reads_chats: ClassVar[bool] = False
    """Whether models read chats for this kind of result."""

    def dated(self) -> Self:
        """The result with the date of now, where models read chats and it has none."""
        return self.model_copy(update={"date": today().isoformat()}) if self.reads_chats and not self.date else self

    def tables(self) -> Iterable[Table]:
        """The tables for the terminal."""
        raise NotImplementedError

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        """The rows of `frame()` as JSON: one per model, unless a subclass says otherwise."""
        return self.model_dump(mode="json")["models"]

    def table(self) -> Group:
        """The numbers as tables for the terminal: `rich.print(result.table())`."""
        return Group(*self.tables())

    def text(self) -> str:
        """The tables as plain text."""
        console = Console(file=io.StringIO(), record=True, width=120, markup=False)
        console.print(self.table())
        return console.export_text()

    def frame(self) -> DataFrame:
        """The numbers as a pandas table with one column per number, such as `scores.cafe.estimate`."""
        import pandas

        return pandas.json_normalize(list(self._rows()))

    def save(self, folder: str | Path) -> Path:
        """Write evaluation.json, from which reports are made, into the folder; returns its path."""
        file = Path(folder) / FILE
        try:
            text = self.model_dump_json(indent=1)
        except ValueError:  # a lone surrogate in a name from somebody's file
            text = without_halves(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False))
        save_text(file, text)
        return file

    def publish(self, folder: str | Path) -> Self:
        """Date the result, `save` it, and `announce` it."""
        made = self.dated()
        made.save(folder)
        made.announce()
        return made

    def announce(self) -> None:
        """Print the tables, and the warnings to standard error."""
        show(self.table())
        for line in self.warnings:
            status(line)

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), record=True, width=120, markup=False)
        console.print(self.table())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
