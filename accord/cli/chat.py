"""`accord chat`: talk with a model, or with two beside each other."""

from __future__ import annotations

from typing import Literal

from accord.chat.screen import Screen
from accord.chat.session import Session
from accord.chat.speaker import Speaker
from accord.engine.load import load_model
from accord.engine.precision import autocast, compute_dtype
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.feedback.named import reward_named
from accord.feedback.reward import Reward, check_prompts, listen
from accord.records import EncodedPrompt, Prompt
from accord.results.base import called


def chat(
    model: str,
    *,
    beside: str | None = None,
    reward: str | None = None,
    best_of: int = 1,
    system: str = "",
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> None:
    """Talk with a model in the terminal, or with two beside each other; /help lists what can be done meanwhile.

    Lines may be piped in. Ctrl-C stops an answer, Ctrl-D ends the chat.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        beside: another model that answers the same messages; the model itself, for two samples of it.
        reward: a reward whose score of every answer is shown: a reward model, module:function, a URL, cafe, or a sum.
        best_of: of so many answers show the one with the highest reward.
        system: a system prompt.
        temperature: divides the logits; 0 always takes the most likely token.
        top_p: draw only from the most likely tokens that together have this probability (1: all).
        max_new_tokens: an answer is cut after so many tokens, or half the model's context where that is less.
        seed: one seed gives the same answers again.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.

    Raises:
        InputError: there is no such model or reward, or the options do not fit each other.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p=top_p, seed=seed)
    policy = load_model(model)
    policies = [policy]
    if beside is not None:
        policies.append(policy if beside == model else load_model(beside))
    precision = compute_dtype(dtype, policy.device)
    scored: Reward | None = None
    if reward is not None:
        scored = reward_named(reward, policy.in_dtype(dtype))
        _check(scored, reward)
        for other in policies[1:]:
            listen(scored, other)
    screen = Screen()
    speakers = [Speaker(p, called(p.name)) for p in policies]
    session = Session(speakers, screen, sampling, reward=scored, best_of=best_of, system=system)
    with autocast(precision, policy.device):
        session.run(screen.lines())


def _check(reward: Reward, name: str) -> None:
    """Raise InputError where a reward reads what a row of data has and a message has not."""
    try:
        check_prompts(reward, [EncodedPrompt(Prompt(""), (), -1)])
    except InputError as error:
        raise InputError(f"--reward {name} reads a row of data, and a chat has none ({error}).") from error
