"""Supervised fine-tuning: maximum likelihood of demonstrations.

    loss = - mean over trained tokens of log pi(token | prompt, earlier tokens)

Only the completion is trained on (in a chat, the assistant's turns), including its end-of-turn token. The mean is over
all tokens of a step, not first over each row, so every token has equal weight. For a preference the demonstration is
the chosen completion, for a ranking the (first) best, unless it is empty. Wei et al. 2022 (arXiv:2109.01652); Ouyang et
al. 2022 (arXiv:2203.02155), section 3.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from accord.errors import LeftOut
from accord.methods.method import Per, maximum_likelihood
from accord.methods.offline import OfflineMethod
from accord.records import Demonstration, Preference, Ranking, Row, Text, Tokenization
from accord.train.options import StreamOptions

if TYPE_CHECKING:
    from accord.engine import Model, Objective, Policy, Tree


@dataclass(kw_only=True)
class SFT(OfflineMethod):
    """Fine-tune a model on demonstrations (instruction tuning, chat)."""

    command: ClassVar[str] = "sft"
    reads: ClassVar[tuple[type, ...]] = (Demonstration, Tokenization, Preference, Ranking)
    per: ClassVar[Per] = "token"
    options: ClassVar[type[StreamOptions]] = StreamOptions
    on_ranks: ClassVar[bool] = True

    learning_rate: float = 2e-5

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        shown = [_demonstrated(row) for row in rows]
        used = [i for i, r in enumerate(shown) if not (isinstance(r, Demonstration) and is_blank(r.completion))]
        for i in sorted(set(range(len(rows))) - set(used)):
            left_out.add(i, "the chosen completion is empty", is_asked=True)
        trees = super().encode(model, [shown[i] for i in used], left_out.part(used))
        return [replace(tree, row=left_out.index(used[tree.row])) for tree in trees]

    def objective(self, model: Policy) -> Objective:
        return maximum_likelihood(model)


def _demonstrated(row: Row) -> Row:
    """The row, or a demonstration of the best of its completions."""
    match row:
        case Preference(prompt, chosen):
            return Demonstration(prompt, chosen)
        case Ranking(prompt, completions, ranks):
            return Demonstration(prompt, completions[ranks.index(min(ranks))])
    return row


def is_blank(text: Text) -> bool:
    """Whether a text has nothing but white space."""
    return not (text if isinstance(text, str) else "".join(m.words for m in text)).strip()
