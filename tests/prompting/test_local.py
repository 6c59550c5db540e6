"""A model at hand that is asked by prompts: its own samples, of the request alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accord.data.chat import encode_prompt
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.prompting.journal import Journal
from accord.prompting.local import AT_ONCE, Local, before
from accord.prompting.requests import Reply, Request
from accord.records import EncodedPrompt, Message, Prompt
from tests.commands.small import save_model

CHAT = (Message("user", "Name a color."),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Local:
    return Local(load_model(save_model(tmp_path_factory.mktemp("model") / "m")))


def asked(prompt: str, **more: object) -> Request:
    return Request(prompt=prompt, **{"max_tokens": 6, "temperature": 1.0, **more})  # type: ignore[arg-type]


def test_a_reply_is_the_sample_of_its_seed(model: Local) -> None:
    policy = model.model
    tokens = encode_prompt(policy.tokenizer, "hi hello")
    for seed in (0, 3):
        [reply] = model([asked("hi hello", seed=seed)])
        [sample] = policy.sample([EncodedPrompt(Prompt("hi hello"), tokens, 0)], 1, Sampling(6, 1.0, seed=seed))
        assert (reply.text, reply.tokens_out) == (sample.text, len(sample.completion.tokens))
        assert reply.is_cut == (sample.completion.stop == "length") and reply.tokens_in == len(tokens)


def test_a_reply_depends_on_the_request_alone(model: Local) -> None:
    requests = [asked("hi", seed=i % 5, temperature=(0.7, 1.0)[i % 2]) for i in range(2 * AT_ONCE)]
    requests += [asked("bad day", choices=("hi", "good day")), asked("bad day")]
    told: dict[int, Reply] = {}
    replies = model(requests, told.__setitem__)
    assert [told[i] for i in range(len(requests))] == replies
    assert [model([request])[0] for request in requests] == replies == model(requests[::-1])[::-1]
    assert len({reply.text for reply in replies}) > 3


def test_choices_have_the_probabilities_of_all_their_tokens(model: Local) -> None:
    policy = model.model
    [reply] = model([asked("hi", max_tokens=0, choices=("good", "bad day"))])
    assert reply.text == "" and reply.choices is not None and reply.tokens_out == 0
    tokens = [
        *encode_prompt(policy.tokenizer, "hi"),
        *policy.tokenizer("bad day", add_special_tokens=False)["input_ids"],
    ]
    with torch.no_grad():
        logp = policy.network(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    n = reply.tokens_in
    good = policy.tokenizer("good", add_special_tokens=False)["input_ids"]
    assert reply.choices["good"] == pytest.approx(float(logp[n - 1, good[0]].exp()), rel=1e-4)
    two = sum(logp[n - 1 + i, token] for i, token in enumerate(tokens[n:]))
    assert reply.choices["bad day"] == pytest.approx(float(two.exp()), rel=1e-4)


def test_what_does_not_fit_has_a_reason(model: Local) -> None:
    context = model.model.context
    assert context is not None
    long, room, fine = model([asked("hi " * context), asked("hi", max_tokens=context), asked("hi")])
    assert long.text is None and long.reason.startswith("too long: ")
    assert room.text is None and f"{context} of the reply" in room.reason
    assert fine.text is not None


def test_a_reply_ends_before_its_stop() -> None:
    assert before("one. two! three", ("!", ".")) == "one"
    assert before("one", (".",)) == "one" and before("one", ()) == "one"


def test_another_model_of_the_same_name_is_of_other_settings(model: Local, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m")
    same, other = Local(load_model(folder)), Local(load_model(folder))
    assert same.settings == model.settings
    with torch.no_grad():
        for weight in other.model.network.parameters():
            weight += 1e-3
    assert other.settings == {**model.settings, "weights": other.settings["weights"]} != model.settings
    [reply] = Journal(same, tmp_path / "j")([asked("hi")])
    assert Journal(Local(load_model(folder)), tmp_path / "j")([asked("hi")]) == [reply]
    with pytest.raises(InputError, match="has other settings .weights: "):
        Journal(other, tmp_path / "j")([asked("hi")])


def test_smollm2_says_what_transformers_says(smollm2: Policy) -> None:
    stopped = Request(prompt=CHAT, max_tokens=12, stop=(".",))
    plain = Request(prompt="The capital of France is", max_tokens=4)
    replies = Local(smollm2)([stopped, plain])
    tokens = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    said = smollm2.network.generate(**tokens, max_new_tokens=4, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert replies[1].text == smollm2.tokenizer.decode(said, skip_special_tokens=True)
    assert replies[0].text and "." not in replies[0].text
