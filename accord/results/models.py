"""Models side by side on the same prompts: scores, win rates, a leaderboard, divergence, and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import FiniteFloat, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from rich.table import Table

from accord.results.base import Evaluation, Intervals, MaybeInterval, Measured, Name, Record, absent_unless_given
from accord.results.intervals import Interval, shown


@dataclass(frozen=True, slots=True)
class Divergence(Interval):
    """KL(model || reference) in nats per completion."""

    bound: bool = False
    """Whether it is an upper bound, as for best of n, not a measurement."""


class SignTest(Record):
    """The sign test: whether wins and losses could be a fair coin's."""

    wins: int
    """Prompts on which the model's answer is more likely the better one."""
    losses: int
    """Prompts on which the other model's is."""
    p: float
    """Its exact two-sided p-value."""


class WinRate(Record):
    """How often a model's answers beat another's, a tie counting half; None where no verdict is valid."""

    estimate: float | None
    """The mean over prompts of the judge's P(the model's answer wins)."""
    low: float | None = None
    """The lower end of the 95% interval."""
    high: float | None = None
    """The upper end."""
    n: int = 0
    """Prompts with a valid verdict."""
    ties: int = 0
    """Prompts on which neither answer won."""
    invalid: int = 0
    """Prompts left out for lack of a valid verdict."""
    length_controlled: MaybeInterval = None
    """The rate if all answers were equally long; None where their lengths never differ."""
    sign_test: SignTest | None = None
    """Whether the wins could be chance."""

    @property
    def interval(self) -> Interval | None:
        """The rate with its interval."""
        if self.estimate is None or self.low is None or self.high is None:
            return None
        return Interval(self.estimate, self.low, self.high, self.n)


class Pair(WinRate):
    """Two models: how often the first beats the second, and how the judge depends on the order of answers."""

    model: str
    """The model listed later."""
    against: str
    """The model listed earlier."""
    first_wins: float | None = None
    """How often the answer shown first wins, over both orders; 1/2 without an order bias."""
    inconsistent: float | None = None
    """The share of pairs whose two orders have different winners."""


class Rating(Record):
    """A model on the leaderboard."""

    name: str
    """The model."""
    rating: Interval
    """Its Bradley-Terry rating: log-odds against a model of mean rating."""
    elo: MaybeInterval = None
    """The same in Elo points above the mean."""


class ModelRow(Record):
    """One model, or file of answers, in numbers; None where not measured."""

    name: str
    """Its name."""
    scores: Intervals = {}
    """The mean reward of its answers, by reward."""
    kl: Annotated[Divergence | None, Measured] = None
    """Its divergence from the reference."""
    characters: float | None = None
    """The mean length of its answers in characters."""
    length: float | None = None
    """Their mean length in tokens; None for answers not sampled here."""
    ended: float | None = None
    """The share of its answers that ended by themselves, not at the token limit."""
    win_rate: WinRate | None = None
    """How often it beats the model that all are compared with; None for that model itself."""
    labels: int | None = absent_unless_given()
    """The number of human labels it was trained on; absent where unknown."""


def _tokens(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:  # the answer's text is complete without them
        return None


class Answer(Record):
    """One model's answer to a prompt."""

    model: str
    """The model."""
    text: str
    """The answer."""
    scores: dict[str, float | None] = {}
    """Its rewards, by name."""
    tokens: Annotated[list[tuple[str, FiniteFloat]] | None, WrapValidator(_tokens)] = absent_unless_given()
    """Its tokens as text, each with log pi - log ref in nats; absent without a reference."""


class SideBySide(Record):
    """A prompt and all models' answers to it."""

    prompt: str
    """The prompt, as text."""
    answers: list[Answer]
    """One answer per model."""


class Drawing(Record):
    """How answers were sampled."""

    temperature: float
    """Divides the logits."""
    max_new_tokens: int
    """Maximum number of tokens per answer."""
    seed: int
    """Seed of the draws."""


class AtTemperature(Record):
    """The models' answers at one temperature against the baseline's, which are the same at all temperatures."""

    temperature: float
    """Divides the logits; 0 takes the most likely token."""
    models: list[ModelRow]
    """One row per model except the baseline; divergence is None at 0."""


class ModelsResult(Evaluation):
    """Models, and files of answers, compared on the same prompts."""

    kind: Literal["models"] = "models"
    reads_chats: ClassVar[bool] = True
    judge: Name = ""
    """The judge of the win rates."""
    against: str | None = None
    """The baseline that the others are compared with in the first table."""
    reference: str | None = None
    """The model from which divergence is measured."""
    prompts: int | None = None
    """Prompts answered by all."""
    sampling: Drawing | None = None
    """How answers were sampled; None where all were read from files."""
    models: list[ModelRow]
    """One row per model, in the order given."""
    pairs: list[Pair] = []
    """Every two models."""
    board: list[Rating] | None = None
    """All models on one scale, best first; None where no verdict is valid."""
    side_by_side: list[SideBySide] = []
    """The first prompts with all answers."""
    temperatures: list[AtTemperature] | None = absent_unless_given()
    """Win rates over `against` by temperature; absent unless asked for."""

    def tables(self) -> Iterator[Table]:
        """The models and their win rates; with three or more, or no baseline, also the leaderboard and its matrix."""
        yield self._models_table()
        if self.against:
            yield self._wins_table()
        if self.temperatures:
            yield self._temperatures_table(self.temperatures)
        if self.board and (len(self.models) > 2 or self.against is None):
            yield self._board_table(self.board)
            yield self._matrix_table(self.board)

    def _models_table(self) -> Table:
        """Scores, divergence and length; columns that no model has a value for are left out."""
        names = list(self.models[0].scores) if self.models else []
        titles = ["model", "labels", *names, "KL", "tokens", "characters", "ended"]
        rows = [
            [
                m.name,
                "" if m.labels is None else f"{m.labels:,}",
                *(f"{m.scores[n].estimate:.3f}" if n in m.scores else "" for n in names),
                f"{'<= ' if m.kl.bound else ''}{m.kl.estimate:.2f}" if m.kl else "",
                "" if m.length is None else f"{m.length:.1f}",
                "" if m.characters is None else f"{m.characters:.0f}",
                "" if m.ended is None else f"{m.ended:.0%}",
            ]
            for m in self.models
        ]
        known = [any(column) for column in zip(*rows, strict=True)]
        grid = Table(*compress(titles, known))
        for row in rows:
            grid.add_row(*compress(row, known))
        return grid

    def _wins_table(self) -> Table:
        grid = Table("model", f"wins over {self.against}", "won, tied, lost", "p", "at equal length")
        for m in self.models:
            won = m.win_rate
            if won is None:
                continue
            rate = shown(won.interval, ".1%") or "no valid verdict"
            sign = won.sign_test
            counts = f"{sign.wins}, {won.ties}, {sign.losses}" if sign else ""
            counts += f"; {won.invalid} invalid" if won.invalid else ""
            p = "" if sign is None else "< .0001" if sign.p < 0.0001 else f"{sign.p:.2g}"
            grid.add_row(m.name, rate, counts, p, shown(won.length_controlled, ".1%"))
        return grid

    def _temperatures_table(self, every: list[AtTemperature]) -> Table:
        """Each model's win rate at each temperature."""
        titles = (f"{at.temperature:g}" for at in every)
        grid = Table("model", *titles, title=f"wins over {self.against}, by temperature")
        for same in zip(*(at.models for at in every), strict=True):
            rates = (shown(m.win_rate.interval, ".1%") if m.win_rate else "" for m in same)
            grid.add_row(same[0].name, *rates)
        return grid

    def _board_table(self, board: list[Rating]) -> Table:
        grid = Table("", "model", "rating (log-odds)", "Elo points over the mean", title="Bradley-Terry leaderboard")
        for rank, row in enumerate(board, start=1):
            grid.add_row(str(rank), row.name, f"{row.rating:+.2f}", shown(row.elo, "+.0f"))
        return grid

    def _matrix_table(self, board: list[Rating]) -> Table:
        """How often the row's model beats the column's, in the order of the leaderboard."""
        rates = {(p.model, p.against): p.estimate for p in self.pairs}
        rates |= {(b, a): None if rate is None else 1 - rate for (a, b), rate in rates.items()}
        names = [row.name for row in board]
        grid = Table("beats", *names, title="win rates")
        for name in names:
            beaten = (rates.get((name, other)) for other in names)
            grid.add_row(name, *("" if rate is None else f"{rate:.1%}" for rate in beaten))
        return grid
