"""Rows held out while training: their loss by plain transformers, and the best model by them."""

from __future__ import annotations

import json
import re
from math import nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy import stats
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from accord.engine.fit import Optimizer
from accord.errors import InputError
from accord.methods import DPO, IPO, KTO, SFT, Distill, PreferenceModel, Pretrain, RewardModel
from accord.records import Demonstration, Labeled, Preference, Row
from accord.train.held_out import draw_share, subject
from accord.train.loop import Result
from tests.data.conftest import EOS, WORDS, word_tokenizer
from tests.engine.tiny import SIZES, policy_of

SAID = WORDS[6:]
PAIRS = [Preference(f"{a} {b}", f" {a} {b}", f" {b} bye") for a in SAID[:4] for b in SAID[:5] if a != b]
HELD = [Preference(f"{a} {a} {b}", f" {b} {a}", f" {c} bye") for a, b, c in (SAID[:3], SAID[1:4], SAID[2:5], SAID[3:6])]
HELD += [Preference(HELD[0].prompt, " bye", " hi hi hi")]
"""Five pairs of four prompts."""
SHOWN = [Demonstration(row.prompt, row.chosen) for row in HELD]


class Killed(Exception):
    """What ends a run as a kill would, as far as files go."""


def made(seed: int, folder: Path) -> str:
    """The folder of a random little Llama with a token a word."""
    torch.manual_seed(seed)
    network = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(WORDS), pad_token_id=None, initializer_range=0.3))
    policy = policy_of(network)
    policy.tokenizer = word_tokenizer()
    return str(policy.save(folder))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(0, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(1, tmp_path_factory.mktemp("models") / "other")


COMMON: dict[str, Any] = {"batch_size": 4, "max_steps": 6, "dtype": "float32", "tokens_per_pass": 24}


def train(method: Any, base: str, out: Path, rows: list[Any] = PAIRS, **given: Any) -> Result:
    result: Result = method.fit(base, rows, out=out, **given)
    return result


def measured(result: Result, name: str) -> dict[int, float]:
    """A column by the step."""
    return {int(row["step"]): row[name] for row in result.metrics if name in row}


def logps(folder: str | Path, row: Preference) -> tuple[list[float], list[float]]:
    """log p of the tokens of both answers, each with its end of turn, by plain transformers in float64."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokens = {word: i for i, word in enumerate(WORDS)}
    found = []
    for answer in (row.chosen, row.rejected):
        prompt, said = ([tokens[word] for word in str(text).split()] for text in (row.prompt, answer))
        ids = torch.tensor([[*prompt, *said, EOS]])
        logp = network(input_ids=ids).logits[0].log_softmax(-1)
        found.append([logp[i - 1, ids[0, i]].item() for i in range(len(prompt), ids.shape[1])])
    return found[0], found[1]


def test_the_loss_of_demonstrations_is_that_of_plain_transformers(base: str, tmp_path: Path) -> None:
    result = train(SFT(**COMMON, learning_rate=1e-2), base, tmp_path / "run", eval_data=SHOWN, eval_every=4)
    found, low, high = (measured(result, f"eval_loss{end}") for end in ("", "_low", "_high"))
    assert list(found) == [0, 4, 6]
    for step, folder in ((0, base), (6, tmp_path / "run" / "model")):
        by_row = [logps(folder, row)[0] for row in HELD]
        every = [-logp for row in by_row for logp in row]
        mean = sum(every) / len(every)
        assert found[step] == pytest.approx(mean, abs=1e-5)
        # The first and the last row are of one prompt: four clusters, Student's t of three degrees of freedom.
        clusters = [by_row[0] + by_row[4], *by_row[1:4]]
        apart = sum((-sum(logp) - mean * len(logp)) ** 2 for logp in clusters) * 4 / 3
        reach = stats.t.ppf(0.975, 3) * sqrt(apart) / len(every)
        assert (low[step], high[step]) == pytest.approx((mean - reach, mean + reach), abs=1e-5)


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_pairs_have_the_loss_accuracy_and_margin_of_plain_transformers(base: str, tmp_path: Path, name: str) -> None:
    method = {"dpo": DPO, "ipo": IPO}[name](**COMMON, learning_rate=1e-2)
    result = train(method, base, tmp_path / "run", eval_data=HELD, eval_every=100)
    loss, accuracy, margin = (measured(result, f"eval_{what}") for what in ("loss", "accuracy", "margin"))
    assert list(loss) == [0, 6]
    assert loss[0] == pytest.approx(np.log(2) if name == "dpo" else 1 / (4 * method.tau**2), rel=1e-5)
    assert (accuracy[0], margin[0]) == (0.5, 0.0)  # the model is its own reference
    gaps = []
    for row in HELD:
        now, then = logps(tmp_path / "run" / "model", row), logps(base, row)
        gaps.append((sum(now[0]) - sum(now[1])) - (sum(then[0]) - sum(then[1])))
    gap = torch.tensor(gaps, dtype=torch.float64)
    losses = -logsigmoid(method.beta * gap) if name == "dpo" else (gap - 1 / (2 * method.tau)).square()
    assert loss[6] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert accuracy[6] == pytest.approx((gap > 0).double().mean().item())
    assert margin[6] == pytest.approx(method.strength * gap.mean().item(), rel=1e-4)


ASIDE = ("eval_", "seconds", "tokens_per_second")
METHODS: dict[str, Any] = {
    "sft": SFT(**COMMON),
    "pretrain": Pretrain(**COMMON),
    "dpo": DPO(**COMMON),
    "kto": KTO(**COMMON),
    "reward": RewardModel(**COMMON),
    "preference": PreferenceModel(**COMMON),
}


@pytest.mark.parametrize("name", METHODS)
def test_looking_changes_nothing(base: str, tmp_path: Path, name: str) -> None:
    rows: list[Row] = list(PAIRS)
    held: list[Row] = list(HELD)
    if name == "pretrain":
        rows, held = [Demonstration(row.prompt, row.chosen) for row in PAIRS], list(SHOWN)
    if name == "kto":
        held = [Labeled(row.prompt, row.chosen, i % 2 == 0) for i, row in enumerate(HELD)]
    plain = train(METHODS[name], base, tmp_path / "plain", rows)
    looked = train(METHODS[name], base, tmp_path / "looked", rows, eval_data=held, eval_every=2)
    rows_of = [
        [{k: v for k, v in row.items() if not k.startswith(ASIDE)} for row in run.metrics] for run in (plain, looked)
    ]
    assert rows_of[0] == rows_of[1][1:]
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("plain", "looked")]
    assert weights[0] == weights[1]
    assert list(measured(looked, "eval_loss")) == [0, 2, 4, 6]


def test_a_student_is_measured_by_its_divergence_from_the_teacher(base: str, other: str, tmp_path: Path) -> None:
    """Of answers of one token the divergence is a sum over the vocabulary; 192 samples are near it."""
    asked = [f"{word} {word} {word}" for word in SAID[:3]]
    method = Distill(batch_size=2, max_steps=2, dtype="float32", max_new_tokens=1, group_size=64, learning_rate=1e-2)
    held = [{"prompt": prompt} for prompt in asked]
    result = train(method, base, tmp_path / "run", [{"prompt": a} for a in SAID], teacher=other, eval_data=held)
    found = measured(result, "eval_teacher_kl")
    assert list(found) == [0, 1, 2] and found[2] < found[0]
    ids = torch.tensor([[WORDS.index(word) for word in prompt.split()] for prompt in asked])
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)(input_ids=ids).logits[:, -1].log_softmax(-1)
        for folder in (base, other)
    )
    means = [(student.exp() * (student - teacher) ** power).sum(-1).mean().item() for power in (1, 2)]
    assert abs(found[0] - means[0]) < 4 * sqrt(means[1] / 192)
    assert json.loads((tmp_path / "run" / "best.json").read_text())["step"] == min(found, key=lambda step: found[step])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=3, max_size=30), st.floats(0.1, 0.9))
def test_a_share_is_held_out_by_prompts(rows: list[tuple[int, int]], share: float) -> None:
    given = [Demonstration(str(prompt), str(answer)) for prompt, answer in rows]
    prompts = {row.prompt for row in given}
    count = round(share * len(prompts))
    if not 0 < count < len(prompts):
        with pytest.raises(InputError, match="different prompts holds out"):
            draw_share(given, share, 0)
        return
    numbers = draw_share(given, share, 3)
    held = {row.prompt for i, row in enumerate(given) if i in numbers}
    assert len(held) == count and numbers == draw_share(given, share, 3)
    assert held.isdisjoint(row.prompt for i, row in enumerate(given) if i not in numbers)


def test_what_a_row_is_a_draw_of() -> None:
    text, other = Demonstration("", "plain text"), Demonstration("", "another")
    assert subject(text) != subject(other) and subject(PAIRS[0]) == PAIRS[0].prompt


def test_rows_of_a_share_are_not_trained_on(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    update = Optimizer.update

    def watched(self: Optimizer, step: int, *terms: Any) -> dict[str, float]:
        seen.extend(tree.row for term in terms for trees in term.packs for tree in trees.trees)
        return update(self, step, *terms)

    monkeypatch.setattr(Optimizer, "update", watched)
    rows = PAIRS + [Preference(row.prompt, row.chosen, " good") for row in PAIRS[:6]]
    method = DPO(**{**COMMON, "max_steps": None}, epochs=1.0)
    train(method, base, tmp_path / "run", rows, eval_split=0.25, eval_every=100)
    held = draw_share(rows, 0.25, 0)
    assert sorted(seen) == [i for i in range(len(rows)) if i not in held]
    # 16 prompts, so 4 are held out, and the loss before training is that of no margin whichever they are
    assert len({rows[i].prompt for i in held}) == 4


def learn(base: str, out: Path, steps: int = 30, **given: Any) -> Result:
    """Demonstrations learned by heart, so that others are lost soon."""
    method = SFT(batch_size=4, max_steps=steps, dtype="float32", learning_rate=3e-2, schedule="constant", warmup=0.0)
    rows = [Demonstration(row.prompt, row.chosen) for row in PAIRS[:4]]
    return train(method, base, out, rows, eval_data=SHOWN, eval_every=2, save_every=4, **given)


def test_the_best_model_is_kept_and_patience_ends_the_run_with_it(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, early = learn(base, tmp_path / "whole", steps=14), learn(base, tmp_path / "early", patience=3)
    losses = measured(whole, "eval_loss")
    step = min(losses, key=lambda step: losses[step])
    for folder in (tmp_path / "whole", tmp_path / "early"):
        best = json.loads((folder / "best.json").read_text())
        assert (best["step"], best["eval_loss"]) == (step, losses[step])
    assert 0 < step < 8 and [row["step"] for row in early.metrics] == [*range(step + 7)]
    stopped = SFT(batch_size=4, max_steps=step, dtype="float32", learning_rate=3e-2, schedule="constant", warmup=0.0)
    rows = [Demonstration(row.prompt, row.chosen) for row in PAIRS[:4]]
    train(stopped, base, tmp_path / "stopped", rows)
    weights = load_file(tmp_path / "stopped/model/model.safetensors")
    for found in ("whole/best", "early/best", "early/model"):
        same = load_file(tmp_path / found / "model.safetensors")
        assert all(torch.equal(same[name], weight) for name, weight in weights.items()), found
    printed = " ".join(capsys.readouterr().err.split())
    assert "3 measurements in a row were no better than the best; the run ends, as --patience asks." in printed
    assert f"On eval_data the model after step {step} is the best (eval_loss " in printed


@pytest.fixture(scope="module")
def straight(base: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run that nothing interrupts."""
    return learn(base, tmp_path_factory.mktemp("runs") / "straight", patience=3)


@pytest.mark.parametrize("killed_at", [1, 5, 9])
def test_a_killed_run_ends_with_the_same_best_and_measurements(
    base: str, tmp_path: Path, straight: Result, killed_at: int
) -> None:

    def kill(step: int, _: Any) -> None:
        if step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        learn(base, tmp_path / "killed", patience=3, on_step=kill)
    again = learn(base, tmp_path / "killed", patience=3, resume=True)
    for name in ("model", "best"):
        weights = [run.folder / name / "model.safetensors" for run in (straight, again)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (straight.folder / "best.json").read_text() == (again.folder / "best.json").read_text()
    rows = [[{k: v for k, v in row.items() if k not in ASIDE} for row in run.metrics] for run in (straight, again)]
    assert rows[0] == rows[1]


def test_a_run_killed_before_its_first_checkpoint_keeps_the_model_it_began_with(base: str, tmp_path: Path) -> None:
    """Steps so long that every one is worse, whence the best is the start's."""
    method = SFT(batch_size=4, max_steps=4, dtype="float32", learning_rate=3.0, schedule="constant", warmup=0.0)
    rows = [Demonstration(row.prompt, row.chosen) for row in PAIRS[:4]]

    def kill(*_: Any) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(method, base, tmp_path / "run", rows, eval_data=SHOWN, on_step=kill)
    train(method, base, tmp_path / "run", rows, eval_data=SHOWN, resume=True)
    assert json.loads((tmp_path / "run/best.json").read_text())["step"] == 0
    start, best = (load_file(Path(f) / "model.safetensors") for f in (base, tmp_path / "run" / "best"))
    assert all(torch.equal(best[name], weight) for name, weight in start.items())


def test_prompts_that_are_trained_on_too_are_told(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(DPO(**COMMON), base, tmp_path / "run", eval_data=[PAIRS[0], *HELD], eval_every=100)
    printed = " ".join(capsys.readouterr().err.split())
    assert "1 of the 5 prompts of eval_data are trained on too: on these the loss is not held out." in printed


def test_the_best_by_another_measure(base: str, tmp_path: Path) -> None:
    result = train(DPO(**COMMON, learning_rate=1e-2), base, tmp_path / "run", eval_data=HELD, best_by="eval_margin")
    margins = measured(result, "eval_margin")
    best = json.loads((tmp_path / "run/best.json").read_text())
    assert best["step"] == max(margins, key=lambda step: margins[step])
    assert list(best) == ["step", "eval_margin", "eval_margin_low", "eval_margin_high"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_split": 0}, "eval_split is a share of the prompts between 0 and 1, such as 0.1, not 0."),
        ({"eval_split": "1"}, "eval_split is a share of the prompts between 0 and 1, such as 0.1, not 1."),
        ({"eval_split": nan}, "between 0 and 1, such as 0.1, not nan."),
        ({"eval_split": 0.01}, "eval_split 0.01 of 16 different prompts holds out none; take another share"),
        ({"eval_split": 0.1, "eval_data": HELD}, "eval_data has rows already: leave one out."),
        ({"eval_split": "train"}, "eval_split and split are both train"),
        ({"eval_split": "test"}, "there is no split 'test' here"),
        ({"eval_data": []}, "the data holds no rows"),
        ({"patience": 3}, "patience needs held-out rows: give eval_data or eval_split."),
        ({"eval_every": 3}, "eval_every needs held-out rows"),
        ({"best_by": "eval_loss"}, "best_by needs held-out rows"),
        ({"eval_data": HELD, "patience": 0}, "patience must be at least 1, not 0."),
        ({"eval_data": HELD, "eval_every": 0}, "eval_every must be at least 1, not 0."),
        ({"eval_data": HELD, "watch": len, "watch_data": HELD}, "not by both: leave one out."),
        (
            {"eval_data": HELD, "best_by": "eval_los"},
            "best_by eval_los: on eval_data `dpo` measures eval_loss, eval_accuracy, eval_margin, eval_chosen_reward, "
            "eval_rejected_reward; name one of these, or leave best_by out.",
        ),
        ({"eval_data": HELD, "best_by": "eval_loss_low"}, "best_by eval_loss_low: on eval_data `dpo` measures"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    base: str, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        train(DPO(**COMMON), base, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
