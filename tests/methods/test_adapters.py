"""Runs that train adapters: the reference, resuming, watching, what folders hold, merging and training on."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import accord
from accord import objectives
from accord.engine import lora
from accord.engine.models import Policy
from accord.engine.targets import targets
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.feedback.judge import ScoreJudge
from accord.methods import DPO, GRPO, PPO, SFT, NashMD, PreferenceModel, RewardModel
from tests.commands.small import accord as command
from tests.commands.small import save_model
from tests.engine.test_adapters import RANK_2, gradients, trained
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, random_model
from tests.interrupted import interrupt_at
from tests.methods.test_policy_gradients import rollout_of

ADAPTERS: dict[str, Any] = {"lora_rank": 2, "learning_rate": 1e-2, "dtype": "float32", "batch_size": 2, "max_steps": 3}
PAIRS = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")]
TREES = Trees.of([Tree((6, 7, 8), (Branch((9, 10, 11)), Branch((6, 9))))])


LONGER = ScoreJudge(lambda _, text: float(len(str(text))))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("base") / "model")


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def test_dpo_begins_at_log_2_and_leaves_adapters_that_peft_reads(base: str, tmp_path: Path) -> None:
    result = DPO(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "run")
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    folder = tmp_path / "run" / "model"
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {f.name for f in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    theirs = AutoModelForCausalLM.from_pretrained(folder)  # which reads the base, and adds the adapter
    assert sum("lora_" in name for name, _ in theirs.named_parameters()) == len(
        load_file(folder / "adapter_model.safetensors")
    )
    tokens = torch.tensor([[6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        expected = theirs(input_ids=tokens).logits.log_softmax(-1)[0, 2:5].gather(1, tokens[0, 3:, None]).squeeze(1)
        torch.testing.assert_close(result.model.log_probs(TREES)[:3], expected, rtol=0, atol=1e-5)
        again = accord.load_model(str(folder))
        torch.testing.assert_close(again.log_probs(TREES), result.model.log_probs(TREES), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        (GRPO(**ADAPTERS, group_size=2, max_new_tokens=3), {"reward": length}),
        (PPO(**ADAPTERS, max_new_tokens=3), {"reward": length}),
        (
            NashMD(**ADAPTERS, past=2, snapshot_every=1, max_new_tokens=3),
            {"judge": LONGER},
        ),
    ],
    ids=lambda value: getattr(value, "command", ""),
)
def test_a_stopped_run_goes_on_bit_for_bit(method: Any, more: dict[str, Any], base: str, tmp_path: Path) -> None:
    whole = method.fit(base, PAIRS, out=tmp_path / "whole", **more)
    with pytest.raises(KeyboardInterrupt):
        method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, on_step=interrupt_at(2), **more)
    saved = load_file(max((tmp_path / "cut/checkpoints").iterdir()) / "policy.safetensors")
    assert saved and all("lora_" in name for name in saved)
    assert whole.metrics[0]["kl"] == pytest.approx(0, abs=1e-5)
    method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, resume=True, **more)
    ours, theirs = (load_file(tmp_path / run / "model/adapter_model.safetensors") for run in ("whole", "cut"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_reward_models_with_adapters_judge_and_are_rewards(base: str, tmp_path: Path) -> None:
    result = RewardModel(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "rm")
    again = accord.load_reward_model(str(tmp_path / "rm/model"))
    assert "from_pretrained(name, num_labels=1)" in (tmp_path / "rm/model/README.md").read_text()
    with torch.no_grad():
        torch.testing.assert_close(again.rewards(TREES), result.model.rewards(TREES), rtol=0, atol=1e-5)  # type: ignore
    GRPO(**ADAPTERS, group_size=2, max_new_tokens=3).fit(
        base, PAIRS, reward=str(tmp_path / "rm/model"), out=tmp_path / "g"
    )
    PPO(**ADAPTERS, max_new_tokens=3).fit(base, PAIRS, reward=str(tmp_path / "rm/model"), out=tmp_path / "p")


def test_the_best_that_is_watched_holds_adapters(base: str, tmp_path: Path) -> None:
    SFT(**ADAPTERS).fit(
        base, PAIRS, out=tmp_path / "run", watch=length, watch_data=PAIRS, watch_every=1, watch_tokens=3
    )
    best = accord.load_model(str(tmp_path / "run/best"))
    assert (tmp_path / "run/best/adapter_model.safetensors").exists()
    assert best.log_probs(TREES).isfinite().all()


def test_what_is_trained_on_an_adapter_holds_both(base: str, tmp_path: Path) -> None:
    SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "one")
    first = str(tmp_path / "one/model")
    result = DPO(**ADAPTERS).fit(first, PAIRS, out=tmp_path / "two")
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    second = accord.load_model(str(tmp_path / "two/model"))
    with torch.no_grad():
        torch.testing.assert_close(second.log_probs(TREES), result.model.log_probs(TREES), rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "two/model/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 4)


def test_layers_that_neither_adapter_has_are_left_out(base: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"layers_to_transform": [1], "layers_pattern": "layers", "task_type": "CAUSAL_LM"}
    first = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, target_modules=["q_proj"], **given)
    )
    trained(first).save_pretrained(tmp_path / "one")
    result = SFT(**ADAPTERS, lora_targets="v_proj").fit(str(tmp_path / "one"), PAIRS, out=tmp_path / "two")
    config = json.loads((tmp_path / "two/model/adapter_config.json").read_text())
    assert config["exclude_modules"] == ["model.layers.0.self_attn.q_proj"]
    second = accord.load_model(str(tmp_path / "two/model"))
    with torch.no_grad():
        torch.testing.assert_close(second.log_probs(TREES), result.model.log_probs(TREES), rtol=0, atol=1e-5)


def test_merge_writes_a_whole_model(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "run")
    assert command("merge", "--model", tmp_path / "run/model", "--out", tmp_path / "whole") == 0
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    tokens = torch.tensor([[6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        torch.testing.assert_close(
            whole(input_ids=tokens).logits, result.model.network(input_ids=tokens).logits, rtol=0, atol=1e-5
        )
    assert command("merge", "--model", base, "--out", tmp_path / "no") == 2
    assert "holds no adapter" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_adapters_that_cannot_be_used_are_told(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DPO(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "run")
    RewardModel(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "rm")
    lost = tmp_path / "lost"
    shutil.copytree(tmp_path / "run/model", lost)
    config = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/no/such/base"}))
    (lost / "SHA256SUMS").unlink()
    for folder, said in (
        (lost, "holds an adapter of /no/such/base, and there is no such folder: name the model it is for in"),
        (
            tmp_path / "rm/model",
            "is a reward or preference model, not a language model",
        ),
    ):
        assert command("sample", "--model", folder, "--data", "hi", "--out", tmp_path / "s.jsonl") == 2
        assert said in capsys.readouterr().err
    with pytest.raises(InputError, match=r"run/model is not a reward model: it is an adapter of a language model"):
        accord.load_reward_model(str(tmp_path / "run/model"))
    three = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    peft.get_peft_model(three, config).save_pretrained(tmp_path / "three")
    with pytest.raises(InputError, match=r"with one label, and is a LlamaForSequenceClassification with 3; train one"):
        accord.load_reward_model(str(tmp_path / "three"))
    with pytest.raises(InputError, match=r"lora_alpha is for adapters: give lora_rank"):
        DPO(lora_alpha=4)
    assert command("push", tmp_path / "run/model", "me/mine") == 2
    assert f"is an adapter of {base}, a folder of this machine" in capsys.readouterr().err


def test_adapters_in_memory_are_trained_on_by_their_rank_alone(base: str, tmp_path: Path) -> None:
    model = SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "one").model
    with pytest.raises(InputError, match=r"has adapters of rank 2 in memory, and lora_rank is 0: give rank 2"):
        SFT(**ADAPTERS | {"lora_rank": 0}).fit(model, PAIRS, out=tmp_path / "two")  # type: ignore[arg-type]
    result = DPO(**ADAPTERS).fit(model, PAIRS, out=tmp_path / "three")  # type: ignore[arg-type]
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_preference_models_with_adapters_are_read_as_what_they_are(base: str, tmp_path: Path) -> None:
    result = PreferenceModel(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "pm")
    again = accord.load_preference_model(str(tmp_path / "pm/model"))
    with torch.no_grad():
        torch.testing.assert_close(again.outputs(TREES), result.model.outputs(TREES), rtol=0, atol=1e-5)  # type: ignore


EXACT: dict[str, Any] = {"lora_rank": 2, "lora_alpha": 3, "dtype": "float32"}
SAMPLED = [
    Tree(prompt, tuple(Branch(t, None, (0.0,) * len(t), r) for t, r in zip(texts, rewards, strict=True)), row=row)
    for row, (prompt, texts, rewards) in enumerate(
        [((5, 3, 2), ((4, 1, 7, 0), (2, 6)), (1.0, 0.0)), ((8, 8), ((9, 0), (3, 3, 1)), (0.2, 0.7))]
    )
]


def exact_policies() -> tuple[Policy, Any]:
    """A policy with adapters, and peft's own: OPT, which in float64 computes nothing in less with this attention."""
    plain = random_model(CONFIGS["opt"]())
    plain.set_attn_implementation("sdpa")
    policy = lora.adapt(policy_of(copy.deepcopy(plain)), RANK_2)
    config = peft.LoraConfig(target_modules=targets(plain, None).names, r=2, lora_alpha=3)
    return policy, peft.get_peft_model(plain, config, autocast_adapter_dtype=False)


def same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and all(bool(gradient.any()) for gradient in theirs.values())
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-10)


def test_the_gradient_of_dpo_is_that_of_peft_on_plain_forwards() -> None:
    policy, theirs = exact_policies()
    objective = DPO(**EXACT, beta=0.3).objective(policy)
    trained(policy.network)
    trained(theirs)
    trees = [Tree(tree.prompt, tree.branches, ranks=(0, 1)) for tree in SAMPLED]

    def margins() -> Tensor:
        tokens = plain_log_probabilities(theirs, trees).split([len(b.tokens) for t in trees for b in t.branches])
        sums = torch.stack([each.sum() for each in tokens])
        return sums[0::2] - sums[1::2]

    with theirs.disable_adapter(), torch.no_grad():
        reference = margins()
    expected = -torch.nn.functional.logsigmoid(0.3 * (margins() - reference))
    loss, _ = objective(Trees.of(trees))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    same_gradients(gradients(policy.network, loss.sum()), gradients(theirs, expected.sum()))


def scored(learner: Any, theirs: Any) -> tuple[list[Any], list[Tensor]]:
    """The packs of a rollout by a policy that has moved once since the start, and moves again afterwards; and log pi by
    peft on plain forwards. What was scored before is compared."""
    trained(learner.policy.network)
    [batches], _ = learner.experience(0, rollout_of(SAMPLED, (True, False, True, False)))
    trained(theirs)
    for batch in batches:
        with torch.no_grad():
            torch.testing.assert_close(batch.old, plain_log_probabilities(theirs, batch.trees), rtol=0, atol=1e-10)
            with theirs.disable_adapter():
                reference = plain_log_probabilities(theirs, batch.trees)
        torch.testing.assert_close(batch.reference, reference, rtol=0, atol=1e-10)
    trained(learner.policy.network, seed=8)
    trained(theirs, seed=8)
    return batches, [plain_log_probabilities(theirs, batch.trees) for batch in batches]


def test_the_gradient_of_grpo_is_that_of_peft_on_plain_forwards() -> None:
    policy, theirs = exact_policies()
    learner = GRPO(**EXACT, group_size=2, inner_epochs=2, kl_coefficient=0.3).learner(policy, length)
    batches, logp = scored(learner, theirs)
    loss = torch.cat([learner.loss(batch)[0] for batch in batches])
    expected = torch.cat([learner.method.loss(x, batch)[0] for x, batch in zip(logp, batches, strict=True)])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    same_gradients(gradients(policy.network, loss.sum()), gradients(theirs, expected.sum()))


def test_the_gradients_of_ppo_are_those_of_peft_on_plain_forwards() -> None:
    policy, theirs = exact_policies()
    _, valued = exact_policies()
    learner = PPO(**EXACT, group_size=2, inner_epochs=2, value_coefficient=0.5).learner(policy, length)
    trained(learner.value.network, seed=9)
    batches, logp = scored(learner, theirs)
    trained(learner.value.network, seed=10)
    own = dict(learner.value.network.named_parameters())
    for name, parameter in valued.named_parameters():
        parameter.data = own.get(name.removeprefix("base_model.model."), parameter).data
    head = own["score.weight"].detach().clone().requires_grad_(True)
    expected = []
    for x, batch in zip(logp, batches, strict=True):
        value = plain_values(valued, head, batch.trees)
        regression = objectives.policy.value(value, batch.values, batch.returns, clip=learner.method.value_clip)
        expected.append(learner.method.loss(x, batch)[0] + 0.5 * regression)
    loss = torch.cat([learner.loss(batch)[0] for batch in batches])
    torch.testing.assert_close(loss, torch.cat(expected), rtol=0, atol=1e-10)
    total, wanted = loss.sum(), torch.cat(expected).sum()
    same_gradients(gradients(policy.network, total), gradients(theirs, wanted))
    of_head = torch.autograd.grad(wanted, head, retain_graph=True)[0]
    same_gradients(gradients(learner.value.network, total), {**gradients(valued, wanted), "score.weight": of_head})


def plain_values(network: Any, head: Tensor, trees: Sequence[Tree]) -> Tensor:
    """The value where each token is predicted, every branch in a forward of its own."""
    values = []
    for tree in trees:
        for branch in tree.branches:
            tokens = torch.tensor([tree.prompt + branch.tokens])
            hidden = network.base_model.model.model(input_ids=tokens, use_cache=False).last_hidden_state[0]
            values.append((hidden @ head.T).squeeze(1)[len(tree.prompt) - 1 : -1])
    return torch.cat(values)
