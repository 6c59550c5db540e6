"""Why a row follows no convention, and what to write for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from accord.data.column_names import PROMPT_LIKE
from accord.data.verdicts import missing_verdict
from accord.errors import InputError


def unfit(columns: Mapping[str, Any], present: Sequence[str], known: Sequence[str], accepted: str) -> InputError:
    """The error for a row whose `present` columns are not what any convention needs; `accepted` names what they do."""
    meanings = {name: near(name, known) for name in present if name not in known}
    hints = "; ".join(f"'{name}' is perhaps meant to be '{meant}'" for name, meant in meanings.items() if meant)
    found = (", ".join(present) or "none that is not null") + (f" ({hints})" if hints else "")
    why = f", and {answers}" if (answers := missing_verdict(present)) else ""
    if isinstance(columns.get("completions"), list) and isinstance(columns.get("labels"), list):
        return InputError(
            "'labels' judges the 'completions', the steps of one answer, one by one, and no method learns from steps: "
            "join them to one 'completion' with a 'label', true where all are, for `accord kto`"
        )
    inside = [f"{name}.{key}" for name in present for key in _keys(columns[name]) if key in known]
    if inside:
        named = ",".join(f"{path.rpartition('.')[2]}={path}" for path in inside)
        return InputError(f"the columns found are {found}, and {inside[0]} is inside one: name it by --columns {named}")
    asks = next((name for name in present if name in PROMPT_LIKE), present[0] if present else "COLUMN")
    return InputError(
        f"the columns found are {found}{why}, but a row needs one of these sets of columns: {accepted}; --columns "
        f"prompt={asks},... names them so"
    )


def near(name: str, known: Sequence[str]) -> str | None:
    """The known column most similar to a name, None if none is close."""
    return next(iter(get_close_matches(str(name).strip().lower(), known, n=1, cutoff=0.8)), None)


def _keys(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, Mapping) else []
