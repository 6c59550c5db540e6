"""Ranks whose samples a server draws: they make the run of one process, and end together where the server fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.feedback.serving import serving
from tests.prompting.pretend_vllm import Vllm
from tests.prompting.sampled import PROMPTS, other_model
from tests.trust.forked import Ranks, said

SETTINGS = [
    "--learning-rate", "1e-2", "--batch-size", "3", "--group-size", "4", "--max-new-tokens", "6",
    "--temperature", "0.7", "--max-steps", "3", "--dtype", "float32", "--track", "none",
    "--reward", "tests.prompting.sampled:score", "--save-every", "1", "--sample-every", "1",
]  # fmt: skip
LOGGED = ("reward", "length", "ended", "loss", "kl", "entropy")


pytestmark = pytest.mark.usefixtures("blank_reports")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "home"
    save_model(folder / "plain")
    other_model(folder / "tied", tie_word_embeddings=True)
    write_jsonl(folder / "prompts.jsonl", PROMPTS)
    return folder


def words(home: Path, out: str, vllm: Vllm, *more: object) -> list[str]:
    given = ["--model", vllm.name, "--data", home / "prompts.jsonl", "--out", home / out, "--sampler", vllm.url]
    return [*map(str, ("grpo", *given, *SETTINGS, *more))]


def on_ranks(home: Path, out: str, vllm: Vllm, *more: object, status: int = 0) -> list[str]:
    """The command on two ranks, which both end so; their sentences."""
    ended = Ranks(words(home, out, vllm, *more), home).wait()
    assert [one.status for one in ended] == [status, status], "\n".join(one.said for one in ended)
    return said(ended)


def requests(vllm: Vllm) -> list[tuple[Any, ...]]:
    """What the server was asked for: prompts and seeds, in any order."""
    asked = (body for path, body in vllm.asked if path == "/v1/completions")
    return sorted((tuple(body["prompt"]), body["seed"], body["max_tokens"]) for body in asked)


def paths(vllm: Vllm) -> list[str]:
    """What else it was asked."""
    return [path for path, _ in vllm.asked if path not in ("/v1/completions", "/v1/unload_lora_adapter")]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("plain", ("--stale-steps", "1")),
        ("tied", ()),
        pytest.param("tied", ("--lora-rank", "2"), marks=pytest.mark.slow),
    ],
    ids=["ahead", "tied", "adapters"],
)
def test_ranks_make_the_run_of_one_process(model: str, more: tuple[str, ...], home: Path) -> None:
    """They hand over as often, ask for the same samples, each once, and learn the same from them."""
    if is_adapter := "--lora-rank" in more:
        pytest.importorskip("peft")
    name = f"{model}{''.join(more)}"
    with serving(Vllm(str(home / model))) as alone, serving(Vllm(str(home / model))) as vllm:
        assert accord(*words(home, f"{name}-alone", alone, *more)) == 0
        on_ranks(home, f"{name}-ranks", vllm, *more)
    assert paths(vllm) == paths(alone) and requests(vllm) == requests(alone)
    assert len(requests(vllm)) == 6 + 3 * 12 and len(set(requests(vllm))) == 3 + 3 * 12, (
        "a few at first are asked twice"
    )
    folders = [home / f"{name}-{kind}" for kind in ("ranks", "alone")]
    assert read_jsonl(folders[0] / "samples.jsonl") == read_jsonl(folders[1] / "samples.jsonl")
    for row, other in zip(*(read_jsonl(folder / "metrics.jsonl") for folder in folders), strict=True):
        assert {k: row[k] for k in LOGGED} == pytest.approx({k: other[k] for k in LOGGED}, rel=1e-4, abs=1e-6)
        assert row["sampler_drift"] < 1e-5 and row["handover_seconds"] > 0
    file = "adapter_model.safetensors" if is_adapter else "model.safetensors"
    found, expected = (load_file(folder / "model" / file) for folder in folders)
    assert found.keys() == expected.keys()
    assert all(bool(((found[n] - w).abs() <= 1e-5 * w.abs().max()).all()) for n, w in expected.items())
    assert not list(folders[0].glob(".sampler*"))


def test_a_server_that_fails_ends_all_ranks_with_a_sentence_and_the_run_goes_on(home: Path) -> None:
    base = str(home / "plain")
    with serving(Vllm(base)) as vllm:
        on_ranks(home, "whole", vllm)
    with serving(Vllm(base, dies_after=6 + 12 + 5)) as first:
        [sentence] = on_ranks(home, "failed", first, "--sampler-wait", "1", status=2)
    assert f"{first.url}/v1 was waited for 1 seconds (" in sentence
    assert sentence.endswith("start it again, and give the same command again, with --resume where it trains.")
    assert [path.name for path in (home / "failed" / "checkpoints").iterdir()] == ["step-0000001"]
    with serving(Vllm(base)) as second:
        on_ranks(home, "failed", second, "--resume")
    assert len(requests(second)) == 6 + 2 * 12
    for name, weight in load_file(home / "whole" / "model" / "model.safetensors").items():
        assert torch.equal(load_file(home / "failed" / "model" / "model.safetensors")[name], weight), name


def test_a_server_that_cannot_be_used_ends_all_ranks_before_they_begin(home: Path) -> None:
    with serving(Vllm(str(home / "plain"), keeps="lm_head")) as vllm:
        [sentence] = on_ranks(home, "refused", vllm, status=2)
    assert "takes only part of the weights it is handed" in sentence
    assert not (home / "refused").exists()
