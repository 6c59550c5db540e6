"""Servers that cannot draw a policy's samples: each ends the command before it begins, in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.errors import InputError
from tests.commands.small import accord, write_jsonl
from tests.feedback.serving import serving
from tests.prompting.pretend_vllm import Vllm
from tests.prompting.sampled import PROMPTS, other_model, run


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"raw": True}, "are those before the temperature of 0.7: start it with --logprobs-mode processed_logprobs."),
        ({"is_dev": False}, "takes no weights: start it with VLLM_SERVER_DEV_MODE=1 in its environment."),
        ({"keeps": "lm_head"}, "takes only part of the weights it is handed: where some change a little, it and"),
        ({"longest": 7}, "reads 7 tokens at most (--max-model-len), and prompts with samples need"),
        ({"texts_only": True}, "(KeyError: 'token_ids'; vLLM gives them by return_token_ids) in"),
        ({"fails": True}, "fails on a sample again and again (server error (5xx): 500 no memory)"),
    ],
    ids=lambda told: str(told)[:20],
)
def test_a_server_that_cannot_be_used_ends_the_command_before_it_begins(
    told: dict[str, Any], message: str, base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "p.jsonl", PROMPTS)
    with serving(Vllm(base, **told)) as vllm:
        given = ["--sampler", vllm.url, "--sampler-wait", "60", "--temperature", "0.7", "--max-new-tokens", "6"]
        given += ["--dtype", "float32"]
        run_it = ["grpo", "--model", base, "--data", data, "--out", tmp_path / "run", "--max-steps", "1"]
        assert accord(*run_it, "--reward", "tests.prompting.sampled:score", *given) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert vllm.url in last and message in last
    assert not (tmp_path / "run").exists()


def test_a_server_of_another_model_or_vocabulary(base: str, tmp_path: Path) -> None:
    wider = other_model(tmp_path / "wider", hidden_size=32)
    with (
        serving(Vllm(wider)) as vllm,
        pytest.raises(InputError, match=r"does not take the weights of .* it must serve the same model"),
    ):
        run(base, tmp_path / "run", sampler=vllm.url)
    with serving(Vllm(base)) as vllm, pytest.raises(InputError, match="which has another vocabulary than"):
        vllm.policy.tokenizer.add_tokens(["bye bye"])
        run(base, tmp_path / "run", sampler=vllm.url)
    other = other_model(tmp_path / "other")
    with serving(Vllm(other, keeps="")) as vllm, pytest.raises(InputError, match=r"differ by [\d.]+ nats a token"):
        run(base, tmp_path / "run", sampler=vllm.url)
    assert not (tmp_path / "run").exists()
