"""Results of evaluations, one class per kind: evaluators write them, the terminal prints them, reports draw them.

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from accord.errors import InputError
from accord.outputs import tell_changed
from accord.parsing import parse_json, read_content
from accord.results.agreement import AgreementResult
from accord.results.alarms import AlarmsResult
from accord.results.base import FILE, Evaluation
from accord.results.comparisons import ComparisonsResult
from accord.results.critique import CritiqueResult
from accord.results.failures import FailuresResult
from accord.results.frontier import FrontierResult
from accord.results.intervals import Interval as Interval
from accord.results.judge import JudgeResult
from accord.results.learning_curve import LearningCurveResult
from accord.results.models import ModelsResult
from accord.results.overoptimization import OveroptimizationResult
from accord.results.passes import PassesResult
from accord.results.people import PeopleResult
from accord.results.personal import PersonalResult
from accord.results.plan import PlanResult
from accord.results.seeds import SeedsResult
from accord.results.sweep import SweepResult
from accord.results.synthesis import SynthesisResult
from accord.results.tasks import TasksResult
from accord.results.users import UsersResult

QUESTIONS: dict[str, type[Evaluation]] = {
    "models": ModelsResult,
    "comparisons": ComparisonsResult,
    "agreement": AgreementResult,
    "judge": JudgeResult,
    "frontier": FrontierResult,
    "overoptimization": OveroptimizationResult,
    "tasks": TasksResult,
    "passes": PassesResult,
    "failures": FailuresResult,
    "personal": PersonalResult,
    "users": UsersResult,
    "people": PeopleResult,
    "synthesis": SynthesisResult,
    "learning_curve": LearningCurveResult,
    "critique": CritiqueResult,
    "sweep": SweepResult,
    "seeds": SeedsResult,
    "alarms": AlarmsResult,
    "plan": PlanResult,
}
"""The class of each kind of result."""

_BEFORE = {"overoptimisation": "overoptimization", "verification": "passes"}
"""Kinds that had other names in files of earlier versions."""

FILES = (FILE, "verification.json")
"""Names of a result's file: the current one, and the one that results of passes had in earlier versions."""


class Infinite(ValueError):
    """An infinite number, which accord never writes into a result."""


def _not_infinite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise Infinite(text)
    return number


def load(path: str | Path) -> Evaluation:
    """The result in a file, or in the folder that `accord evaluate` wrote it to.

    Raises InputError where there is no such file, or it holds no result that this version can read.
    """
    path = Path(path)
    file = next((path / name for name in FILES if (path / name).is_file()), path / FILE) if path.is_dir() else path
    try:
        text = read_content(file).decode(errors="replace")
        tell_changed(file)
        value = parse_json(text, parse_constant=_not_infinite, parse_float=_not_infinite)
    except Infinite as error:
        raise InputError(
            f"{file} holds {error}, which is not a valid number in a result: restore it or remove it."
        ) from None
    except FileNotFoundError:
        raise InputError(f"there is no file {file}; give the --out folder of accord evaluate.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}).") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{file} is not a JSON object; restore it or remove it.")
    return parse(value, file)


def parse(value: Mapping[str, Any], source: str | Path = FILE) -> Evaluation:
    """The result in a JSON object.

    Args:
        value: the contents of the file.
        source: the file, for messages.

    Raises:
        InputError: its kind is unknown, or a number that its kind needs is missing.
    """
    written = str(value.get("kind") or "")
    kind = _BEFORE.get(written, written)
    if kind not in QUESTIONS:
        raise InputError(
            f"{source} is no result of a kind that accord knows ({', '.join(QUESTIONS)}); remove it, or evaluate again."
        )
    try:
        return QUESTIONS[kind].model_validate({**value, "kind": kind})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{source} cannot be read ({where}: {first['msg']}); run accord {_writer(kind)} again to write it anew."
        ) from None


def _writer(kind: str) -> str:
    """The command that writes results of a kind."""
    others = {
        "synthesis": "instruct",
        "people": "annotate serve",
        "learning_curve": "annotate curve",
        "critique": "critique",
        "sweep": "sweep",
        "alarms": "alarms",
        "plan": "plan",
    }
    return others.get(kind, f"evaluate {kind}")
