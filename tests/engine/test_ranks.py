"""Trained by 2 or 3 ranks, a model is what one process makes of it: gradients, steps, checkpoints, and wrong uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from accord.engine.groups import ReduceScatter
from accord.engine.offload import shared_copy
from accord.engine.team import Team
from accord.engine.torchrun import backend_here
from accord.errors import InputError
from accord.methods import DPO, GRPO, SFT
from accord.train.ranks import require_alone
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.days import DATED, set_day
from tests.engine import ranked, ranked_methods, ranked_steps
from tests.engine.tiny import CONFIGS, policy_of, random_model
from tests.trust.forked import Ranks, in_team, said, together

ROOT = Path(__file__).parents[2]


def torchrun(ranks: int, *words: object) -> str:
    """What `accord` says, which torchrun starts on so many ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command += ["-m", "accord", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """The folder of what one process made of every case, and the tensors of that."""
    folder = tmp_path_factory.mktemp("alone")
    ranked.write_adapter(folder)
    for run in ranked.RUNS:
        run(folder)
    tensors = {of.name: ranked_methods.run(of, folder / of.name) for of in ranked_methods.RUNS}
    return folder, tensors | {case.name: ranked_steps.outcome(case, folder) for case in ranked_steps.CASES}


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, alone: tuple[Path, dict[str, dict[str, Tensor]]]) -> Path:
    """The folder of what so many ranks made of the same."""
    folder = alone[0] / f"ranks-{request.param}"
    if not folder.exists():  # pytest sets this up again where it takes turns
        folder.mkdir()
        together(request.param, lambda: ranked.main(folder))
    return folder


def far(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], share: float = 1e-10) -> dict[str, float]:
    """By how much tensors differ that do by more than a share of their largest element, and than rounding explains."""
    off = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    rounding = 1e-15  # of log-probabilities of several nats, whose difference a reward near 0 is
    return {n: by for n, by in off.items() if not by <= max(share * float(expected[n].abs().max()), rounding)}


@pytest.mark.parametrize("case", ranked_steps.CASES, ids=lambda case: case.name)
def test_gradients_and_steps_are_those_of_one_process(
    case: ranked_steps.Case, ranks: Path, alone: tuple[Path, dict[str, dict[str, Tensor]]]
) -> None:
    found, expected = load_file(ranks / f"{case.name}.safetensors"), alone[1][case.name]
    assert found.keys() == expected.keys()
    if case.dtype == torch.float32:
        assert all(bool(((found[name] - w).abs() <= 1e-6).all()) for name, w in expected.items() if "model" in name)
    else:
        assert not far(found, expected)


def test_checkpoints_are_read_by_any_number_of_ranks(
    ranks: Path, alone: tuple[Path, dict[str, dict[str, Tensor]]]
) -> None:
    case = ranked_steps.CASES[0]
    expected, read, back = (
        ranked_steps.gone_on(case, alone[0]),
        load_file(ranks / "again.safetensors"),
        ranked_steps.gone_on(case, ranks),
    )
    state = {name for name in expected if not name.startswith("then ")}
    assert all(torch.equal(read[name], expected[name]) for name in state)
    weights = load_file(ranks / f"{case.name}.safetensors")
    assert all(torch.equal(back[f"weight of {name}"], weights[name]) for name in weights if name.startswith("model"))
    assert not far(read, expected) and not far(back, expected)


@pytest.mark.parametrize(
    ("ranks", "run"), [(size, run) for size in (2, 3) for run in ranked.runs_of(size)], indirect=["ranks"], ids=str
)
def test_a_run_leaves_what_that_of_one_process_does(
    run: ranked.Whole, ranks: Path, alone: tuple[Path, dict[str, dict[str, Tensor]]]
) -> None:
    theirs, mine = ranks / run.name, alone[0] / run.name
    timed = {"seconds", "tokens_per_second"}
    for found, expected in zip(read_jsonl(theirs / "metrics.jsonl"), read_jsonl(mine / "metrics.jsonl"), strict=True):
        assert found.keys() == expected.keys()
        kept = getattr(run.method, "precompute_reference", False)  # in other passes than the policy's:
        tied = {k for k in found if kept and found["step"] == 0 and "accuracy" in k}  # rounding alone parts the two
        found, expected = ({k: row[k] for k in row.keys() - timed - tied} for row in (found, expected))
        assert found == pytest.approx(expected, rel=10 * run.precision, abs=run.precision / 100)
    for name in ("samples.jsonl", "alarms.jsonl"):
        assert not (mine / name).exists() or read_jsonl(theirs / name) == read_jsonl(mine / name)
    for model in [name for name in ("model", "best") if (mine / name).exists()]:
        file = "adapter_model.safetensors" if run.method.lora_rank else "model.safetensors"
        weights = [load_file(folder / model / file) for folder in (theirs, mine)]
        assert weights[0].keys() == weights[1].keys() and not far(*weights, share=run.precision)
    if (mine / "best.json").exists():
        found, expected = (json.loads((folder / "best.json").read_text()) for folder in (theirs, mine))
        assert found == pytest.approx(expected, rel=10 * run.precision)
    left = {file.relative_to(mine) for file in mine.rglob("*")}
    assert {file.relative_to(theirs) for file in theirs.rglob("*")} == left
    for name in (
        "config.json",
        "adapter_config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ):
        if (mine / "model" / name).exists():
            assert (theirs / "model" / name).read_bytes() == (mine / "model" / name).read_bytes()


@pytest.mark.parametrize(
    ("ranks", "of"),
    [(size, run) for size in (2, 3) for run in ranked_methods.runs_of(size)],
    indirect=["ranks"],
    ids=lambda value: value if isinstance(value, int) else value.name,
)
def test_a_method_does_what_it_does_in_one_process(
    of: ranked_methods.Run, ranks: Path, alone: tuple[Path, dict[str, dict[str, Tensor]]]
) -> None:
    """Also where it was stopped on its way and gone on with, which that of one process was not."""
    theirs, mine = ranks / of.name, alone[0] / of.name
    is_exact, timed = of.dtype == torch.float64, {"seconds", "tokens_per_second"}
    for found, expected in zip(read_jsonl(theirs / "metrics.jsonl"), read_jsonl(mine / "metrics.jsonl"), strict=True):
        assert found.keys() == expected.keys()
        assert {k: v for k, v in found.items() if k not in timed} == pytest.approx(
            {k: v for k, v in expected.items() if k not in timed},
            rel=1e-9 if is_exact else 1e-4,
            abs=1e-12 if is_exact else 1e-5,
        )
    left = {file.relative_to(mine) for file in mine.rglob("*")}
    assert {file.relative_to(theirs) for file in theirs.rglob("*")} == left
    for file in (*mine.glob("samples.jsonl"), *mine.glob("round-*.jsonl")):
        assert read_jsonl(theirs / file.name) == read_jsonl(file)
    gradients = load_file(ranks / f"{of.name}-gradients.safetensors"), alone[1][of.name]
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    assert not is_exact or not far(*gradients)
    for model in mine.glob("*/*model.safetensors"):
        weights = load_file(theirs / model.relative_to(mine)), load_file(model)
        assert weights[0].keys() == weights[1].keys()
        if is_exact:
            assert not far(*weights)
        else:
            assert all(bool(((weights[0][name] - w).abs() <= 1e-6).all()) for name, w in weights[1].items())
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        if (mine / "model" / name).exists():
            assert (theirs / "model" / name).read_bytes() == (mine / "model" / name).read_bytes()


def test_what_is_only_read_is_shared_out_too(ranks: Path) -> None:
    """The leader's shares, of tensors that are cut by their rows: 16, 24, 13 or 8 of them."""
    size = int(ranks.name.removeprefix("ranks-"))
    shares = {name: share for name, share in load_file(ranks / "shares.safetensors").items() if name != "same"}
    assert shares.keys() == {"reference", "teacher", "a", "b", "base"}
    assert all(1 / size <= float(share) <= 1.2 / size for share in shares.values())


def test_copies_share_what_adapters_leave_as_it_is(ranks: Path) -> None:
    shares = load_file(ranks / "shares.safetensors")["same"]
    assert len(shares) == 21 and bool(shares.all())


@given(st.integers(1, 5), st.integers(0, 12))
def test_every_rank_makes_as_many_passes_and_every_pack_counts_once(size: int, packs: int) -> None:
    shares = [Team(rank, size).passes(range(packs)) for rank in range(size)]
    assert {len(share) for share in shares} == {-(-packs // size)}
    assert sorted(pack for share in shares for pack, counts in share if counts) == list(range(packs))


def test_gradients_are_added_in_the_order_of_the_ranks() -> None:
    """In float32 1e8 + 1 is 1e8, so that another order of these three would give 1."""

    def work(team: Team) -> None:
        rows = torch.tensor([1e8, 1.0, -1e8][team.rank]) + torch.arange(6.0) * (team.rank == 1)
        own = torch.empty(2)
        ReduceScatter()(own, rows, torch.distributed.group.WORLD, torch.distributed.ReduceOp.SUM)
        assert own.tolist() == [[0.0, 0.0], [0.0, 0.0], [8.0, 8.0]][team.rank], own

    in_team(3, work)


def test_a_team_of_one_gives_back_what_it_is_given() -> None:
    team, numbers = Team.here(), torch.tensor([1.0, 2.0])
    assert team == Team(0, 1) and team.leads
    assert team.all_reduce(numbers) is numbers
    assert team.all_gather("a") == ["a"] and team.collect([1, 2]) == [1, 2] and team.share([1, 2]) == [1, 2]
    assert team.map([1, 2, 3], lambda pack: pack * 10) == [10, 20, 30]
    assert team.lead(lambda: 5) == 5


def test_every_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backend_here() == "gloo" and taken == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend_here() == "cpu:gloo,cuda:nccl" and taken == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"rank 3 has no GPU of its own, as there are 2: start as many ranks on a"):
        backend_here()


PAIRS = [
    {"prompt": "hi", "chosen": "good day", "rejected": "bad"},
    {"prompt": "bye", "chosen": "good", "rejected": "bad bad"},
    {"prompt": "good", "chosen": "day", "rejected": "bye"},
]


def words_of(folder: Path, out: Path) -> list[object]:
    model, data = save_model(folder / "base"), write_jsonl(folder / "pairs.jsonl", PAIRS)
    settings = ("--batch-size", "3", "--max-steps", "3", "--learning-rate", "1e-4", "--dtype", "float32")
    return ["dpo", "--model", model, "--data", data, *settings, "--track", "none", "--out", out]


@pytest.mark.slow  # a recipe's stage is started by torchrun too, see test_ranks_launch.py
def test_the_command_under_torchrun_writes_and_prints_once(tmp_path: Path) -> None:
    said = torchrun(2, *words_of(tmp_path, tmp_path / "ranks"))
    assert said.count("dpo: the model is") == 1 and said.count("dpo 3/3") == 1
    assert accord(*words_of(tmp_path, tmp_path / "alone")) == 0
    found, expected = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("ranks", "alone"))
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-6
    noted = json.loads((tmp_path / "ranks" / "environment.json").read_text())
    assert noted["ranks"] == 2
    rows, whole = (read_jsonl(tmp_path / run / "metrics.jsonl") for run in ("ranks", "alone"))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in whole], abs=1e-6)


def test_ranks_past_midnight_write_the_date_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path / "m", DATED)
    chats = [
        [{"role": "user", "content": word}, {"role": "assistant", "content": "good day"}] for word in ("hi", "bye")
    ]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": chat} for chat in chats])

    def train(name: str, day: int) -> list[float]:
        set_day(monkeypatch, f"2026-11-{day}")
        run = SFT(batch_size=2, max_steps=3, learning_rate=1e-2, dtype="float32").fit(model, rows, out=tmp_path / name)
        return [row["loss"] for row in run.metrics]

    in_team(2, lambda team: train("ranks", 29 + team.rank))
    found = [row["loss"] for row in read_jsonl(tmp_path / "ranks" / "metrics.jsonl")]
    assert found == pytest.approx(train("one", 29), rel=1e-5)
    assert found != pytest.approx(train("other", 30), rel=1e-2)


def flat(completions: Sequence[str]) -> list[float]:
    """A reward that tells nothing."""
    return [1.0 for _ in completions]


def test_an_alarm_that_ends_a_run_ends_it_on_every_rank(tmp_path: Path) -> None:
    def train(name: str) -> list[float]:
        method = GRPO(group_size=2, batch_size=2, max_steps=30, max_new_tokens=2, dtype="float32")
        given: dict[str, Any] = {"out": tmp_path / name, "track": "none", "stop_when": "flat-rewards"}
        run = method.fit(ranked.written(), ranked.PROMPTS, reward=flat, **given)
        return [row["step"] for row in run.metrics]

    in_team(2, lambda team: train("ranks"))
    steps = train("one")
    assert len(steps) < 30 and [row["step"] for row in read_jsonl(tmp_path / "ranks" / "metrics.jsonl")] == steps
    found, expected = ((tmp_path / run / "alarms.jsonl").read_text() for run in ("ranks", "one"))
    assert found == expected


def test_ranks_that_are_told_different_things_all_end_with_a_sentence(tmp_path: Path) -> None:
    words = [str(word) for word in words_of(tmp_path, tmp_path / "run")]
    rates = ("1e-4", "2e-4")
    ended = Ranks(words, tmp_path, before=lambda rank: words.extend(["--learning-rate", rates[rank]])).wait()
    assert [one.status for one in ended] == [2, 2]
    [sentence] = said(ended)
    told = "accord: the ranks differ in the options: learning_rate is 0.0001 on rank 0 and 0.0002 on rank 1"
    assert sentence.startswith(told)
    assert not (tmp_path / "run").exists()


@dataclass(kw_only=True)
class Own(SFT):
    """A user's method, of which nobody has shown that it does the same on ranks."""

    command: ClassVar[str] = "own"
    on_ranks: ClassVar[bool] = False


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            DPO(offload_reference=True),
            {},
            "offload_reference is not supported on several ranks yet: start without",
        ),
        (SFT(offload_optimizer=True), {}, "offload_optimizer is not supported on several ranks yet"),
        (Own(), {}, "own does not train on several ranks yet: start it without torchrun"),
    ],
)
def test_what_ranks_cannot_do_yet_is_refused(
    method: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Team, "here", lambda: Team(0, 2))
    with pytest.raises(InputError, match=message):
        require_alone(method, type(method).options(**options))


def test_what_is_held_in_few_bits_is_not_for_ranks_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(random_model(CONFIGS["llama"]()))
    monkeypatch.setattr(Team, "here", lambda: Team(0, 2))
    policy.network.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(InputError, match="random is held in few bits, which is not for several ranks yet"):
        shared_copy(policy)


def test_a_command_that_trains_nothing_is_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert accord("doctor") == 2
    assert capfd.readouterr().err == "accord: `accord doctor` runs in one process: start it without torchrun.\n"
