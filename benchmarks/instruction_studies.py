"""The studies of benchmarks/instruction_tuning.py: how models are tuned, and how they are asked."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

HELD_OUT = ("color", "remove", "name")
SHOWN = (*HELD_OUT, "kind", "order")
"""The clusters that are evaluated: those held out, and two that most models are tuned on."""

ORDERS = 3
"""Random orders per seed in which the study "clusters" adds clusters."""

Found: TypeAlias = Mapping[tuple[str, int, str], Sequence[Mapping[str, float]]]
"""Scores of each seed by study, width and condition."""


@dataclass(frozen=True)
class Condition:
    """A model and how it is asked.

    `mix` has the options of `accord tasks` that select its tuning data (None: not tuned), `asked` those of
    `accord evaluate tasks`, and `tuning` those of `accord sft`. `recipe` names the tuned model, which several
    conditions may share. `wrong` is the share of demonstrations that get the answer of another row. `file` has the
    tasks: as instructions, or in the form of the text's statements or lists. `order` numbers the seed's random orders
    of clusters.
    """

    name: str
    mix: Mapping[str, Any] | None = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "all"
    tuning: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    wrong: float = 0.0
    file: str = "tasks.yaml"
    order: int = 0


def on_clusters(count: int, order: int) -> Condition:
    """Tuned on `count` clusters, for as many steps as on all."""
    name = f"{count} cluster{'s' * (count > 1)}, order {order}"
    return Condition(name, {"max_clusters": count}, recipe=f"clusters-{count}-{order}", order=order)


def on_templates(count: int) -> Condition:
    """Tuned on `count` instruction templates per task; asked by all five."""
    return Condition(f"{count} templates", {"templates": count}, recipe=f"templates-{count}")


def on_rows(count: int, wrong: float) -> Condition:
    """Tuned on `count` demonstrations: three epochs, but at least 60 steps."""
    name = f"{count} {'noisy' if wrong else 'clean'}"
    steps = {"max_steps": max(60, 3 * count // 32)}
    return Condition(name, {"rows": count}, recipe=name.replace(" ", "-"), tuning=steps, wrong=wrong)


TUNED = Condition("tuned")
COT = {"answers": "cot", "max_new_tokens": 40}
MAJORITY = COT | {"samples": 8, "temperature": 0.7}
BOTH, PREFIX = {"formats": "zero:1,cot:1"}, {"formats": "prefix"}
SHOTS = {"formats": "zero:1,few:1", "shots": 2}
SCRATCH = {"learning_rate": 2e-3}
LONG = SCRATCH | {"max_steps": 1800}
LISTED = {"form": "plain"}

STUDIES = {
    "sizes": [
        Condition("base", None),
        Condition("base, in text's own form", None, {"form": "plain"}, file="statements.yaml"),
        Condition("no pretraining, tuned", tuning=SCRATCH, pretrained=False, recipe="scratch"),
        Condition("no pretraining, tuned 4 times as long", tuning=LONG, pretrained=False, recipe="scratch-long"),
        TUNED,
    ],
    "clusters": [*(on_clusters(count, order) for count in (1, 2, 4, 7) for order in range(ORDERS)), TUNED],
    "templates": [*map(on_templates, (1, 2)), TUNED],
    "prefixes": [
        Condition("prefixes, asked by them", PREFIX, {"instructions": "prefix"}, recipe="prefix"),
        Condition("prefixes, asked by instructions", PREFIX, recipe="prefix"),
        Condition("instructions, asked by prefixes", {}, {"instructions": "prefix"}),
        TUNED,
    ],
    "exemplars": [
        *(
            Condition(f"base, lists, {shots} shots", None, LISTED | {"shots": shots}, file="lists.yaml")
            for shots in (0, 4)
        ),
        Condition("base, 2 shots", None, {"shots": 2}),
        TUNED,
        Condition("tuned, 2 shots", {}, {"shots": 2}),
        Condition("tuned with exemplars, 0 shots", SHOTS, recipe="few"),
        Condition("tuned with exemplars, 2 shots", SHOTS, {"shots": 2}, recipe="few"),
    ],
    "reasoning": [
        Condition("direct only, asked for reasons", {}, COT),
        Condition("both, direct", BOTH, recipe="both"),
        Condition("both, reasons", BOTH, COT, recipe="both"),
        Condition("both, majority of 8", BOTH, MAJORITY, recipe="both"),
    ],
    "inversions": [
        Condition("with inversions", {"formats": "zero:2,inverse:1"}, recipe="inverse"),
        TUNED,
    ],
    "demonstrations": [on_rows(count, wrong) for count in (100, 300, 1000, 3000) for wrong in (0.0, 0.3)],
}


def corrupt(mix: Path, wrong: float, seed: int) -> None:
    """Give a share of a file's demonstrations the completion of another row, of the same task if one differs."""
    rows = [json.loads(line) for line in mix.read_text().splitlines()]
    rng = random.Random(f"wrong {seed}")
    for i in rng.sample(range(len(rows)), round(wrong * len(rows))):
        others = [row for row in rows if row["completion"] != rows[i]["completion"]]
        same = [row for row in others if row["task"] == rows[i]["task"]]
        rows[i]["completion"] = rng.choice(same or others)["completion"]
    mix.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
