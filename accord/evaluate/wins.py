"""Win rates: a judge's verdicts on every two models' answers to the same prompts.

A win rate is the mean over prompts of the judge's probability that the model's answer beats the other's, a tie being
half a win, with an interval over prompts. Invalid verdicts are left out, and counted. The sign test asks whether wins
and losses could be a fair coin's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.compare import Answers
from accord.evaluate.ratings import Standing, board, length_controlled
from accord.evaluate.statistics import as_json, mean_of, sign_test
from accord.feedback.judge import BothOrders, Judge, Orders
from accord.records import text_to_json

FEW = 20
"""Intervals from fewer pairs are to be read with care."""


@dataclass(frozen=True)
class Duels:
    """The verdicts on a model's answers against another's, prompt by prompt."""

    model: Answers
    against: Answers
    orders: Sequence[Orders]

    @property
    def mirrored(self) -> Duels:
        """The same, seen from the other side."""
        return Duels(self.against, self.model, [o.mirrored for o in self.orders])

    @property
    def wins(self) -> NDArray[np.float64]:
        """P(the model's answer wins) on every prompt, (n,); NaN where the verdict is invalid."""
        verdicts = (o.verdict.first_wins for o in self.orders)
        return np.array([np.nan if p is None else p for p in verdicts])

    @property
    def longer(self) -> NDArray[np.float64]:
        """By how many characters the model's answer is the longer one, (n,)."""
        return np.subtract(self.model.characters, self.against.characters).astype(np.float64)

    def win_rate(self) -> dict[str, Any]:
        """The win rate with its interval, ties and invalid verdicts, at equal length, and its sign test, as JSON."""
        valid = ~np.isnan(self.wins)
        wins = self.wins[valid]
        won, lost = int((wins > 0.5).sum()), int((wins < 0.5).sum())
        unknown = {"estimate": None, "low": None, "high": None, "n": 0}
        controlled = length_controlled(wins, self.longer[valid])
        return {
            **(as_json(mean_of(wins)) if len(wins) else unknown),
            "ties": len(wins) - won - lost,
            "invalid": int((~valid).sum()),
            "length_controlled": controlled and as_json(controlled),
            "sign_test": {"wins": won, "losses": lost, "p": sign_test(won, lost)},
        }

    def as_pair(self) -> dict[str, Any]:
        """The win rate with both names, and what the judge makes of the order in which answers stand."""
        standing_first = [x for o in self.orders for x in o.first_wins]
        valid = int((~np.isnan(self.wins)).sum())
        return {
            "model": self.model.name,
            "against": self.against.name,
            **self.win_rate(),
            "first_wins": sum(standing_first) / len(standing_first) if standing_first else None,
            "inconsistent": sum(o.inconsistent for o in self.orders) / valid if valid else None,
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a prompt, as JSON: both texts, the verdict, both scores and lengths."""
        both = (self.model, self.against)
        for i, orders in enumerate(self.orders):
            first, second = (a.samples[i] for a in both)
            shared = [name for name in self.model.scores if name in self.against.scores]
            verdict = orders.verdict
            yield {
                "prompt": text_to_json(first.prompt.prompt),
                "model": self.model.name,
                "against": self.against.name,
                "first": first.text,
                "second": second.text,
                "verdict": verdict.first_wins,
                **({"reason": verdict.reason} if verdict.first_wins is None else {}),
                "scores": {name: [float(a.scores[name][i]) for a in both] for name in shared},
                "lengths": [len(first.text), len(second.text)],
            }


def judged(judge: Judge, answered: Sequence[Answers]) -> list[Duels]:
    """Every two models' answers, judged in both orders: the model listed later against the earlier one.

    The judge is called once with all pairs, so one that scores single answers scores each of them once.
    """
    pairs = [(later, earlier) for earlier, later in combinations(answered, 2)]
    if not pairs:
        return []
    firsts, seconds = ([s for pair in pairs for s in pair[side].samples] for side in (0, 1))
    orders = BothOrders(judge).orders(firsts, seconds)
    n = len(answered[0].samples)
    return [Duels(*pair, orders[i * n : (i + 1) * n]) for i, pair in enumerate(pairs)]


def held_against(duels: Sequence[Duels], rival: str | None) -> dict[str, Duels]:
    """For every other model its duels with the rival."""
    ahead = {d.model.name: d for d in duels if d.against.name == rival}
    return ahead | {d.against.name: d.mirrored for d in duels if d.model.name == rival}


def standings(duels: Sequence[Duels]) -> list[Standing]:
    """The board of all models that have a valid verdict, the best first."""
    decided = [d for d in duels if not np.isnan(d.wins).all()]
    names = list(dict.fromkeys(name for d in decided for name in (d.against.name, d.model.name)))
    if not names:
        return []
    places = [(names.index(d.model.name), names.index(d.against.name)) for d in decided]
    return board(names, places, np.stack([d.wins for d in decided]))


def warnings(duels: Sequence[Duels]) -> list[str]:
    """What keeps the numbers from meaning what they seem to."""
    lines = []
    for d in duels:
        pair, wins = f"{d.model.name} against {d.against.name}", d.wins
        reasons = [o.verdict.reason for o in d.orders if o.verdict.first_wins is None]
        if reasons:
            none = ", so there is no win rate" if len(reasons) == len(wins) else ""
            lines.append(f"{pair}: {len(reasons)} of {len(wins)} verdicts are invalid{none} (the first: {reasons[0]})")
        valid = ~np.isnan(wins)
        if 0 < valid.sum() < FEW:
            lines.append(f"{pair}: an interval from {valid.sum()} pairs says little; judge {FEW} or more")
        longer = d.longer[valid]
        if valid.any() and longer.std() and (longer.min() > 0 or longer.max() < 0):
            word = "longer" if longer.min() > 0 else "shorter"
            lines.append(f"{pair}: every answer is {word}, so the length-controlled win rate is an extrapolation")
    return lines + _unbounded(duels)


def _unbounded(duels: Sequence[Duels]) -> list[str]:
    """The models that won, or lost, every duel: nothing but the penalty bounds their ratings."""
    lines = []
    for name in dict.fromkeys(name for d in duels for name in (d.against.name, d.model.name)):
        own = [d.wins if d.model.name == name else 1 - d.wins for d in duels if name in (d.model.name, d.against.name)]
        share = np.nanmean(np.concatenate(own)) if not np.isnan(np.concatenate(own)).all() else 0.5
        if share in (0, 1):
            lines.append(f"{name} {'wins' if share else 'loses'} every time, so its rating could be any number beyond")
    return lines
