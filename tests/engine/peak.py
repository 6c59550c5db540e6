"""Peak memory of two steps of DPO on a random Llama, in a process of its own, and what the plan says of it.

python -m tests.engine.peak '{"activation_checkpointing": true}'
python -m tests.engine.peak '{"weight_dtype": "bfloat16", "dtype": "bfloat16"}' 2

The second is of each of two ranks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accord import engine
from accord.engine.models import Policy, prepare_network
from accord.engine.trees import Branch, Tree
from accord.methods import DPO
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import policy_of
from tests.trust.forked import in_team

SIZES: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "vocab_size": 4096}
PROMPT, ANSWER, PAIRS = 64, 96, 8


def resident(name: str) -> int:
    """Bytes that the kernel says this process holds: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def method_of(settings: dict[str, Any]) -> DPO:
    given = {"dtype": "float32", "batch_size": PAIRS, "max_length": 256, "tokens_per_pass": 1024, **settings}
    return DPO(**given)


def config_of() -> LlamaConfig:
    return LlamaConfig(**SIZES, num_attention_heads=8, num_key_value_heads=4)


def steps(policy: Policy, method: DPO) -> None:
    """Two."""
    drawn = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, SIZES["vocab_size"], (n,), generator=drawn).tolist())

    trees = [Tree(tokens(PROMPT), (Branch(tokens(ANSWER)), Branch(tokens(ANSWER)))) for _ in range(PAIRS)]
    objective = method.objective_of(policy, trees)
    optimizer = engine.Optimizer({"model": policy.network}, method, 2)
    for step in range(2):
        optimizer.update(step, method.terms(objective, trees, policy))


def main(settings: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(1)
    method = method_of(settings)
    dtype = engine.precision.compute_dtype(method.dtype)
    shape = engine.memory.Shape.of(config_of(), method, dtype)
    parts = engine.memory.training_memory(shape, method, dtype)
    before = resident("VmRSS")
    network = prepare_network(LlamaForCausalLM(config_of()).eval())
    steps(engine.memory.prepare_training(Policy(network, None, "", dtype), method), method)  # type: ignore[arg-type]
    return {"measured": resident("VmHWM") - before, "expected": parts["at the peak"] - parts["program"]}


def on_ranks(settings: dict[str, Any], ranks: int) -> dict[str, float]:
    """The same of the rank that held most."""
    method = method_of(settings)
    dtype = engine.precision.compute_dtype(method.dtype)
    expected = engine.plan._peak(config_of(), method, dtype=dtype, device="cpu", ranks=ranks) - engine.memory.PROGRAM
    with tempfile.TemporaryDirectory() as folder:

        def write(_: Any) -> None:
            policy = policy_of(LlamaForCausalLM(config_of()))
            policy.tokenizer = word_tokenizer()
            policy.save(Path(folder) / "model")

        def work(team: Any) -> None:
            engine.memory.manage_freed_memory(method.return_freed_memory)
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
            before = resident("VmRSS")
            policy = engine.load.load_model(f"{folder}/model", in_shares=True).in_dtype(method.dtype)
            steps(engine.memory.prepare_training(policy, method), method)
            Path(folder, f"{team.rank}").write_text(str(resident("VmHWM") - before))

        in_team(1, write)  # in another process, whose memory no rank finds ready for it
        in_team(ranks, work)
        return {
            "measured": max(int(Path(folder, str(rank)).read_text()) for rank in range(ranks)),
            "expected": expected,
        }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(main(given) if len(sys.argv) < 3 else on_ranks(given, int(sys.argv[2]))))
