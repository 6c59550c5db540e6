"""Options of commands that generate data with a model, and folders in which the same command can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accord.dates import as_date, today
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.files import others
from accord.outputs import may_overwrite
from accord.parsing import read_yaml
from accord.prompting.options import AskOptions, LimitOptions, prompted, without_journal

if TYPE_CHECKING:
    from accord.synthesis.questions import Asker

FILE = "config.yaml"
"""The settings file in a run's folder."""


@dataclass(kw_only=True)
class AskerOptions(AskOptions):
    """Options of the model, the form of its prompts, and the sampling of its replies."""

    form: Literal["auto", "chat", "plain"] = "auto"
    """Whether the model is asked in a chat or given a text to continue; auto is chat where it has a template."""
    max_new_tokens: int = 256
    """Longest reply, in tokens; replies that are cut are rejected."""
    temperature: float = 0.7
    """Sampling temperature of the replies."""
    top_p: float = 0.9
    """Draw only from the most likely tokens that together have this probability (1: all)."""
    seed: int = 0
    """The same seed gives the same data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(max_new_tokens=self.max_new_tokens, top_p=self.top_p)
        if self.top_p > 1 or self.temperature < 0:
            raise InputError("--top-p must not be over 1, nor --temperature below 0.")

    def asker(self, folder: Path) -> Asker:
        """The model and how it is asked; a served model's replies are kept in the folder, unless a journal is named."""
        from accord.prompting.journal import Journal
        from accord.synthesis.questions import Asker

        if self.server is not None and self.journal is None:
            self.journal = str(folder / "replies.jsonl")
        model = prompted(self)
        if isinstance(model, Journal):
            model.look()
        is_chat = self.form == "chat" or (self.form == "auto" and getattr(without_journal(model), "has_template", True))
        return Asker(
            model=model, is_chat=is_chat, max_tokens=self.max_new_tokens, temperature=self.temperature,
            top_p=self.top_p, seed=self.seed,
        )  # fmt: skip

    def settings(self, but: Collection[str] = ()) -> dict[str, Any]:
        """The options that decide the result: all except limits, the key, and those named in `but`; and the date."""
        left_out = {field.name for field in fields(LimitOptions)} | {"key", *but}
        decide = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {**decide, "date": today().isoformat()}


def digest(rows: Sequence[object]) -> str:
    """A digest that identifies rows."""
    return hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:16]


def begun_on(folder: Path) -> date | None:
    """The date on which the folder was begun, which chats go on having; None for a new one."""
    before = read_yaml(folder / FILE, "the settings") if (folder / FILE).is_file() else None
    if not isinstance(before, Mapping) or "date" not in before:
        return None
    return as_date(before["date"], f"the date in {folder / FILE}")


def require_same(folder: Path, settings: Mapping[str, Any], places: Collection[str]) -> None:
    """Raise InputError where the folder was begun by another command, or with other settings.

    Settings in `places` are file locations, and may differ; the date is that of `begun_on`.
    """
    file = folder / FILE
    if not file.is_file() and (there := others(folder)) and not may_overwrite():
        raise InputError(f"{folder} holds other files, such as {there[0]}; name another --out, or give --overwrite.")
    before = read_yaml(file, "the settings") if file.is_file() else settings
    if not isinstance(before, Mapping) or before.get("command") != settings["command"]:
        raise InputError(f"{folder} holds the run of another command; name another --out.")
    for name, value in settings.items():
        if name not in (*places, "date") and before.get(name) != value:
            raise InputError(
                f"{folder} was begun with {name} {before.get(name)}, and not {value}; give the same, or another --out."
            )
