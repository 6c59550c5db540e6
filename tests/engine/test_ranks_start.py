"""Ranks that cannot begin: another environment than torchrun's, an address where they do not meet, other machines."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.cli import ranks
from accord.engine import precision, team, torchrun
from accord.engine.team import joined
from accord.engine.torchrun import asked_size
from accord.errors import InputError
from accord.methods import SFT
from accord.train.ranks import require_alone
from tests.commands.small import accord
from tests.engine.test_ranks import words_of
from tests.trust.forked import Ranks, said

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
WRONG = [
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', which is not a number of ranks"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', which is not a number of ranks"),
    ({"RANK": None}, "WORLD_SIZE is 2, but RANK is not set: start the ranks by torchrun, or unset WORLD_SIZE"),
    ({"MASTER_ADDR": None}, "but MASTER_ADDR is not set"),
    ({"RANK": "first"}, "RANK is 'first', which is not one of 2 ranks: let torchrun set it"),
    ({"RANK": "2"}, "RANK is '2', which is not one of 2 ranks: let torchrun set it"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', which is not a port: let torchrun set it"),
    ({"MASTER_PORT": "0"}, "MASTER_PORT is '0', which is not a port: let torchrun set it"),
]


def put(monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any]) -> None:
    for name, value in (TORCHRUN | environment).items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))


@pytest.fixture
def signals() -> Iterator[None]:
    """What a rank ignores once it has failed is handled again, as all tests are in one process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("environment", "told"), WRONG)
def test_an_environment_that_is_not_torchruns(
    environment: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, environment)
    with pytest.raises(InputError, match=told):
        asked_size()
    assert accord("sft", "--model", "m", "--data", "d", "--out", "o") == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("accord: ") and told in line


@pytest.mark.parametrize("size", [None, "", "1"])
def test_one_process_needs_no_more_of_an_environment(size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"WORLD_SIZE": size, "RANK": None})
    assert asked_size() == 1 and not ranks.are_several()


def test_a_script_that_joins_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {})
    with pytest.raises(InputError, match="started as one of 2 ranks, and has not joined them: train within accord"):
        require_alone(SFT(), SFT.options())


@pytest.mark.parametrize(
    ("local", "told"),
    [
        (None, "LOCAL_RANK is '', which is not the number of a GPU: let torchrun set it"),
        ("1", "rank 0 has no GPU of its own, as there are 1: start as many ranks on a machine as it has GPUs"),
    ],
)
def test_ranks_without_a_gpu_of_their_own(local: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"LOCAL_RANK": local})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=told), joined():
        pass


def test_ranks_whose_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        put(monkeypatch, {"MASTER_PORT": port})
        raises = pytest.raises(InputError, match=f"rank 0 of 2 cannot meet the others at 127.0.0.1:{port} ")
        with raises as raised, joined():
            pass
    assert "EADDRINUSE" in str(raised.value)
    assert str(raised.value).endswith("MASTER_ADDR is rank 0's machine and MASTER_PORT free there.")


def test_ranks_that_nobody_waits_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    put(monkeypatch, {"MASTER_PORT": port, "RANK": 1})
    monkeypatch.setattr(team, "PATIENCE", timedelta(seconds=3))
    monkeypatch.setattr(torchrun, "QUIET", timedelta(seconds=0.5))
    with pytest.raises(InputError, match=f"rank 1 of 2 cannot meet the others at 127.0.0.1:{port} "), joined():
        pass
    assert capsys.readouterr().err == (
        f"rank 1 of 2 has waited 0.5 seconds to meet all others at 127.0.0.1:{port}, and gives up after 0.05 minutes: "
        "see that they have started, and that MASTER_ADDR is rank 0's machine; Ctrl-C ends this.\n"
    )


def test_a_rank_that_waits_for_others_ends_when_torchrun_asks(tmp_path: Path) -> None:
    """It waits in C++, where Python's handlers would not run."""

    def before(rank: int) -> None:
        ranks.PATIENCE = timedelta(seconds=1)
        if rank == 1:
            team.backend_here = fails

    def fails() -> str:
        raise InputError("there is no GPU.")

    begun = Ranks(["dpo", "--model", "m", "--data", "d", "--out", "run"], tmp_path, before=before)
    assert [one.status for one in begun.wait()] == [-signal.SIGTERM, 2] and begun.seconds < 5


def another_library(rank: int) -> None:
    known = metadata.version
    team.metadata.version = lambda name: f"0.{rank}" if name == "tokenizers" else known(name)


def a_gpu(rank: int) -> None:
    if rank == 1:
        team.backend_here = lambda: "cpu:gloo,cuda:gloo"  # as of a rank that has one, which speaks by gloo and NCCL
        torch.cuda.is_available = lambda: True


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (another_library, "tokenizers is 0.0 on rank 0 and 0.1 on rank 1"),
        (a_gpu, "the device is the processor on rank 0 and a GPU on rank 1"),
    ],
)
def test_ranks_on_other_machines(before: Callable[[int], None], told: str, tmp_path: Path) -> None:
    ended = Ranks(["dpo", "--model", "m", "--data", "d", "--out", "run"], tmp_path, before=before).wait()
    assert [one.status for one in ended] == [2, 2]
    assert said(ended) == [f"accord: the ranks differ in what they run: {told}; start all with the same."]


def test_ranks_whose_processors_multiply_in_other_precisions(tmp_path: Path) -> None:
    words = [str(word) for word in words_of(tmp_path, tmp_path / "run")]
    words[words.index("--dtype") + 1] = "auto"

    def before(rank: int) -> None:
        precision.has_bfloat16 = lambda device: rank == 1

    ended = Ranks(words, tmp_path, before=before).wait()
    assert [one.status for one in ended] == [2, 2]
    told = "accord: dtype auto is float32 on rank 0 and bfloat16 on rank 1, whose processors differ: give all ranks "
    assert said(ended) == [told + "--dtype float32, or bfloat16."]
    assert not (tmp_path / "run").exists()
