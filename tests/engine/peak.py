"""Peak memory of two steps of DPO on a random Llama, in a process of its own, and what `memory.needs` says of it.

python -m tests.engine.peak '{"activation_checkpointing": true}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accord import engine
from accord.engine.models import Policy, prepare_network
from accord.engine.trees import Branch, Tree
from accord.methods import DPO

SIZES: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 4096}
PROMPT, ANSWER, PAIRS = 64, 96, 8


def resident(name: str) -> int:
    """Bytes that the kernel says this process holds: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def main(settings: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(1)
    config = LlamaConfig(**SIZES, num_attention_heads=8, num_key_value_heads=4)
    method = DPO(dtype="float32", batch_size=PAIRS, max_length=256, tokens_per_pass=1024, **settings)
    shape = engine.memory.Shape.of(config, method, torch.float32)
    parts = engine.memory.needs(shape, method, torch.float32)
    before = resident("VmRSS")
    network = prepare_network(LlamaForCausalLM(config).eval())
    policy = engine.memory.ready(Policy(network, None, "", torch.float32), method)  # type: ignore[arg-type]
    drawn = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, SIZES["vocab_size"], (n,), generator=drawn).tolist())

    trees = [Tree(tokens(PROMPT), (Branch(tokens(ANSWER)), Branch(tokens(ANSWER)))) for _ in range(PAIRS)]
    objective = method.objective_of(policy, trees)
    optimizer = engine.Optimizer({"model": policy.network}, method, 2)
    for step in range(2):
        optimizer.update(step, method.terms(objective, trees, policy))
    return {"measured": resident("VmHWM") - before, "expected": parts["at the peak"] - parts["program"]}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
