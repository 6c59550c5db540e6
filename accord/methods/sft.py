"""Supervised fine-tuning: maximum likelihood of demonstrations.

    loss = - mean over trained tokens of log pi(token | prompt, earlier tokens)

Only the completion is trained on (of a chat, the assistant's turns), its end-of-turn token included. The mean is over
all tokens of a step, not first over each row, so a token counts the same wherever it stands.
Wei et al. 2022 (arXiv:2109.01652); Ouyang et al. 2022 (arXiv:2203.02155), section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from accord.engine.fit import Objective
from accord.engine.models import Model
from accord.methods.offline import Offline, maximum_likelihood
from accord.records import Demonstration


@dataclass(kw_only=True)
class SFT(Offline):
    """Fine-tune a model on demonstrations (instruction tuning, chat)."""

    command: ClassVar[str] = "sft"
    reads: ClassVar[tuple[type, ...]] = (Demonstration,)
    per: ClassVar[Literal["tree", "branch", "token"]] = "token"

    learning_rate: float = 2e-5
    """Peak step size of AdamW."""

    def objective(self, model: Model) -> Objective:
        return maximum_likelihood(model)
