"""Samples drawn by servers: a whole run against a server that speaks vLLM's protocol, and all that can go wrong."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from accord.data.chat import encode_prompt
from accord.engine.config import SamplerConfig
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling, request_seeds
from accord.errors import InputError
from accord.methods import RAFT, NashMD
from accord.prompting import handover, sampler
from accord.train.loop import Result
from tests.commands.small import accord, read_jsonl, write_jsonl
from tests.feedback.serving import serving
from tests.prompting.pretend_vllm import Vllm, alone
from tests.prompting.sampled import PROMPTS, SETTINGS, judge, other_model, run, same, score, weights

pytestmark = pytest.mark.usefixtures("blank_reports")


@pytest.fixture(scope="module")
def reference(base: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run whose samples this process draws, each by itself, as the server does."""
    return run(load_model(base).sampled_by(alone), tmp_path_factory.mktemp("reference") / "run")


def test_a_run_by_a_server_is_the_run_without(base: str, reference: Result, tmp_path: Path) -> None:
    with serving(Vllm(base)) as vllm:
        found = run(base, tmp_path / "run", sampler=vllm.url)
    same(found, reference)
    assert [row["sampler_drift"] < 1e-5 for row in found.metrics] == [True] * 3
    handed = [body for path, body in vllm.asked if path == "/collective_rpc"]
    assert len(handed) == 4 and len({body["kwargs"]["weights_path"] for body in handed}) == 4, "one to see that they go"
    assert [path for path, _ in vllm.asked].count("/reset_prefix_cache") == 4
    first, last = load_file(Path(base) / "model.safetensors"), weights(found)
    own = vllm.policy.network.state_dict()
    assert all(not torch.equal(own[name], first[name]) and not torch.equal(own[name], last[name]) for name in first)
    assert not list((tmp_path / "run").glob(".sampler*")), "the weights for the server are taken away"
    samples = [body for path, body in vllm.asked if path == "/v1/completions"]
    assert len(samples) == 6 + 3 * 12, "a few before the first step, then a step's own"
    assert len({body["cache_salt"] for body in samples}) == 4
    assert samples[0] | {"prompt": [], "seed": 0, "cache_salt": ""} == {
        "prompt": [], "seed": 0, "cache_salt": "", "model": base, "max_tokens": 6, "min_tokens": 0, "temperature": 0.7,
        "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "ignore_eos": True, "stop_token_ids": list(vllm.policy.ends),
        "include_stop_str_in_output": True, "logprobs": 0, "return_token_ids": True,
    }  # fmt: skip


@pytest.fixture
def moved(base: str) -> Policy:
    """The model with weights that no server has by itself."""
    policy = load_model(base, dtype="float32")
    with torch.no_grad():
        for weight in policy.network.parameters():
            weight.mul_(1.5)
    return policy


ASKED = [(5, 6), (7,), (5, 6), (8, 9, 6)]
DRAWING = Sampling(6, 0.7, seed=(3, 1))


def drawn(policy: Policy, folder: Path, *urls: str, sampling: Sampling = DRAWING, **more: Any) -> None:
    """What servers draw is what this process does by itself."""
    made = sampler.ServedSampler(SamplerConfig(sampler=list(urls), **more), folder)
    try:
        assert made(policy, ASKED, 4, sampling) == alone(policy, ASKED, 4, sampling)
        if sampling.temperature and not sampling.top_k:
            assert made.numbers()["sampler_drift"] < 1e-5
        else:  # what servers say is of a distribution that the policy's own numbers are not of
            assert "sampler_drift" not in made.numbers()
    finally:
        made.close()
    assert list(folder.iterdir()) == []


def test_servers_share_the_samples(base: str, moved: Policy, tmp_path: Path) -> None:
    with serving(Vllm(base)) as one, serving(Vllm(base)) as other:
        drawn(moved, tmp_path, one.url, other.url, sampler_parallel=2)
    assert one.drawn > 1 and other.drawn > 1 and one.drawn + other.drawn == 16


def test_servers_are_asked_for_as_much_at_a_time(base: str, moved: Policy, tmp_path: Path) -> None:
    """Who has its weights first does not take all: nothing is answered before all is asked for, of each the half."""
    gate = threading.Event()
    with serving(Vllm(base, gate=gate)) as one, serving(Vllm(base, gate=gate)) as other:

        def asked() -> list[int]:
            return [sum(path == "/v1/completions" for path, _ in vllm.asked) for vllm in (one, other)]

        found: list[list[int]] = []

        def opening() -> None:
            end = time.monotonic() + 10
            while sum(asked()) < 16 and time.monotonic() < end:
                time.sleep(0.01)
            found.append(asked())
            gate.set()

        thread = threading.Thread(target=opening)
        thread.start()
        drawn(moved, tmp_path, one.url, other.url)
        thread.join()
    assert found == [[8, 8]]


def test_a_server_that_is_killed_and_started_again_is_handed_the_weights_anew(
    base: str, moved: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(serving(Vllm(base, dies_after=5)))
        started: list[Vllm] = []

        def again() -> None:
            while not first.is_dead:
                time.sleep(0.01)
            time.sleep(0.2)
            started.append(stack.enter_context(serving(Vllm(base, port=first.server_port))))

        thread = threading.Thread(target=again)
        thread.start()
        drawn(moved, tmp_path, first.url, sampler_parallel=3)
        thread.join()
    assert [path for path, _ in started[0].asked].count("/collective_rpc") == 1
    assert f"{first.url}/v1 is waited for, up to 300 seconds" in capsys.readouterr().err


def test_a_server_that_is_silent_holds_up_no_step_that_another_draws(base: str, moved: Policy, tmp_path: Path) -> None:
    """As one whose machine is gone: it takes no connection and refuses none."""
    with socket.create_server(("127.0.0.1", 0)) as silent, serving(Vllm(base)) as vllm:
        begun = time.monotonic()
        drawn(moved, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", vllm.url, sampler_wait=60)
    assert time.monotonic() - begun < 30 and vllm.drawn == 16


def test_of_two_servers_one_can_be_lost(base: str, moved: Policy, tmp_path: Path) -> None:
    with serving(Vllm(base, dies_after=3)) as lost, serving(Vllm(base)) as left:
        drawn(moved, tmp_path, lost.url, left.url, sampler_parallel=2)
    assert lost.is_dead and left.drawn > 10


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(6, 0.7, stop=("good",), min_new_tokens=2, seed=1),
        Sampling(6, 1.0, top_k=3, top_p=0.8, seed=1),
        Sampling(6, 0.0),
    ],
)
def test_other_ways_of_sampling(sampling: Sampling, base: str, moved: Policy, tmp_path: Path) -> None:
    with serving(Vllm(base)) as vllm:
        drawn(moved, tmp_path, vllm.url, sampling=sampling)


def test_weights_are_handed_over_when_they_have_changed(base: str, moved: Policy, tmp_path: Path) -> None:
    """Fused AdamW, which torch's count of changes does not see, changes one weight in 1,000 by its last bit."""
    with serving(Vllm(base)) as vllm:
        made = sampler.ServedSampler(SamplerConfig(sampler=vllm.url), tmp_path)
        for expected in (1, 1, 2):
            if expected == 2:
                weight = moved.network.lm_head.weight
                weight.grad = torch.zeros_like(weight)
                weight.grad[0, 0] = 1.0
                torch.optim.AdamW([weight], lr=1e-6, weight_decay=0.0, fused=True).step()
            made(moved, ASKED, 1, DRAWING)
            assert [path for path, _ in vllm.asked].count("/collective_rpc") == expected
        made.close()
        assert torch.equal(vllm.policy.network.lm_head.weight, moved.network.lm_head.weight)


def test_weights_that_are_not_taken_in_time(
    base: str, moved: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server has `sampler_wait` for them, and for each 50 MB a second more; what it took counts as waited for."""
    monkeypatch.setattr("accord.prompting.shares.LOADING", 1.0)
    monkeypatch.setattr("tests.prompting.pretend_vllm.Handler.reload", lambda *_: time.sleep(3))
    with serving(Vllm(base)) as vllm:
        made = sampler.ServedSampler(SamplerConfig(sampler=vllm.url, sampler_wait=0.9), tmp_path)
        begun = time.monotonic()
        with pytest.raises(InputError, match=r"was waited for 0\.9 seconds \(no reply within .* seconds\): start it"):
            made(moved, ASKED, 1, DRAWING)
        assert time.monotonic() - begun < 2.9
        made.close()


def test_a_run_whose_server_stays_away_goes_on_with_another(base: str, reference: Result, tmp_path: Path) -> None:
    with (
        serving(Vllm(base, dies_after=6 + 12 + 5)) as first,
        pytest.raises(
            InputError, match=r"waited for 3 seconds \(.*\): start it again, and give the same command again"
        ),
    ):
        run(base, tmp_path / "run", sampler=first.url, sampler_wait=3)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000001"]
    with serving(Vllm(base)) as second:
        found = run(base, tmp_path / "run", sampler=second.url, resume=True)
    same(found, reference)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["sampler"] == second.url


@pytest.mark.slow
def test_adapters_go_by_a_new_name_each_time(base: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with serving(Vllm(base, is_dev=False)) as vllm:
        found = run(base, tmp_path / "run", sampler=vllm.url, lora_rank=2)
    wanted = run(load_model(base).sampled_by(alone), tmp_path / "wanted", lora_rank=2)
    for row, other in zip(found.metrics, wanted.metrics, strict=True):
        assert row["reward"] == other["reward"] and row["sampler_drift"] < 1e-5
        assert abs(row["loss"] - other["loss"]) < 1e-5
    loaded = [body["lora_name"] for path, body in vllm.asked if path == "/v1/load_lora_adapter"]
    assert len(set(loaded)) == 4 and list(vllm.adapters) == loaded[-1:]


@pytest.mark.slow
def test_other_methods(base: str, tmp_path: Path) -> None:
    """RAFT logs by how much the sampler differs; an opponent that is a mixture is sampled here, of the same prompts."""
    settings = {**SETTINGS, "max_steps": 2}
    with serving(Vllm(base)) as vllm:
        raft = RAFT(**settings, sampler=vllm.url).fit(base, PROMPTS, reward=score, out=tmp_path / "raft")
        drawn = vllm.drawn
        nash = NashMD(**settings, sampler=vllm.url).fit(base, PROMPTS, judge=judge, out=tmp_path / "nash")
    assert all(0 <= row["sampler_drift"] < 1e-5 and row["handover_seconds"] >= 0 for row in raft.metrics)
    assert drawn == 6 + 2 * 12 and vllm.drawn == drawn + 6 + 2 * 12 and len(nash.metrics) == 2


def test_sample_and_evaluate(base: str, tmp_path: Path) -> None:
    """What is written is what the server drew of the model's weights, which it does not have by itself."""
    start, data = load_model(base, dtype="float32"), write_jsonl(tmp_path / "p.jsonl", PROMPTS)
    with torch.no_grad():
        start.network.get_output_embeddings().weight.mul_(1.5)
    moved = str(start.save(tmp_path / "moved"))
    asked = ["--data", data, "--max-new-tokens", "6", "--dtype", "float32", "--seed", "3"]
    with serving(Vllm(base)) as vllm:
        sample = ["sample", "--model", moved, *asked, "--n", "2", "--out", tmp_path / "s.jsonl"]
        assert accord(*sample, "--sampler", vllm.url) == 0
        drawn = vllm.drawn
        evaluate = ["evaluate", "models", "--models.a", base, "--models.b", moved, *asked, "--out", tmp_path / "e"]
        assert accord(*evaluate, "--judge", "tests.prompting.sampled:score", "--sampler", vllm.url) == 0
    assert drawn == 6 + 12 and vllm.drawn == drawn + 2 * (6 + 6)
    rows = read_jsonl(tmp_path / "s.jsonl")
    prompts = [encode_prompt(start.tokenizer, prompt["prompt"]) for prompt in PROMPTS]
    said = [one for group in alone(start, prompts, 2, Sampling(6, seed=3)) for one in group]
    assert [tuple(row["completion_ids"]) for row in rows] == [one.tokens for one in said]


def test_a_head_that_is_the_embedding_is_handed_over_by_its_own_name_too(tmp_path: Path) -> None:
    tied = load_model(other_model(tmp_path / "tied", tie_word_embeddings=True), dtype="float32")
    put = handover.Handover(tmp_path)
    folder = put.write(tied).folder
    embedding = tied.network.get_input_embeddings().weight
    assert load_file(folder / "model.safetensors").keys().isdisjoint({"lm_head.weight"})
    assert torch.equal(load_file(folder / "head.safetensors")["lm_head.weight"], embedding)
    with torch.no_grad():
        before = embedding.clone()
        with handover.nudged(tied):
            assert not torch.equal(embedding, before) and put.write(tied).folder != folder
        assert torch.equal(embedding, before)
    put.close()
    assert not list(tmp_path.glob(".sampler*"))


def test_seeds_of_requests_are_of_the_seed_the_prompt_and_the_samples_number() -> None:
    sampling = Sampling(seed=(3, 1))
    seeds = request_seeds([(5, 6), (7,), (5, 6)], 2, sampling)
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    assert request_seeds([(5, 6)], 4, sampling) == seeds[:2] + seeds[4:]
    assert not set(request_seeds([(5, 6)], 4, Sampling(seed=(3, 2)))) & set(seeds)
    assert min(abs(a - b) for i, a in enumerate(sorted(seeds)) for b in sorted(seeds)[:i]) > 2**40, "no neighbors"
