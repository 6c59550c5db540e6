"""A run whose rows are read as they are needed is the run of rows that are all read first, bit for bit."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accord.errors import InputError
from accord.methods import SFT, Pretrain
from accord.methods.offline import OfflineMethod
from accord.records import Demonstration
from accord.train.loop import Result
from accord.train.rows import read_metrics
from tests.commands.small import accord, save_model, write_jsonl
from tests.data.conftest import WORDS
from tests.trust.forked import Ranks

ROWS = [Demonstration(f"{a} {b}", f" {b} {a} good" if a < b else f" {a} bye") for a, b in permutations(WORDS[6:], 2)]
QUICK: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 4, "dtype": "float32", "tokens_per_pass": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_jsonl(tmp_path_factory.mktemp("data") / "rows.jsonl", ROWS)


def same(first: Path, second: Path) -> bool:
    """Whether two runs made the same steps and left the same model."""
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    rows = [[{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(f)] for f in (first, second)]
    return rows[0] == rows[1] and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("method", [SFT(epochs=1.5, **QUICK), Pretrain(epochs=1.5, **QUICK)], ids=["sft", "pretrain"])
def test_streamed_rows_are_trained_on_as_rows_all_read(
    method: OfflineMethod, model: str, data: str, tmp_path: Path
) -> None:
    whole = method.fit(model, data, out=tmp_path / "whole")
    streamed = method.fit(model, data, out=tmp_path / "streamed", stream=True)
    assert len(whole.metrics) == 1.5 * -(-len(ROWS) // 4)
    assert same(whole.folder, streamed.folder)


class Stopped(Exception):
    """Ends a run as a power cut does."""


def test_a_streamed_run_goes_on_from_its_step_bit_for_bit(model: str, data: str, tmp_path: Path) -> None:
    method = SFT(max_steps=9, **QUICK)

    def fit(name: str, **more: Any) -> Result:
        return method.fit(model, [data], out=tmp_path / name, stream=True, save_every=2, eval_data=ROWS[:3], **more)

    def stop(step: int, _: Any) -> None:
        if step == 7:
            raise Stopped

    straight = fit("straight")
    with pytest.raises(Stopped):
        fit("cut", on_step=stop)
    assert same(straight.folder, fit("cut", resume=True).folder)
    assert "eval_loss" in straight.metrics[0]


def test_a_file_that_changed_is_not_gone_on_with(model: str, data: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    method = SFT(max_steps=4, **QUICK)

    def stop(step: int, _: Any) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        method.fit(model, file, out=tmp_path / "out", stream=True, save_every=1, on_step=stop)
    write_jsonl(tmp_path / "rows.jsonl", ROWS[::-1])
    with pytest.raises(InputError, match="began with other content in data"):
        method.fit(model, file, out=tmp_path / "out", stream=True, save_every=1, resume=True)


def test_rows_that_cannot_be_used_are_left_out_until_they_are_too_many(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in ROWS[:19]] + [Demonstration("good", "")]
    bad = [{"prompt": r.prompt, "completion": r.completion} for r in rows]
    file = write_jsonl(tmp_path / "rows.jsonl", bad)
    SFT(**QUICK).fit(model, file, out=tmp_path / "some", stream=True)
    assert f"{file}, line 20: " in capfd.readouterr().err
    with pytest.raises(InputError, match=r"1 of 20 rows cannot be used, more than the share of 0.04"):
        SFT(**QUICK).fit(model, file, out=tmp_path / "few", stream=True, max_bad=0.04)
    with pytest.raises(InputError, match=r"rows\.jsonl, line 20: "):
        SFT(**QUICK).fit(model, file, out=tmp_path / "strict", stream=True, strict=True)


def test_rows_of_another_kind_are_refused(model: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "good", "chosen": "a", "rejected": "b"}])
    with pytest.raises(InputError, match="row 1: `pretrain` learns from demonstrations or tokenizations"):
        Pretrain(**QUICK).fit(model, file, out=tmp_path / "out", stream=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_split": "0.1"}, "with stream no share of the rows can be held out"),
        ({"watch": "x", "watch_data": "y"}, "with stream the training prompts are not known in advance"),
    ],
)
def test_what_needs_all_rows_is_refused(
    options: dict[str, Any], message: str, model: str, data: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        SFT(**QUICK).fit(model, data, out=tmp_path / "out", stream=True, **options)


def test_ranks_share_what_is_read(model: str, data: str, tmp_path: Path) -> None:
    words = ["sft", "--model", model, "--data", data, "--stream", "--max-steps", "5", "--batch-size", "3"]
    words += ["--dtype", "float32", "--track", "none"]
    assert accord(*words, "--out", tmp_path / "one") == 0
    ended = Ranks([*words, "--out", str(tmp_path / "two")], tmp_path).wait()
    assert [one.status for one in ended] == [0, 0], ended
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert max(float((tensor - two[name]).abs().max()) for name, tensor in one.items()) < 1e-6
