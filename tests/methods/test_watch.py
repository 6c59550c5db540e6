"""A policy watched by what it is not trained on: the measure, the best model, alarms that stop a run, going on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from accord.errors import InputError
from accord.methods import DPO, REINFORCE
from accord.records import Preference
from accord.train.loop import Result
from accord.train.rows import read_metrics
from accord.train.run import Run
from accord.train.watch import SMOOTHED, Watch
from tests.commands.small import save_model
from tests.data.conftest import WORDS, word_tokenizer
from tests.engine.tiny import SIZES, policy_of


class Interrupted(KeyboardInterrupt):
    """What a measure raises to end a run."""


PROMPTS = [{"prompt": f"{first} {second}"} for first in WORDS[6:8] for second in WORDS[6:10]]
HELD_OUT = [{"prompt": f"{first} {first} {first}"} for first in WORDS[6:9]]


def long(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def short(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [-float(len(ids)) for ids in completion_ids]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random little Llama with a token a word."""
    torch.manual_seed(0)
    policy = policy_of(LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(WORDS), pad_token_id=None)))
    policy.tokenizer = word_tokenizer()
    return str(policy.save(tmp_path_factory.mktemp("models") / "base"))


def train(base: str, out: Path, *, steps: int = 12, rate: float = 1e-3, **given: Any) -> Result:
    method = REINFORCE(
        learning_rate=rate, batch_size=8, max_steps=steps, max_new_tokens=12, kl_coefficient=0, dtype="float32",
        schedule="constant", warmup=0.0,
    )  # fmt: skip
    return method.fit(base, PROMPTS, reward=given.pop("reward", long), out=out, save_every=5, **given)


def best_of(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "best.json").read_text())
    return found


def test_the_measure_is_the_mean_over_the_steps_own_samples(base: str, tmp_path: Path) -> None:
    rows = train(base, tmp_path / "run", watch=short).metrics
    assert [row["watched"] for row in rows] == pytest.approx([-row["length"] for row in rows])
    assert best_of(tmp_path / "run") == pytest.approx(chosen([row["watched"] for row in rows]))
    every = train(base, tmp_path / "every", watch=short, watch_every=5).metrics
    assert [row["step"] for row in every if "watched" in row] == [1, 6, 11]
    assert [row["reward"] for row in every] == [row["reward"] for row in rows]  # looking changes nothing
    settings = yaml.safe_load((tmp_path / "every" / "config.yaml").read_text())
    assert (settings["watch"], settings["watch_data"], settings["watch_every"]) == ("short", None, 5)


def chosen(values: list[float]) -> dict[str, float]:
    """What best.json says of a run whose own samples were worth so much: row i + 1 is of the model after i steps."""
    best = {"step": 0, "watched": values[0]}
    for i in range(1, len(values)):
        mean = sum(values[max(0, i - 4) : i + 1]) / min(5, i + 1)
        if min(values[i], mean) > best["watched"]:
            best = {"step": i, "watched": mean}
    return best


def watching(folder: Path, values: list[float], *, held_out: bool = False) -> dict[str, float]:
    """The best of a run in which so much was measured."""
    with Run(folder, {}) as run:
        save_model(folder / "best")
        policy = policy_of(LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=8)))
        watch = Watch(policy, run, None, REINFORCE().sampling(), [None] if held_out else [])  # type: ignore
        watch.restore([{"step": i + (not held_out), "watched": v} for i, v in enumerate(values)])
    return watch.best


def test_the_best_is_by_the_mean_of_five_and_the_last_of_them(tmp_path: Path) -> None:
    # the means are 1, 2, 8/3, 11/4, 12/5 ...: the third is better by itself too, and the fourth, of 3, is as well
    assert SMOOTHED == 5
    assert watching(tmp_path / "a", [1.0, 3, 4, 3, 1, 1]) == {"step": 3, "watched": 2.75}
    # .1 .2 .9 .9 .9 are worth .6; with .3 in place of .1 they would be worth .64, and the model is worth .3
    assert watching(tmp_path / "b", [0.1, 0.2, 0.9, 0.9, 0.9, 0.3]) == {"step": 4, "watched": pytest.approx(0.6)}
    assert watching(tmp_path / "c", [0.1, 0.2, 0.3], held_out=True) == {"step": 2, "watched": pytest.approx(0.2)}


def test_the_best_is_never_worse_than_the_start(tmp_path: Path) -> None:
    for held_out in (False, True):
        start = watching(tmp_path / f"dead-{held_out}", [0.44, 0.002, 0.0, 0.0, 0.0, 0.1, 0.3], held_out=held_out)
        assert start == {"step": 0, "watched": 0.44}


def test_a_model_that_its_first_update_kills_is_not_the_best(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples are worth 1 until the first update, and nothing from then on: best/ holds the weights of the start."""
    calls = 0

    def dying(completions: list[str], **_: Any) -> list[float]:
        nonlocal calls
        calls += 1
        return [float(calls == 1)] * len(completions)

    for number, given in enumerate(({}, {"watch_data": HELD_OUT})):
        calls, out = 0, tmp_path / f"run-{number}"
        train(base, out, steps=3, watch=dying, **given)
        assert best_of(out) == {"step": 0, "watched": 1.0}
        start, best = (load_file(Path(folder) / "model.safetensors") for folder in (base, out / "best"))
        assert all(torch.equal(start[name], best[name]) for name in start)
        printed = " ".join(capsys.readouterr().err.split())
        assert "no model was better than the starting one (1): best/ is that model." in printed


def test_the_best_is_the_model_whose_samples_were_the_best(base: str, tmp_path: Path) -> None:
    """The third step's samples are the best. They are of the model after two steps, which is best/."""
    calls = 0

    def third(completions: list[str], **_: Any) -> list[float]:
        nonlocal calls
        calls += 1
        return [float(calls == 3)] * len(completions)

    train(base, tmp_path / "run", steps=6, watch=third)
    assert best_of(tmp_path / "run") == {"step": 2, "watched": pytest.approx(1 / 3)}
    two = load_file(train(base, tmp_path / "two", steps=2).folder / "model/model.safetensors")
    best = load_file(tmp_path / "run/best/model.safetensors")
    assert all(torch.equal(best[name], two[name]) for name in best)


def test_a_judge_compares_with_the_starting_policy(base: str, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def judge(prompts: list[str], firsts: list[str], seconds: list[str]) -> list[float | None]:
        asked.extend(zip(firsts, seconds, strict=True))
        assert set(prompts) <= {row["prompt"] for row in PROMPTS}
        assert list(zip(firsts[:8], seconds[:8], strict=True)) == list(zip(seconds[8:], firsts[8:], strict=True))
        return [None, *[0.9, 0.1] * 3, 0.9, *[0.5] * 8]  # odds of 9 and of 1 are odds of 3 in both orders together

    rows = train(base, tmp_path / "run", steps=2, rate=0.05, watch=judge).metrics
    assert [row["watched"] for row in rows] == pytest.approx([(4 * 0.75 + 3 * 0.25) / 7] * 2)  # one of eight is invalid
    assert len(asked) == 32


def test_prompts_held_out_are_answered_instead(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def measure(prompts: list[str], completions: list[str]) -> list[float]:
        seen.extend(prompts)
        return [float(len(prompts))] * len(completions)

    rows = train(base, tmp_path / "run", steps=2, watch=measure, watch_data=HELD_OUT).metrics
    assert [(row["step"], row["watched"]) for row in rows] == [(0, 3.0), (1, 3.0), (2, 3.0)]
    assert seen == [row["prompt"] for row in HELD_OUT] * 3
    assert "trained on too" not in capsys.readouterr().err
    train(base, tmp_path / "same", steps=1, watch=measure, watch_data=PROMPTS[:2])
    assert "2 prompts of watch_data are trained on too" in " ".join(capsys.readouterr().err.split())


def test_an_alarm_stops_the_run_and_the_best_model_is_its_result(base: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(base, out, steps=400, rate=3e-3, watch=short, stop_when="length,overoptimization")
    alarms = [json.loads(line) for line in (out / "alarms.jsonl").read_text().splitlines()]
    last = len(result.metrics)
    assert last < 400 and alarms[-1]["step"] == last and alarms[-1]["alarm"] in ("length", "overoptimization")
    assert best_of(out)["step"] < last
    best, model = (load_file(out / name / "model.safetensors") for name in ("best", "model"))
    assert best.keys() == model.keys() and all(torch.equal(best[name], model[name]) for name in best)
    assert torch.equal(result.model.network.state_dict()["lm_head.weight"], model["lm_head.weight"])
    assert (out / "report.html").exists() and not (out / "checkpoints").exists()
    again = train(base, out, steps=400, rate=3e-3, watch=short, stop_when="length,overoptimization", resume=True)
    assert len(again.metrics) == last  # it is finished


def test_a_watched_run_goes_on_bit_for_bit(base: str, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(base, straight, watch=short)
    calls = 0

    def failing(**given: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Interrupted
        return short(**given)

    failing.__name__ = "short"
    with pytest.raises(Interrupted):
        train(base, killed, watch=failing)
    train(base, killed, watch=short, resume=True)
    timing = {"seconds", "tokens_per_second"}
    expected, found = (
        [{k: v for k, v in row.items() if k not in timing} for row in read_metrics(f)] for f in (straight, killed)
    )
    assert found == expected and best_of(killed) == best_of(straight)
    for name in ("model", "best"):
        assert (killed / name / "model.safetensors").read_bytes() == (
            straight / name / "model.safetensors"
        ).read_bytes()


def test_pairs_learned_by_heart_stop_a_run(base: str, tmp_path: Path) -> None:
    pairs = [Preference(row["prompt"], f" {WORDS[6]} {WORDS[7]}", f" {WORDS[8]}") for row in PROMPTS[:4]]
    method = DPO(learning_rate=1e-2, batch_size=4, max_steps=300, dtype="float32")
    rows = method.fit(base, pairs, out=tmp_path / "run", stop_when="memorizing").metrics
    (alarm,) = [json.loads(line) for line in (tmp_path / "run" / "alarms.jsonl").read_text().splitlines()]
    assert alarm["alarm"] == "memorizing" and alarm["step"] == len(rows) < 300
    assert (tmp_path / "run" / "model").is_dir() and not (tmp_path / "run" / "best").exists()


PAIRS = [Preference(row["prompt"], f" {WORDS[6]} {WORDS[7]}", f" {WORDS[8]}") for row in PROMPTS]


def tune(base: str, out: Path, steps: int = 12, **given: Any) -> Result:
    method = DPO(learning_rate=1e-3, batch_size=4, max_steps=steps, dtype="float32")
    return method.fit(base, PAIRS, out=out, save_every=3, watch_data=HELD_OUT, watch_tokens=6, **given)


def test_a_policy_tuned_on_rows_answers_prompts_held_out(base: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def measure(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        seen.extend(zip(prompts, map(len, completion_ids), strict=True))
        return [-float(len(ids)) for ids in completion_ids]

    rows = tune(base, tmp_path / "run", watch=measure, watch_every=4).metrics
    looked = [row for row in rows if "watched" in row]
    assert [row["step"] for row in looked] == [0, 1, 5, 9]
    assert [prompt for prompt, _ in seen] == [row["prompt"] for row in HELD_OUT] * 4
    lengths = [length for _, length in seen]
    assert max(lengths) == 6 and [row["watched"] for row in looked] == pytest.approx(
        [-sum(lengths[i : i + 3]) / 3 for i in (0, 3, 6, 9)]
    )
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (settings["watch"], settings["watch_every"], settings["watch_tokens"]) == ("measure", 4, 6)
    assert settings["watch_data"] == "3 rows"
    plain = DPO(learning_rate=1e-3, batch_size=4, max_steps=12, dtype="float32").fit(base, PAIRS, out=tmp_path / "no")
    assert [row["margin"] for row in plain.metrics] == [row["margin"] for row in rows[1:]]  # looking changes nothing


def test_over_optimized_pairs_stop_the_run_at_its_best_also_when_it_was_killed(base: str, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    out, fails = straight, 0

    def turning(completions: list[str], **_: Any) -> list[float]:
        """Rises for ten steps and falls then, whatever is answered."""
        now = len(read_metrics(out)) + 1
        if now == fails:
            raise Interrupted
        return [float(min(now, 20 - now))] * len(completions)

    given = {"steps": 60, "watch": turning, "watch_every": 1, "stop_when": "overoptimization"}
    result = tune(base, straight, **given)
    (alarm,) = [json.loads(line) for line in (straight / "alarms.jsonl").read_text().splitlines()]
    assert (alarm["alarm"], alarm["step"]) == ("overoptimization", result.metrics[-1]["step"])
    assert alarm["saw"].startswith("the margin rose from ") and 11 < len(result.metrics) < 60
    # after step 11 the mean is 8.8, and the model itself worth 8
    assert best_of(straight) == {"step": 10, "watched": pytest.approx((7 + 8 + 9 + 10 + 9) / 5)}
    out, fails = killed, 14
    with pytest.raises(Interrupted):
        tune(base, killed, **given)
    fails = 0
    tune(base, killed, **given, resume=True)
    models = [folder / name / "model.safetensors" for folder in (straight, killed) for name in ("model", "best")]
    assert len({model.read_bytes() for model in models}) == 1  # the model is the best, and the same again


def test_a_measure_of_tuning_needs_prompts(base: str, tmp_path: Path) -> None:
    for given in ({"watch": short}, {"watch_data": HELD_OUT}):
        with pytest.raises(InputError, match="watch and watch_data go together"):
            DPO().fit(base, PAIRS, out=tmp_path / "run", **given)
    with pytest.raises(InputError, match="watch_every must be at least 1, not 0"):
        tune(base, tmp_path / "run", watch=short, watch_every=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"watch_data": HELD_OUT}, "watch_data needs a measure: give watch."),
        ({"watch": "nummber"}, "did you mean number?"),
        ({"watch": "number"}, "row 1 has no column 'answer', which the verifier number reads"),
        ({"watch": short, "watch_every": 0}, "watch_every must be at least 1, not 0."),
        ({"stop_when": "lenght"}, "stop_when: there is no alarm 'lenght'; did you mean length?"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    base: str, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        train(base, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
