"""`accord chat`: talk with a model in the terminal, or with two side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from accord import engine, feedback
from accord.engine.config import TemplateOptions
from accord.errors import InputError
from accord.records import EncodedPrompt, Prompt

if TYPE_CHECKING:
    from accord.engine.models import Policy
    from accord.feedback.reward import Reward


def chat(
    model: str,
    *,
    other: str | None = None,
    reward: str | None = None,
    best_of: int = 1,
    system: str = "",
    chat_template: str | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> None:
    """Talk with a model in the terminal, or with two side by side; /help lists what can be done meanwhile.

    Lines may be piped in. Ctrl-C stops an answer, Ctrl-D ends the chat.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        other: another model that answers the same messages; the model itself, for two samples of it.
        reward: a reward whose score of every answer is shown: a reward model, module:function, a URL, cafe, or a sum.
        best_of: of so many answers show the one with the highest reward.
        system: a system prompt; where the chat template has no place for one, it begins the first message.
        chat_template: the chat template of a model that has none, or in place of its own: a file of Jinja, or chatml.
        temperature: divides the logits; 0 always takes the most likely token.
        top_p: draw only from the most likely tokens that together have this probability (1: all).
        max_new_tokens: an answer is cut after so many tokens, or half the model's context where that is less.
        seed: one seed gives the same answers again.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.

    Raises:
        InputError: there is no such model or reward, or the options do not fit each other.
    """
    sampling = engine.sampling.Sampling(max_new_tokens, temperature, top_p=top_p, seed=seed)
    from accord.chat.screen import Screen
    from accord.chat.session import Session
    from accord.chat.speaker import Speaker
    from accord.results.base import called

    def loaded(name: str) -> Policy:
        read = engine.load.load_model(name).in_dtype(dtype)
        folds = chat_template is not None or read.tokenizer.chat_template is not None
        return TemplateOptions(chat_template=chat_template, system="fold" if folds else "refuse").templated(read)

    policy = loaded(model)
    policies = [policy]
    if other is not None:
        policies.append(policy if other == model else loaded(other))
    scored: Reward | None = None
    if reward is not None:
        scored = feedback.named.reward_named(reward, policy)
        _check(scored, reward)
        for policy_heard in policies[1:]:
            feedback.reward.listen(scored, policy_heard)
    screen = Screen()
    speakers = [Speaker(p, called(p.name)) for p in policies]
    session = Session(speakers, screen, sampling, reward=scored, best_of=best_of, system=system)
    with policy.autocast():
        session.run(screen.lines())


def _check(reward: Reward, name: str) -> None:
    try:
        feedback.reward.check_prompts(reward, [EncodedPrompt(Prompt(""), (), -1)])
    except InputError as error:
        raise InputError(f"--reward {name} reads a row of data, and a chat has none ({error}).") from error
