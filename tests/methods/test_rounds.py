"""Rounds of sampling, selecting and fine-tuning: their exact form on an enumerable world, and runs that are killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config

from accord.data.encoding import encode_prompts
from accord.engine import checkpoint
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.errors import InputError, TrainingStopped
from accord.feedback.verifiers import regex
from accord.methods import RAFT, STaR, rounds
from accord.methods.method import maximum_likelihood
from accord.methods.rounds import Round, RoundsMethod, Selection, as_row, as_trees
from accord.objectives.segments import segment_sum
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from accord.train.loop import Result
from accord.train.rows import read_metrics
from examples.worlds.enumerable import END, Enumerable
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.engine.tiny import policy_of, random_model

WORLD = Enumerable(vocabulary=3, length=2)
PROMPTS = [EncodedPrompt(Prompt(""), tokens, row) for row, tokens in enumerate([(1, 2), (2, 1, 1)])]
EVERY = [
    Sample(p.prompt, "", p.tokens, Completion(s, (0.0,) * len(s), "end" if s[-1] == END else "length"), p.row)
    for p in PROMPTS
    for s in WORLD.sequences
]
"""Every completion of both prompts once; 3 of 7 end by themselves."""


def policy_in_the_world(seed: int) -> Policy:
    """A GPT-2, which computes nothing in less than float64, over the world's tokens."""
    sizes = {"n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2, "attn_implementation": "eager"}
    return policy_of(random_model(GPT2Config(vocab_size=3, bos_token_id=None, eos_token_id=END, **sizes), seed))


def exact_round(
    policy: Policy, scores: Sequence[float], iterations: int
) -> tuple[Tensor, Tensor, Tensor, tuple[float, float]]:
    """One round in which every sample counts by its probability, its likelihood climbed in so many steps of L-BFGS.

    Returns:
        which of EVERY were learned (14,), their probabilities before and after, and the loss before and after.
    """
    reward = dict(zip(map(id, EVERY), scores, strict=True))
    method = STaR(hint="", group_size=7)
    at = Round(method, 1, policy, lambda samples: torch.tensor([reward[id(s)] for s in samples]))
    kept = method.select(at, PROMPTS, EVERY)[0]
    trees = Trees.of(as_trees(json.loads(json.dumps([as_row(s) for s in kept]))))
    before = probabilities(policy)
    learned = torch.tensor([any(s is k for k in kept) for s in EVERY])
    weight = (before / before[learned].sum())[learned]  # rows in order, so branches are as they are in EVERY
    objective = maximum_likelihood(policy)
    optimizer = torch.optim.LBFGS(
        policy.network.parameters(), max_iter=iterations, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight[trees.owner] * objective(trees)[0]).sum()
        loss.backward()
        return loss

    first = float(closure().detach())
    optimizer.step(closure)  # type: ignore[arg-type]
    return learned, before, probabilities(policy), (first, float(closure().detach()))


@torch.no_grad()
def probabilities(policy: Policy) -> Tensor:
    """pi of EVERY, (14,), which sum to 1 for each prompt."""
    trees = Trees.of([Tree(p.tokens, tuple(map(Branch, WORLD.sequences))) for p in PROMPTS])
    logp, _ = log_probabilities(policy.network, trees)
    found = segment_sum(logp, trees.owner, trees.branches).exp()
    assert found.view(2, 7).sum(1).tolist() == pytest.approx([1, 1], abs=1e-12)
    return found


@settings(max_examples=30)
@given(st.integers(1, 99), st.lists(st.booleans(), min_size=14, max_size=14), st.integers(1, 6))
def test_filtered_maximum_likelihood_never_lowers_mean_success(seed: int, right: list[bool], iterations: int) -> None:
    # With J the chance of a right sample: log(J' / J) >= E_q[log pi' - log pi], q being pi restricted to what is right.
    ended = [s.completion.stop == "end" for s in EVERY]
    right = [True, *right[1:]]  # the first prompt's silent completion, so that there is something to learn
    learned, before, after, loss = exact_round(policy_in_the_world(seed), list(map(float, right)), iterations)
    assert learned.tolist() == [r and e for r, e in zip(right, ended, strict=True)]
    success = [float(p[learned].sum()) for p in (before, after)]
    assert loss[1] <= loss[0]
    assert log(success[1] / success[0]) >= loss[0] - loss[1] - 1e-10
    assert success[1] >= success[0] - 1e-12


def test_a_threshold_is_the_conditional_distribution() -> None:
    # Rewards of 1 or more are learned: the optimum is pi given that, for each prompt, and nothing else is ever said.
    scores = [0.0, 1.0, 3.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.99, 1.0, 0.0, 1.0, 0.0, 0.0]
    learned, before, after, _ = exact_round(policy_in_the_world(3), scores, 400)
    assert learned.nonzero().flatten().tolist() == [1, 2, 7, 9]  # cut samples (places 3 to 6) are never right
    conditional = torch.where(learned, before, 0.0).view(2, 7)
    torch.testing.assert_close(after, (conditional / conditional.sum(1, keepdim=True)).flatten(), rtol=0, atol=2e-3)


def test_raft_with_a_threshold_keeps_the_same() -> None:
    scores = [0.0, 1.0, 3.0, 1.0, 0.0, 0.0, 0.0]
    branches = tuple(Branch(s, reward=r) for s, r in zip(WORLD.sequences, scores, strict=True))
    best = RAFT(keep=7, group_size=7, at_least=1.0).best(Tree(WORLD.prompt, branches), (END,))
    assert {b.tokens for b in best} == {WORLD.sequences[1], WORLD.sequences[2]}


VERIFIER = "regex:(good|bad)"
ROWS = [
    {"prompt": prompt, "answer": answer}
    for prompt, answer in [("hi", "good"), ("hello", "bad"), ("good day", "good"), ("bye", "bad"), ("bad day", "good")]
]
SIZES: dict[str, Any] = {"group_size": 8, "max_new_tokens": 6, "batch_size": 2, "tokens_per_pass": 24}


def star(**given: Any) -> STaR:
    settings = {**SIZES, "rounds": 2, "epochs": 2.0, "learning_rate": 1e-2, "hint": "{prompt} {answer}"}
    return STaR(dtype="float32", **{**settings, **given})


def train(model: str, out: Path, *, resume: bool = False, **given: Any) -> Result:
    return star(**given).fit(model, ROWS, verifier=VERIFIER, out=out, resume=resume, save_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def straight(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(base, tmp_path_factory.mktemp("runs") / "straight").folder


def fine_tuned(policy: Policy, method: RoundsMethod, rows: list[dict[str, Any]], number: int) -> Policy:
    """The policy after plain maximum likelihood of a round's rows, an optimizer step a batch."""
    trees, objective = as_trees(rows), maximum_likelihood(policy)
    order = method.order(len(trees))
    optimizer = Optimizer({"model": policy.network}, method, method.steps(len(trees), number))
    for step in range(optimizer.total):
        batch = [trees[i] for i in order.batch(step)]
        optimizer.update(step, LossTerm(objective, pack(batch, method.tokens_per_pass), "token"))
    return policy


@pytest.mark.parametrize("from_base", [True, False])
def test_each_round_samples_from_the_last_and_starts_where_it_should(
    base: str, straight: Path, tmp_path: Path, from_base: bool
) -> None:
    folder = straight if from_base else train(base, tmp_path / "on", from_base=False).folder
    method = star(from_base=from_base)
    policy = load_model(base)
    prompts, _ = encode_prompts(policy.tokenizer, [Prompt(r["prompt"], r) for r in ROWS], room=6, context=48)
    for number in (1, 2):
        rows = read_jsonl(folder / f"round-{number}.jsonl")
        said = policy.sample(prompts, method.group_size, method.sampling(number))
        right = [s for s, ok in zip(said, regex("(good|bad)")(said).tolist(), strict=True) if ok]
        kept = [list(s.completion.tokens) for s in right if s.completion.stop == "end"]
        solved = {s.row for s in right if s.completion.stop == "end"}
        assert [r["tokens"] for r in rows if r["row"] in solved] == kept
        start = load_model(base) if from_base else policy
        policy = fine_tuned(start, method, rows, number)
    final = load_model(str(folder / "model")).network.state_dict()
    for name, weight in policy.network.state_dict().items():
        assert torch.equal(weight, final[name]), name


def test_a_run_s_rows(straight: Path) -> None:
    metrics, files = read_metrics(straight), [read_jsonl(straight / f"round-{n}.jsonl") for n in (1, 2)]
    counted = [sum(row["round"] == n for row in metrics) for n in (1, 2)]
    # Two passes over 4 prompts and then over all 5, two at a time: 4 steps, and 6 times 1.2, rounded up.
    assert [len({row["row"] for row in rows}) for rows in files] == [4, 5]
    assert counted == [4, 8]
    assert [row["step"] for row in metrics] == list(range(1, sum(counted) + 1))
    for rows, n in zip(files, (1, 2), strict=True):
        mine = [row for row in metrics if row["round"] == n]
        assert len({row["solved"] + row["rationalized"] for row in mine}) == 1
        assert (mine[0]["solved"] + mine[0]["rationalized"]) * len(ROWS) == pytest.approx(len({r["row"] for r in rows}))
    shown = read_jsonl(straight / "samples.jsonl")
    assert [row["step"] for row in shown] == [1] * min(4, len(files[0])) + [counted[0] + 1] * min(4, len(files[1]))
    assert [row["completion"] for row in shown] == [row["completion"] for rows in files for row in rows[:4]]


class Killed(BaseException):
    """What no handler expects."""


def killing(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *, after: bool = False) -> None:
    """Let the function's call of that number, counted from 1, be the last thing that happens, done or not."""
    function, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not after:
            raise Killed
        result = function(*arguments, **named)
        if calls[0] == call:
            raise Killed
        return result

    patch.setattr(owner, name, counted)


MOMENTS = [
    ("write_rows", rounds, 1, False),
    ("write_rows", rounds, 1, True),
    ("save", checkpoint, 1, True),
    ("update", Optimizer, 4, False),
    ("write_rows", rounds, 2, True),
    ("save", checkpoint, 3, False),
    ("save", checkpoint, 3, True),
    ("update", Optimizer, 10, False),
]
"""Of a run with 4 + 8 steps and a checkpoint every 2, the third of them at the beginning of the second round."""


@pytest.mark.parametrize(("name", "owner", "call", "after"), MOMENTS)
def test_killed_and_resumed(
    base: str, straight: Path, tmp_path: Path, name: str, owner: Any, call: int, after: bool
) -> None:
    out, timed = tmp_path / "killed", {"seconds", "tokens_per_second"}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killing(patch, owner, name, call, after=after)
        train(base, out)
    assert not (out / "model").exists()
    train(base, out, resume=True)
    for file in ("model/model.safetensors", "samples.jsonl", "round-1.jsonl", "round-2.jsonl"):
        assert (out / file).read_bytes() == (straight / file).read_bytes(), file
    rows, expected = ([{k: r[k] for k in r.keys() - timed} for r in read_metrics(f)] for f in (out, straight))
    assert rows == expected


def test_what_a_round_selected_is_not_sampled_again(base: str, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killing(patch, Optimizer, "update", 2)
        train(base, out)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killing(patch, Round, "sample", 1)  # the next that samples is the second round
        train(base, out, resume=True)
    assert {row["round"] for row in read_metrics(out)} == {1}
    assert not (out / "round-2.jsonl").exists()


def test_steps_grow_from_round_to_round() -> None:
    # 40 steps, and 20% more each round: 40, 48, 57.6, all of them rounded up.
    grown = STaR(max_steps=40, rounds=3)
    assert [grown.steps(100, n) for n in (1, 2, 3)] == [40, 48, 58]
    learner = grown.learner(policy_in_the_world(0), regex("x")).learn_from(range(100), None)
    assert learner.total == 146
    learner.first, learner.number, learner.trees = 88, 3, [Tree((1,), ())] * 100
    assert learner.total - learner.first == 58
    # 2 epochs of 10 rows, 4 at a time, are 6 steps, and stay so without growth.
    assert [STaR(epochs=2, batch_size=4, growth=1.0).steps(10, n) for n in (1, 5)] == [6, 6]


def test_rows_of_any_text_come_back(tmp_path: Path) -> None:
    # Line separators within a text end no row.
    text = "one\u2028two\x85three\nfour"
    prompt = EncodedPrompt(Prompt(text), (5, 6), 7)

    class Odd(STaR):
        def select(self, at: Round, prompts: Sequence[EncodedPrompt], samples: Sequence[Sample]) -> Selection:
            return [Sample(prompt.prompt, text, (5, 6), Completion((8, 2), (0.0, 0.0), "end"), 7)] * 2, {}

    policy = load_model(save_model(tmp_path / "base"))
    Odd(rounds=1, max_new_tokens=4, dtype="float32").fit(
        policy, [{"prompt": "hi", "answer": "good"}], verifier=VERIFIER, out=tmp_path / "run"
    )
    lines = (tmp_path / "run" / "round-1.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    assert [(r["prompt"], r["completion"]) for r in rows] == [(text, text)] * 2
    assert as_trees(rows) == [Tree((5, 6), (Branch((8, 2)), Branch((8, 2))), row=7)]


def test_a_round_without_anything_right_stops_the_run(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "answer": "perhaps"}])
    run = ("--model", base, "--data", data, "--verifier", VERIFIER, "--max-new-tokens", 4, "--hint", "")
    assert accord("star", *run, "--out", tmp_path / "run") == 3
    assert "round 1: no sample is right and ended by itself, so there is nothing to learn" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


def test_a_loss_that_is_not_finite_names_its_round(base: str, tmp_path: Path) -> None:
    policy = load_model(base)
    update = Optimizer.update

    def poisoned(self: Optimizer, step: int, *work: LossTerm) -> dict[str, float]:
        with torch.no_grad():
            policy.network.lm_head.weight.fill_(float("nan"))
        return update(self, step, *work)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingStopped, match="^round 1, step 1: the loss of"):
        patch.setattr(Optimizer, "update", poisoned)
        star().fit(policy, ROWS, verifier=VERIFIER, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"growth": 0.0}, "growth must be positive, not 0.0"),
        ({"group_size": 0}, "group_size must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        STaR(**given)
