"""Direct preference optimization: preferences fitted without a reward model.

    loss = - log sigmoid(beta * ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected))))

with pi the policy and ref the model the run started from. The policy's implicit reward is beta * log(pi / ref).
Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; label smoothing as in Mitchell 2023 ("conservative DPO"). Where rows
have a `chosen_probability` p, each is smoothed by its own 1 - p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from accord.methods.pairs import DPOLoss, PreferenceMethod


@dataclass(kw_only=True)
class DPO(DPOLoss, PreferenceMethod):
    """Direct preference optimization: optimize a policy on preferences, without a reward model."""

    command: ClassVar[str] = "dpo"
    on_ranks: ClassVar[bool] = True
