"""Every sequence of an enumerable world, scored by plain forwards."""

from __future__ import annotations

import torch

from examples.worlds.enumerable import Enumerable


def sequence_logps(world: Enumerable, model: torch.nn.Module) -> torch.Tensor:
    """Each sequence scored by a plain forward of its own."""
    logps = []
    for sequence in world.sequences:
        tokens = torch.tensor([[*world.prompt, *sequence]])
        logits = model(input_ids=tokens).logits[0].log_softmax(-1)
        steps = range(len(world.prompt) - 1, tokens.shape[1] - 1)
        logps.append(sum(logits[i, tokens[0, i + 1]] for i in steps))
    return torch.stack(logps)
