"""IPO: identity preference optimization, regression on preferences toward a bounded margin.

    loss = ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected)) - 1 / (2 tau))^2

Azar et al. 2023 (arXiv:2310.12036), eq. 17. Where labels are unanimous DPO's margin grows without bound; here its
optimum is 1 / (2 tau). Where rows have a `chosen_probability` p, the loss is its mean over both labels, with the
optimum at (2 p - 1) / (2 tau).

Departures: none; log-probabilities are sums over a completion's tokens. With `--length mean` they are means, and 1 / (2
tau) is a margin per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from accord.methods.pairs import IPOLoss, PreferenceMethod


@dataclass(kw_only=True)
class IPO(IPOLoss, PreferenceMethod):
    """Identity preference optimization: optimize a policy on preferences, up to a bounded margin."""

    command: ClassVar[str] = "ipo"
    on_ranks: ClassVar[bool] = True
