"""Decoding by CUDA graphs, which a CPU repeats operation by operation: the same samples, however the batch changes."""

from __future__ import annotations

import functools
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from accord.engine import cuda_graphs, decoding, fast_paths
from accord.engine.cache import Cache
from accord.engine.decoding import Mixture, decoder
from accord.engine.fast_paths import candidates
from accord.engine.forward import prepare
from accord.engine.generate import generate, stream
from accord.engine.models import prepare_network
from accord.engine.precision import autocast
from accord.engine.sampling import Sampling
from tests import on_device
from tests.engine import recorded
from tests.engine.test_generate import PROMPTS, assert_same
from tests.engine.tiny import CONFIGS, END, random_model

SAMPLING = Sampling(max_new_tokens=11, temperature=1.3, top_k=11, top_p=0.97)


def network(name: str, seed: int = 1) -> nn.Module:
    return prepare(random_model(CONFIGS[name](), seed=seed))


def failing(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing\nand more lines")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Has every cache decode by graphs; counts them and their replays."""
    counted: Counter[str] = Counter()
    record = cuda_graphs.record if on_device.DEVICE.type == "cuda" else recorded.record

    def counting(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        replay = record(step)
        counted["graphs"] += 1

        def counted_replay() -> Tensor:
            counted["replays"] += 1
            return replay()

        return counted_replay

    monkeypatch.setattr(cuda_graphs, "record", counting)
    monkeypatch.setattr(cuda_graphs, "BLOCK", 4)
    for module in (decoding, cuda_graphs):
        monkeypatch.setattr(module, "can_be_graphed", lambda model: getattr(model, "_accord_graphs", True))
    return counted


@pytest.mark.parametrize("capacity", [1, 6, 9, 256])
@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "deepseek_v3"])
def test_samples_are_those_without_graphs(name: str, capacity: int, request: pytest.FixtureRequest) -> None:
    model = network(name)
    plain = generate(model, PROMPTS, 3, SAMPLING, end=(END, 5), capacity=capacity)
    assert {c.stop for group in plain for c in group} == {"end", "length"}
    counts = request.getfixturevalue("counts")
    assert_same(generate(model, PROMPTS, 3, SAMPLING, end=(END, 5), capacity=capacity), plain)
    assert 0 < counts["graphs"] <= counts["replays"]


def test_in_bfloat16_too_samples_are_those_without_graphs(request: pytest.FixtureRequest) -> None:
    model = prepare(random_model(CONFIGS["llama"](), dtype=torch.float32))
    with autocast(torch.bfloat16, on_device.DEVICE):
        plain = generate(model, PROMPTS, 3, SAMPLING, end=END)
        request.getfixturevalue("counts")
        assert_same(generate(model, PROMPTS, 3, SAMPLING, end=END), plain)


def test_a_mixture_decodes_by_the_graphs_of_both(request: pytest.FixtureRequest) -> None:
    mixture = Mixture(network("llama"), network("gpt2", seed=3), 0.3)
    plain = generate(mixture, PROMPTS, 2, SAMPLING, end=END)
    counts = request.getfixturevalue("counts")
    assert_same(generate(mixture, PROMPTS, 2, SAMPLING, end=END), plain)
    assert counts["graphs"] % 2 == 0 < counts["graphs"]


def test_a_stream_of_eleven_tokens_records_once_a_shape(request: pytest.FixtureRequest) -> None:
    model = network("llama")
    plain = list(stream(model, PROMPTS[0], SAMPLING, end=99))
    counts = request.getfixturevalue("counts")
    assert [token for token, _ in stream(model, PROMPTS[0], SAMPLING, end=99)] == [token for token, _ in plain]
    # Ten steps read 1 to 10 keys of the sample, in shapes of 4, 8 and 11; the first step of each shape is no replay.
    assert counts == {"graphs": 3, "replays": 7}


def test_samples_that_end_stay_until_a_quarter_has(counts: Counter[str]) -> None:
    batch = decoder(network("llama"), 4)
    assert isinstance(batch, cuda_graphs.GraphedCache)
    tokens = batch.prefill([(3, 1), (4, 1, 5)], 4).argmax(-1).repeat_interleave(4)
    batch.decode(tokens)
    live = torch.ones(8, dtype=torch.bool)
    live[3] = live[6] = False
    batch.keep(live)
    assert len(batch.decode(tokens[live])) == 6 and len(batch.length) == 8 and counts["graphs"] == 1
    batch.keep(torch.tensor([False] + [True] * 5))
    assert len(batch.length) == 5 and batch.group.tolist() == [0, 0, 1, 1, 1]


def test_what_cannot_be_recorded_is_decoded_as_usual_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    model = network("llama")
    plain = generate(model, PROMPTS, 3, SAMPLING, end=END)
    request.getfixturevalue("counts")

    monkeypatch.setattr(cuda_graphs, "record", failing)
    with pytest.warns(UserWarning, match="no CUDA graphs in sampling, which is slower without: operation not") as seen:
        assert_same(generate(model, PROMPTS, 3, SAMPLING, end=END), plain)
    assert len(seen) == 1 and type(decoder(model, 4)) is Cache


def test_only_what_a_trial_has_allowed_and_a_gpu_holds_whole_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("llama")
    assert not cuda_graphs.can_be_graphed(model)
    model._accord_graphs = True  # type: ignore[assignment]
    on_gpu = on_device.DEVICE.type == "cuda"
    assert cuda_graphs.can_be_graphed(model) is on_gpu
    monkeypatch.setattr(nn.Parameter, "is_cuda", True)
    assert cuda_graphs.can_be_graphed(model)
    monkeypatch.setenv("ACCORD_CUDA_GRAPHS", "0")
    assert not cuda_graphs.can_be_graphed(model)


def proved(cache: Path) -> list[list[bool]]:
    """What is cached of trials."""
    return [json.loads(file.read_text()) for file in cache.glob("proved/*.json")]


@pytest.mark.parametrize("records", [True, False])
def test_the_trial_at_load_allows_graphs_that_give_the_same_logits(
    records: bool, counts: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    monkeypatch.setattr(fast_paths, "candidates", lambda device: candidates(torch.device("cuda")))
    if not records:
        monkeypatch.setattr(cuda_graphs, "record", failing)
    with warnings.catch_warnings(record=True) as seen:
        model = prepare_network(random_model(CONFIGS["llama"]()))
    assert isinstance(decoder(model, 4), cuda_graphs.GraphedCache if records else Cache)
    assert proved(tmp_path) == [[True, True, True, records]]
    assert counts == ({"graphs": 1, "replays": 2} if records else {}) and not seen


@pytest.mark.parametrize("is_hidden", [False, True])
def test_memory_that_runs_out_in_the_trial_at_load_is_not_remembered(
    is_hidden: bool, counts: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if is_hidden:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    monkeypatch.setattr(fast_paths, "candidates", lambda device: candidates(torch.device("cuda")))
    with monkeypatch.context() as now:
        now.setattr(cuda_graphs, "record", full)
        with pytest.warns(UserWarning, match="memory ran out as CUDA graphs of the model small were recorded") as seen:
            model = prepare_network(random_model(CONFIGS["llama"]()), "small")
    assert len(seen) == 1 and type(decoder(model, 4)) is Cache and proved(tmp_path) == []
    assert isinstance(decoder(prepare_network(random_model(CONFIGS["llama"]())), 4), cuda_graphs.GraphedCache)
    assert proved(tmp_path) == [[True, True, True, True]]


def test_graphs_that_give_other_logits_are_found_at_load(
    counts: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    monkeypatch.setattr(fast_paths, "candidates", lambda device: candidates(torch.device("cuda")))
    # The second replay gives the logits of the first, as if a graph read an old position.
    monkeypatch.setattr(cuda_graphs, "record", lambda step: functools.cache(step))
    assert type(decoder(prepare_network(random_model(CONFIGS["llama"]())), 4)) is Cache
