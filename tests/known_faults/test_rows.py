"""Rows: what of them is trained on, what they are compared with, and that each comes up once in a pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from accord.data import Order
from accord.data.encoding import encode
from accord.engine.classifiers import Scorer
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.precision import autocast
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, LeftOut
from accord.methods import DPO, RLOO, SFT, RewardModel
from accord.objectives.segments import segment_sum
from accord.records import Demonstration, Preference, Prompt
from accord.train.rows import read_metrics
from tests.commands.small import write_jsonl
from tests.data.conftest import BAD, BYE, DAY, EOS, GOOD, UNK, word_tokenizer
from tests.engine.tiny import CONFIGS, plain_log_probabilities, random_model, randomize
from tests.known_faults.learners import DEMONSTRATIONS, PAIRS, noted, settings
from tests.methods.learners import LENGTH, policy_at


def test_the_end_of_turn_is_trained_though_it_is_the_padding_token() -> None:
    policy, plain = policy_at(), random_model(CONFIGS["gpt2"]())
    policy.tokenizer = word_tokenizer(pad_token="</s>")
    policy.network.config.pad_token_id = EOS
    sft = SFT(dtype="float32")
    trees = Trees.of(sft.encode(policy, DEMONSTRATIONS, LeftOut()))
    assert trees.target.tolist() == [GOOD, EOS, GOOD, DAY, BYE, EOS, BAD, EOS]
    values, _ = sft.objective(policy)(trees)
    expected = -plain_log_probabilities(plain, trees.trees)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10)
    ends = trees.target == EOS
    got, wanted = (
        torch.autograd.grad(v[ends].sum(), list(n.parameters()))
        for v, n in ((values, policy.network), (expected, plain))
    )
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert max(float(g.abs().max()) for g in got) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_margin_of_ten_thousand_has_a_finite_loss(dtype: Any) -> None:
    # -log sigmoid of 10,000 is 0 and of -10,000 it is 10,000; their mean is 5,000.
    scorer, method = Scorer.on(policy_at("gpt2", torch.float32)), RewardModel(dtype=dtype)
    good, bad = Branch((7, EOS)), Branch((9, 10, EOS))
    trees = Trees.of([Tree((6,), (good, bad), ranks=(0, 1)), Tree((6,), (good, bad), ranks=(1, 0))])
    with torch.no_grad(), autocast(getattr(torch, dtype)):
        first, second, *_ = scorer.rewards(trees).tolist()
        head: nn.Linear = scorer.network.score  # type: ignore[assignment]
        head.weight.mul_(1e4 / (first - second))
    row = Optimizer({"model": scorer.network}, method, 1).update(0, LossTerm(method.objective(scorer), [trees], "tree"))
    assert row["loss"] == pytest.approx(5000, rel=1e-4)
    assert row["accuracy"] == 0.5


def test_an_empty_completion_is_refused_by_name(tmp_path: Path) -> None:
    pair = {"prompt": "hi", "chosen": "good", "rejected": "bad"}
    data = write_jsonl(tmp_path / "pairs.jsonl", [pair, {**pair, "rejected": ""}])
    with pytest.raises(InputError, match=r"pairs\.jsonl, line 2: 'rejected' is empty"):
        DPO().fit(policy_at(), data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_of_odd_size_hold_whole_pairs_and_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 pairs, 3 at a time: 3 and 2. At a rate of nothing each step's loss is the mean of its pairs' alone.
    seen = noted(monkeypatch)
    method = RewardModel(batch_size=3, tokens_per_pass=8, learning_rate=1e-30, dtype="float32")
    rows = method.fit(policy_at(), PAIRS, out=tmp_path / "run").metrics
    scorer = Scorer.on(policy_at(), method.seed)
    trees, loss = method.encode(scorer, PAIRS, LeftOut()), method.objective(scorer)
    alone = [loss(Trees.of([tree]))[0].item() for tree in trees]
    batches = [Order(5, 3, method.seed).batch(step) for step in range(2)]
    assert [len(b) for b in batches] == [3, 2] and sorted(batches[0] + batches[1]) == [0, 1, 2, 3, 4]
    for step, batch in enumerate(batches):
        whole = [(row, [branch.tokens for branch in trees[row].branches]) for row in sorted(batch)]
        assert seen[step] == (step, whole) and all(len(branches) == 2 for _, branches in whole)
        assert rows[step]["loss"] == pytest.approx(sum(alone[row] for row in batch) / len(batch), abs=1e-10)


def test_chosen_and_rejected_share_exactly_the_tokens_of_the_prompt() -> None:
    # As one text "good" and "bye" are the unknown word "goodbye", which would leave nothing of the prompt.
    tokenizer = word_tokenizer()
    assert tokenizer("goodbye", add_special_tokens=False)["input_ids"] == [UNK]
    [tree] = encode(tokenizer, [Preference("good", "bye", "day")], max_length=9, context=None).trees
    assert tree == Tree((GOOD,), (Branch((BYE, EOS)), Branch((DAY, EOS))), (0, 1), 0)


def test_a_completion_that_would_be_cut_away_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Demonstration("hi", "good day bye"), Demonstration("hi hello good", "bad"), Demonstration("bye", "bad")]
    seen = noted(monkeypatch)
    SFT(max_length=3, batch_size=3, dtype="float32").fit(policy_at(), rows, out=tmp_path / "run")
    assert seen == [(0, [(0, [(GOOD, DAY)]), (2, [(BAD, EOS)])])]
    told = " ".join(capsys.readouterr().err.split())
    assert "1 row left out, as the prompt leaves no room for a completion within 3 tokens (row 2)" in told


def test_the_reference_is_the_model_before_this_stage_and_stays_it(tmp_path: Path) -> None:
    sft = SFT(learning_rate=0.05, max_steps=2, batch_size=3, dtype="float32")
    tuned: Any = sft.fit(policy_at(), DEMONSTRATIONS, out=tmp_path / "sft").model
    trees = Trees.of(encode(tuned.tokenizer, PAIRS[:2], max_length=9, context=None).trees)
    with torch.no_grad():
        base, before = (log_probabilities(n, trees)[0] for n in (policy_at().network, tuned.network))
        learner: Any = RLOO(**settings()).learner(tuned, LENGTH)
        dpo = DPO(beta=0.3, dtype="float32").objective(tuned)
        randomize(tuned.network, 7)  # the stage moves the policy
        now, _ = log_probabilities(tuned.network, trees)
        assert torch.equal(learner.reference.log_probs(trees), before)
        assert float((before - base).abs().min()) > 1e-3
        margins = 0.3 * segment_sum(now - before, trees.owner, trees.branches)
        torch.testing.assert_close(dpo(trees)[1]["chosen_reward"], margins[0::2], rtol=0, atol=1e-10)
        torch.testing.assert_close(dpo(trees)[1]["rejected_reward"], margins[1::2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [SFT, RLOO])
def test_a_resumed_run_neither_replays_nor_skips_a_batch(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 rows, 2 at a time, are passes of 3 steps. The run ends in its sixth step, past a checkpoint of four.
    online = kind is RLOO
    given: dict[str, Any] = {"reward": LENGTH} if online else {}
    rows: Sequence[Any] = (
        [Prompt(pair.prompt) for pair in PAIRS] if online else [Demonstration(p.prompt, p.chosen) for p in PAIRS]
    )
    common: dict[str, Any] = {"batch_size": 2, "max_steps": 8, "learning_rate": 1e-2}
    method = kind(**(settings(**common) if online else {"dtype": "float32", **common}))

    def session(out: str, stop: int | None = None, resume: bool = False) -> list[tuple[int, list[Any]]]:
        with monkeypatch.context() as patch:
            seen = noted(patch, stop)
            try:
                method.fit(policy_at(), rows, out=tmp_path / out, save_every=2, resume=resume, **given)
            except KeyboardInterrupt:
                assert stop is not None
            return seen

    straight, begun, ended = session("straight"), session("stopped", stop=5), session("stopped", resume=True)
    assert [step for step, _ in straight] == list(range(8))
    assert begun == straight[:5] and ended == straight[4:]
    assert [row["step"] for row in read_metrics(tmp_path / "stopped")] == list(range(1, 9))
