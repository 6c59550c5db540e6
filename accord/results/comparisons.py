"""Evaluation of a preference model: accuracy on human judgments and its parts, calibration, and probes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field
from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Record, absent_unless_given
from accord.results.intervals import Interval, shown

Unit = Literal["log-odds", "score", "probability"]
"""The unit of a lead, the model's preference for one completion over the other."""


class Part(Record):
    """The accuracy on a subset of the judgments."""

    label: str
    """The subset."""
    accuracy: Interval
    """The share on which the model agrees."""


class Users(Record):
    """The accuracy by user, each weighted equally however many judgments they gave."""

    users: int
    """Users with judgments other than ties."""
    mean: Interval
    """The mean of the users' accuracies; its interval is over users."""
    worst: Part
    """The user with the lowest accuracy, with its Wilson interval; the lowest of many is low by chance too."""
    groups: list[Part] = []
    """The mean over the users of each group, lowest first, where users belong to several groups."""


class Bin(Record):
    """Pairs of similar confidence."""

    confidence: float
    """The mean probability that the model gave to the completion it prefers."""
    frequency: Interval
    """How often people preferred that completion."""


class Calibration(Record):
    """The reliability curve, and its distance from the diagonal."""

    bins: list[Bin] = []
    """From the least to the most confident."""
    ece: MaybeInterval = None
    """The expected calibration error, corrected for its bias."""
    plain_ece: float | None = None
    """The uncorrected error, which is above 0 even for a calibrated model, because frequencies scatter."""
    if_calibrated: float | None = None
    """The expected `plain_ece` of a calibrated model, from that scatter alone."""
    slope: MaybeInterval = None
    """The factor on the log-odds that fits the judgments best; below 1 the model is overconfident."""
    log_loss: MaybeInterval = None
    """The mean of -p log q - (1 - p) log(1 - q), in nats; None where it is infinite."""
    label_entropy: float | None = absent_unless_given()
    """The lowest possible log-loss, where labels are probabilities."""


class OnTies(Record):
    """How close to even the model is where people tied."""

    from_half: MaybeInterval = None
    """The mean distance of its probability from 1/2 on tied pairs."""
    elsewhere: MaybeInterval = None
    """The same on all other pairs."""
    nearer: MaybeInterval = None
    """The probability that the lead on a tied pair is smaller than on another pair; 1/2 if the model ignores ties."""


class RankingAgreement(Record):
    """Agreement on rows of three or more completions of which every pair was judged."""

    rows: int
    """Number of rows."""
    cyclic: int
    """Rows whose judgments fit no ranking."""
    top: MaybeInterval = None
    """How often the model's first completion is among those that people put first; None where people tied all."""
    chance: float | None = None
    """The same for a random completion."""
    tau: MaybeInterval = None
    """Kendall's rank correlation, the mean of tau-b; None where no row has one."""


class Probe(Record):
    """A probe: answers changed in a way that makes them no better, compared with the originals."""

    name: str
    """The name of the change."""
    what: str = ""
    """The change, in words."""
    preferred: Interval
    """How often the changed answer is preferred."""
    shift: MaybeInterval = None
    """The changed answer's mean lead, in the result's unit; None where two orders of the same answers are compared."""
    n: int = 0
    """Answers that were changed."""
    invalid: int = 0
    """Answers left out for lack of a valid verdict."""
    changed: MaybeInterval = absent_unless_given()
    """For the position probe: how often swapping the two answers changes the winner."""

    @property
    def fools(self) -> bool:
        """Whether the changed answers are preferred: the interval lies above a half."""
        return self.preferred.low > 0.5


class ComparisonsResult(Evaluation):
    """A reward or preference model, a judge, or a policy's implicit reward, evaluated on held-out judgments."""

    kind: Literal["comparisons"] = "comparisons"
    reads_chats: ClassVar[bool] = True
    name: str
    """The evaluated model."""
    data: str = ""
    """Where the judgments come from."""
    ceiling: float | None = None
    """The accuracy that noise in the judgments allows, if given."""
    unit: Unit = "log-odds"
    """The unit of its leads."""
    rows: int | None = None
    """Rows of the data."""
    accuracy: Interval
    """The share of judgments other than ties whose better completion leads; an equal lead counts half."""
    ties: int = 0
    """Judgments with an equal lead."""
    invalid: int = 0
    """Pairs without a valid verdict."""
    left_out: int = 0
    """Pairs longer than --max-length."""
    labeled_ties: int | None = Field(None, validation_alias=AliasChoices("labeled_ties", "labelled_ties"))
    """Pairs that people tied."""
    on_ties: OnTies | None = None
    """The model on those pairs; None where there are none."""
    by_margin: list[Part] = []
    """Accuracy by the size of the lead, smallest first."""
    by_length: list[Part] = []
    """Accuracy by which completion is longer."""
    by_source: list[Part] = []
    """Accuracy by source of the judgment, most frequent first."""
    users: Users | None = None
    """Accuracy by user; None where rows name fewer than two."""
    length_correlation: MaybeInterval = None
    """Spearman's correlation of lead and difference in length; None where either is constant."""
    calibration: Calibration | None = None
    """How its probabilities compare with frequencies; None where it gives none."""
    ranking: RankingAgreement | None = None
    """Agreement on rows of several completions; None where there are none."""
    probes: list[Probe] = []
    """Changes that should not make an answer better."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        parts = [Part(label="all", accuracy=self.accuracy), *self.by_margin, *self.by_length, *self.by_source]
        parts += [part for _, some in self.by_user for part in some]
        return [part.model_dump(mode="json") for part in parts]

    def tables(self) -> Iterator[Table]:
        """Accuracy, calibration, further measures and probes."""
        yield self._accuracy_table()
        if self.calibration:
            yield _calibration_table(self.calibration)
        further = self._further_table()
        if further.row_count:
            yield further
        if self.probes:
            yield self._probes_table()

    def _accuracy_table(self) -> Table:
        grid = Table(self.name, "", "accuracy", "pairs")
        ceiling = f" of {self.ceiling:g}" if self.ceiling is not None else ""
        grid.add_row("all", "", f"{self.accuracy}{ceiling}", str(self.accuracy.n))
        titled = (("by lead", self.by_margin), ("by length", self.by_length), ("by source", self.by_source))
        for title, parts in (*titled, *self.by_user):
            for i, part in enumerate(parts):
                grid.add_row("" if i else title, part.label, f"{part.accuracy}", str(part.accuracy.n))
        return grid

    @property
    def by_user(self) -> list[tuple[str, list[Part]]]:
        """Titles and parts of the accuracy by user."""
        if self.users is None:
            return []
        over = Part(label=f"the mean of {self.users.users}", accuracy=self.users.mean)
        worst = Part(label=f"the worst, {self.users.worst.label}", accuracy=self.users.worst.accuracy)
        parts = [("by user", [over, worst])]
        return [*parts, ("by group of users", self.users.groups)] if self.users.groups else parts

    def _further_table(self) -> Table:
        calibration = self.calibration or Calibration()
        ties, ranking = self.on_ties or OnTies(), self.ranking
        rows = {
            "calibration error": shown(calibration.ece),
            "as usually computed": _decimals(calibration.plain_ece),
            "the same of a calibrated model": _decimals(calibration.if_calibrated),
            "log-odds should be multiplied by": shown(calibration.slope),
            "log-loss, nats": shown(calibration.log_loss),
            "least possible": _decimals(calibration.label_entropy),
            "rank correlation of lead and length": shown(self.length_correlation),
            "equal leads": str(self.ties or ""),
            "invalid verdicts": str(self.invalid or ""),
            "people's ties": str(self.labeled_ties or ""),
            "distance from 1/2 on them": shown(ties.from_half),
            "distance from 1/2 elsewhere": shown(ties.elsewhere),
            "chance of a smaller lead on them": shown(ties.nearer),
        }
        if ranking:
            by_lot = f", by chance {ranking.chance:.3f}" if ranking.top and ranking.chance is not None else ""
            rows |= {
                "rows of several answers": str(ranking.rows),
                "of them without an order": str(ranking.cyclic),
                "the best is found": shown(ranking.top) + by_lot,
                "Kendall's tau": shown(ranking.tau),
            }
        grid = Table("further measures", "")
        for title, value in rows.items():
            if value:
                grid.add_row(title, value)
        return grid

    def _probes_table(self) -> Table:
        grid = Table("probe", "altered answer preferred", f"lead ({self.unit})", "answers")
        for probe in self.probes:
            grid.add_row(probe.name, f"{probe.preferred}", shown(probe.shift), str(probe.n))
        return grid


def _calibration_table(calibration: Calibration) -> Table:
    grid = Table("model's confidence", "people agree", "pairs")
    for row in calibration.bins:
        grid.add_row(f"{row.confidence:.3f}", f"{row.frequency}", str(row.frequency.n))
    return grid


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
