"""Samples drawn ahead: each step learns from those of the weights that its number says, whatever happens on the way."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accord.engine.config import SamplerConfig
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.methods import GRPO, PPO, RAFT, REINFORCE, RLOO, OnlineDPO
from accord.methods.rollouts import Rollout
from accord.objectives import kl
from accord.prompting.asynchronous import AsynchronousSampler
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from accord.train.loop import Result
from tests.commands.small import read_jsonl
from tests.feedback.serving import serving
from tests.prompting.pretend_vllm import Vllm, alone
from tests.prompting.sampled import PROMPTS, judge, score, weights

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2, "batch_size": 3, "group_size": 4, "max_new_tokens": 6, "temperature": 0.7, "max_steps": 5,
    "dtype": "float32",
}  # fmt: skip
CHECKED, EACH = 6, 12
"""Samples before the first step, and of a step."""


pytestmark = pytest.mark.usefixtures("blank_reports")


def run(method: Any, model: str | Policy, out: Path, **more: Any) -> Result:
    feedback = {"judge": judge} if isinstance(method, OnlineDPO) else {"reward": more.pop("reward", score)}
    options = {"track": "none", "save_every": 2, "sample_every": 1, **more}
    return method.fit(model, PROMPTS, **feedback, out=out, **options)


class Late:
    """The sampler that draws in this process from the weights of `stale` calls before, all of which it keeps."""

    def __init__(self, stale: int) -> None:
        self.stale, self.kept = stale, list[Policy]()

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[tuple[int, ...]],
        n: int = 1,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.kept.append(policy.with_network(copy.deepcopy(policy.network)))
        return alone(self.kept[max(0, len(self.kept) - 1 - self.stale)], prompts, n, sampling)


def late(method: Any, base: str, out: Path, stale: int) -> Result:
    return run(method, load_model(base).sampled_by(Late(stale)), out)


def same(found: Result, wanted: Result, *names: str) -> None:
    """Weights bit for bit, and what was logged."""
    for name, weight in weights(wanted).items():
        assert torch.equal(weights(found)[name], weight), name
    for row, other in zip([row for row in found.metrics if row["step"]], wanted.metrics, strict=True):
        assert {k: row.get(k) for k in names} == {k: other.get(k) for k in names}
        assert row.get("kl") == pytest.approx(other.get("kl"), abs=1e-5), "what the sampler says is rounded elsewhere"


@pytest.mark.parametrize("stale", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_step_learns_from_samples_of_the_weights_that_its_number_says(stale: int, base: str, tmp_path: Path) -> None:
    with serving(Vllm(base)) as vllm:
        found = run(GRPO(**SETTINGS, sampler=vllm.url, stale_steps=stale), base, tmp_path / "run")
    wanted = late(GRPO(**SETTINGS), base, tmp_path / "wanted", stale)
    same(found, wanted, "reward", "loss", "length")
    assert [row["staleness"] for row in found.metrics] == [min(step, stale) for step in range(5)]
    for row, other in zip(found.metrics, wanted.metrics, strict=True):
        assert row["sampler_drift"] < 1e-5, "it is of the weights that drew"
        assert row["off_policy_drift"] == pytest.approx(other["sampler_drift"], abs=1e-6), "which the policy has left"
        assert (row["off_policy_drift"] > 1e-3) == (row["staleness"] > 0)
        assert row["samples_wait_seconds"] >= 0
    shown = read_jsonl(tmp_path / "run" / "samples.jsonl")
    assert [row["version"] for row in shown] == [max(0, row["step"] - 1 - stale) for row in shown]
    assert vllm.drawn == CHECKED + 5 * EACH
    handed = [body["kwargs"]["weights_path"] for path, body in vllm.asked if path == "/collective_rpc"]
    assert len(set(handed)) == len(handed) == 1 + 5 - stale, "nudged ones, and those that a step's samples are of"
    assert not list((tmp_path / "run").glob(".sampler*"))


def test_the_next_step_is_sampled_while_a_step_is_trained_on(base: str, tmp_path: Path) -> None:
    """A reward that waits for the samples of the next step would wait in vain otherwise."""
    with serving(Vllm(base)) as vllm:
        seen: list[int] = []

        def waits(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
            wanted, until = CHECKED + EACH * min(5, len(seen) + 2), time.monotonic() + 20
            while vllm.drawn < wanted and time.monotonic() < until:
                time.sleep(0.01)
            seen.append(vllm.drawn)
            return score(prompts, completions)

        run(GRPO(**SETTINGS, sampler=vllm.url, stale_steps=1), base, tmp_path / "run", reward=waits)
    assert seen == [CHECKED + EACH * min(5, step + 2) for step in range(5)]


NAMES = ("reward", "loss", "length", "kl", "sampler_drift", "off_policy_drift", "staleness")


def test_a_run_that_ends_early_goes_on_bit_for_bit(base: str, tmp_path: Path) -> None:
    """Its checkpoint holds what was drawn ahead: of weights that are no more."""

    def stop(step: int, _: Any) -> None:
        if step == 3:
            raise StopIteration

    method = {**SETTINGS, "stale_steps": 2, "importance_cap": 2.0}
    with serving(Vllm(base)) as vllm:
        whole = run(GRPO(**method, sampler=vllm.url), base, tmp_path / "whole")
    with serving(Vllm(base)) as first, suppress(StopIteration):
        run(GRPO(**method, sampler=first.url), base, tmp_path / "run", on_step=stop)
    with serving(Vllm(base)) as second:
        found = run(GRPO(**method, sampler=second.url), base, tmp_path / "run", resume=True)
    same(found, whole, *NAMES, "importance_weight")
    assert second.drawn == CHECKED + EACH, "steps 3 and 4 were drawn before the checkpoint after step 2"
    with pytest.raises(InputError, match="was run with stale_steps = 2, not 1"):
        run(GRPO(**method | {"stale_steps": 1}, sampler=second.url), base, tmp_path / "run", resume=True)


def test_a_run_whose_server_stays_away_goes_on_from_its_last_checkpoint(base: str, tmp_path: Path) -> None:
    """What the server has not drawn cannot be in a checkpoint."""
    method = {**SETTINGS, "stale_steps": 1}
    with serving(Vllm(base)) as vllm:
        whole = run(GRPO(**method, sampler=vllm.url), base, tmp_path / "whole")
    with (
        serving(Vllm(base, dies_after=CHECKED + 4 * EACH + 5)) as first,
        pytest.raises(
            InputError, match=r"waited for 3 seconds \(.*\): start it again, and give the same command again"
        ),
    ):
        run(GRPO(**method, sampler=first.url, sampler_wait=3), base, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000002"]
    with serving(Vllm(base)) as second:
        found = run(GRPO(**method, sampler=second.url), base, tmp_path / "run", resume=True)
    same(found, whole, *NAMES)


def test_weights_are_kept_until_they_have_been_drawn_from(base: str, tmp_path: Path) -> None:
    """Of three versions none is gone when it is its turn, though a server that was busy reads them all later."""
    policy, sampling = load_model(base, dtype="float32"), Sampling(6, 0.7, seed=3)
    asked = [(5, 6), (7,)]
    drawn: list[Any] = []
    with serving(Vllm(base)) as vllm:
        made = AsynchronousSampler(SamplerConfig(sampler=vllm.url), tmp_path)
        wanted = []
        with vllm.lock:  # it answers nothing as yet
            for step in range(3):
                wanted.append(alone(policy, asked, 2, replace(sampling, seed=step)))
                if step < 2:
                    made.ask(step, step, policy, asked, 2, replace(sampling, seed=step))
                    with torch.no_grad():
                        policy.network.lm_head.weight.mul_(1.5)
            last = threading.Thread(target=lambda: drawn.append(made(policy, asked, 2, replace(sampling, seed=2))))
            last.start()
            while made.handover.count < 3:
                time.sleep(0.01)
        last.join()
        said = [made(policy, asked, 2, replace(sampling, seed=step)) for step in range(2)]
        made.close()
    assert drawn == wanted[2:]
    for step in range(2):
        assert [one.tokens for group in said[step] for one in group] == [o.tokens for g in wanted[step] for o in g]
        assert {one.version for group in said[step] for one in group} == {step}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "more"),
    [
        (PPO, {}),
        (OnlineDPO, {}),
        pytest.param(REINFORCE, {"kl_coefficient": 0.0}, marks=pytest.mark.slow),
        pytest.param(RLOO, {"kl_coefficient": 0.0}, marks=pytest.mark.slow),
        pytest.param(RAFT, {}, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "command", ""),
)
def test_other_methods(method: Any, more: dict[str, Any], base: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, **more, "max_steps": 3}
    with serving(Vllm(base)) as vllm:
        found = run(method(**settings, sampler=vllm.url, stale_steps=1), base, tmp_path / "run")
    same(found, late(method(**settings), base, tmp_path / "wanted", 1), "reward", "loss")
    assert [row["staleness"] for row in found.metrics] == [0, 1, 1]


def test_the_divergence_taken_off_a_reward_is_that_of_the_policy_that_learns(base: str) -> None:
    """What an older policy drew has its log-probabilities; `old` are those of the policy before its update."""
    policy, older = load_model(base, dtype="float32"), load_model(base, dtype="float32")
    settings = {**SETTINGS, "kl_coefficient": 0.1, "sampler": "http://h"}
    learner: Any = RLOO(**settings, stale_steps=1).learner(policy, score)
    with torch.no_grad():
        for weight in policy.network.parameters():
            weight.mul_(1.1)
    tokens = (5, 6)
    said = [one for group in alone(older, [tokens], 4, Sampling(6, 0.7, seed=1)) for one in group]
    prompt = Prompt("hi")
    samples = [Sample(prompt, policy.text(one.tokens), tokens, one) for one in said]
    rollout = Rollout.of([EncodedPrompt(prompt, tokens, 0)], samples, [1.0, 0.0, 0.0, 2.0])
    [[batch]], _ = learner.experience(0, rollout)
    drew, now, at_first = batch.logprobs, policy.log_probs(batch, 0.7), older.log_probs(batch, 0.7)
    assert torch.allclose(drew, at_first.double(), atol=1e-5) and not torch.allclose(drew, now.double(), atol=1e-2)
    assert torch.equal(batch.old, now) and torch.equal(batch.kl, kl.k1(now, at_first))
    [[batch]], _ = RLOO(**settings).learner(older, score).experience(0, rollout)  # type: ignore[attr-defined]
    assert batch.old is None and torch.allclose(batch.kl, torch.zeros_like(batch.kl), atol=1e-5)


def test_answers_for_a_measure_are_of_the_policy_as_it_is(base: str, tmp_path: Path) -> None:
    """They wait for their turn, and the run is the same without them."""
    method = {**SETTINGS, "stale_steps": 2, "max_steps": 3}
    watched: list[int] = []

    def measure(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        watched.append(len(completions))
        return [float(len(text)) for text in completions]

    with serving(Vllm(base)) as vllm:
        plain = run(GRPO(**method, sampler=vllm.url), base, tmp_path / "plain")
        given = {"watch": measure, "watch_data": PROMPTS[:2], "watch_every": 1}
        found = run(GRPO(**method, sampler=vllm.url), base, tmp_path / "run", **given)
        with pytest.raises(InputError, match="watch and watch_data go together"):
            run(GRPO(**method, sampler=vllm.url), base, tmp_path / "own", watch=measure)
    same(found, plain, *NAMES)
    assert watched == [2] * 4
    assert load_file(tmp_path / "run" / "best" / "model.safetensors")
