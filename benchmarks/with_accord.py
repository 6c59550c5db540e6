"""One measured run of accord, started by benchmarks/step.py: follows FOLDER/plan.json and writes its numbers to OUT.

python benchmarks/with_accord.py FOLDER OUT
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reward import length

from accord import load_data, load_model
from accord.data import Order
from accord.engine.fit import Optimizer
from accord.engine.models import Policy
from accord.engine.trees import Experience, Trees
from accord.errors import LeftOut
from accord.feedback.reward import Reward
from accord.methods import DPO, GRPO, SFT, RewardModel
from accord.methods.policy_gradient import GroupLearner
from accord.methods.rollouts import Rollout, sample
from accord.records import EncodedPrompt
from accord.train.learner import StepResult
from accord.train.loop import Result

METHODS = {"dpo": DPO, "sft": SFT, "reward": RewardModel}
SHARED = ("learning_rate", "batch_size", "max_length", "dtype", "seed", "lora_rank")
SAMPLING = ("group_size", "max_new_tokens", "kl", "kl_coefficient", "clip_low", "clip_high")


def main(folder: Path, out: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    model = load_model(plan["start"]["accord"], device="cpu")
    settings = {name: plan[name] for name in SHARED}
    settings |= {"max_steps": plan["steps"], "schedule": "constant", "warmup": 0.0}
    work = from_samples if plan["work"] == "grpo" else from_rows
    with tempfile.TemporaryDirectory() as runs:
        measures = work(plan, settings, model, Path(runs) / "run")
    measures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    out.write_text(json.dumps(measures))


def from_rows(plan: dict[str, Any], settings: dict[str, Any], model: Policy, run: Path) -> dict[str, Any]:
    """Train SFT, DPO or a reward model on the rows."""
    method = METHODS[plan["work"]](**settings)
    result = method.fit(model, plan["rows"], out=run)
    trees = method.encode(model, load_data(plan["rows"]), LeftOut())
    read = [sum(len(tree.prompt) + len(branch.tokens) for branch in tree.branches) for tree in trees]
    order = Order(len(trees), plan["batch_size"], plan["seed"])
    tokens = [sum(read[i] for i in order.batch(step)) for step in range(plan["steps"])]
    return {"tokens": tokens, **logged(result, "seconds", "loss", "gradient_norm")}


def from_samples(plan: dict[str, Any], settings: dict[str, Any], model: Policy, run: Path) -> dict[str, Any]:
    """Train GRPO on samples of the rows' prompts."""
    method = TimedGRPO(**settings, **{name: plan[name] for name in SAMPLING})
    result = method.fit(model, plan["rows"], reward=length, out=run)
    parts = ("generation", "reference", "update")
    measures = logged(result, "seconds", *parts, "tokens_read", "loss", "gradient_norm", "reward", "entropy")
    return measures | {"tokens": measures.pop("tokens_read"), "samples": method.timed_learner.first}


def logged(result: Result, *names: str) -> dict[str, list[Any]]:
    """What the run logged under these names in each step."""
    return {name: [row[name] for row in result.metrics] for name in names}


class TimedGRPO(GRPO):
    """GRPO that logs the seconds of each part of a step."""

    def learner(self, policy: Policy, reward: Reward) -> TimedLearner:
        self.timed_learner = TimedLearner(self, policy, reward)
        return self.timed_learner


class TimedLearner(GroupLearner):
    """Logs the seconds of each part of a step, and the tokens of its samples with their prompts.

    `first` has the tokens of the first step's samples.
    """

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        self.seconds: dict[str, float] = defaultdict(float)
        rollout = self.timed("generation", lambda: sample(self.method, self.policy, items, self.reward, step))
        row = self.learn(step, rollout, optimizer)
        if step == 0:
            self.first = [list(s.completion.tokens) for s in rollout.samples]
        tokens = sum(len(s.prompt_tokens) + len(s.completion.tokens) for s in rollout.samples)
        self.seconds["update"] -= self.seconds["reference"]
        return rollout.result({**row, **self.seconds, "tokens_read": tokens})

    def learn(self, step: int, rollout: Rollout, optimizer: Optimizer) -> dict[str, float]:
        return self.timed("update", lambda: super(TimedLearner, self).learn(step, rollout, optimizer))

    def score(self, trees: Trees) -> Experience:
        return self.timed("reference", lambda: super(TimedLearner, self).score(trees))

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = work()
        self.seconds[name] += time.perf_counter() - began
        return done


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
