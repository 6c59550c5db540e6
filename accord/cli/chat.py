"""`accord chat`: talk with a model in the terminal, or with two side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from accord import engine, feedback
from accord.engine.config import TemplateOptions
from accord.errors import InputError
from accord.evaluate.options import takes
from accord.feedback.options import RewardOptions
from accord.prompting.server import Server
from accord.records import EncodedPrompt, Prompt

if TYPE_CHECKING:
    from accord.engine.models import Policy
    from accord.engine.sampling import Sampling
    from accord.feedback.reward import Reward


@takes(RewardOptions)
def chat(
    model: str | None = None,
    *,
    server: str | None = None,
    key: str | None = None,
    insecure: bool = False,
    other: str | None = None,
    reward: str | None = None,
    best_of: int = 1,
    system: str = "",
    chat_template: str | None = None,
    chat_template_kwargs: dict[str, str | bool | int | float] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    **options: Any,
) -> None:
    """Talk with a model in the terminal, or with two side by side; /help lists commands to type meanwhile.

    Input may be piped. Ctrl-C stops an answer, Ctrl-D ends the chat.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2; with --server, the model's name there, if it has several.
        server: base URL of an OpenAI-compatible server that has the model, such as http://localhost:8000/v1.
        key: the environment variable that holds the server's key; OPENAI_API_KEY for api.openai.com, none for others.
        insecure: allow sending the key over plain http to another machine.
        other: a second model that answers the same messages; the same model again, for two samples of it.
        reward: a reward to score every answer: a reward model, module:function, a URL, cafe, or a sum.
        best_of: sample this many answers and show the one with the highest reward.
        system: a system prompt; where the chat template has no place for one, it is put before the first message.
        chat_template: a chat template for a model that has none, or to replace its own: a Jinja file, or chatml.
        chat_template_kwargs: further variables for the chat template, such as enable_thinking=false, or the date that
            it writes, as strftime_now=2026-11-30.
        temperature: sampling temperature; 0 always takes the most likely token.
        top_p: draw only from the most likely tokens that together have this probability (1: all).
        max_new_tokens: longest answer, in tokens; at most half the model's context.
        seed: the same seed gives the same answers.
        dtype: precision of matrix products; auto is bfloat16 where the processor supports it.
        options: the fields of `RewardOptions`.

    Raises:
        InputError: there is no such model, server or reward, or the options do not fit each other.
    """
    sampling = engine.sampling.Sampling(max_new_tokens, temperature, top_p=top_p, seed=seed)
    settings = RewardOptions(**options)
    if server is not None:
        own = {
            "reward": reward, "best_of": best_of > 1, "dtype": dtype != "auto", "chat_template": chat_template,
            "chat_template_kwargs": chat_template_kwargs, **vars(settings),
        }  # fmt: skip
        return _served(Server(server, key, insecure), [model, *([other] if other else [])], sampling, system, own)
    if model is None or key is not None or insecure:
        raise InputError("`accord chat` needs --model or --server; --key names the server's key.")
    policies = _loaded([model] if other is None else [model, other], dtype, chat_template, chat_template_kwargs)
    scored = None if reward is None else _scoring(reward, policies)
    settings.allow([] if scored is None else [scored])
    _local(policies, scored, best_of, sampling, system)


def _loaded(
    names: list[str],
    dtype: str,
    chat_template: str | None,
    chat_template_kwargs: dict[str, str | bool | int | float] | None,
) -> list[Policy]:
    """The models, each loaded once; one without a chat template stays without."""
    template = TemplateOptions(chat_template=chat_template, system="fold", chat_template_kwargs=chat_template_kwargs)
    loaded = {}
    for name in dict.fromkeys(names):
        policy = engine.load.load_model(name).in_dtype(dtype)
        has_template = template.chat_template is not None or policy.tokenizer.chat_template is not None
        loaded[name] = template.templated(policy) if has_template else policy
    return [loaded[name] for name in names]


def _scoring(name: str, policies: list[Policy]) -> Reward:
    scored = feedback.named.reward_named(name, policies[0])
    _check(scored, name)
    for policy in policies[1:]:
        feedback.reward.listen(scored, policy)
    return scored


def _local(policies: list[Policy], scored: Reward | None, best_of: int, sampling: Sampling, system: str) -> None:
    from accord.chat.screen import Screen
    from accord.chat.session import Session
    from accord.chat.speaker import Speaker
    from accord.results.base import called

    screen = Screen()
    speakers = [Speaker(p, called(p.name)) for p in policies]
    session = Session(speakers, screen, sampling, reward=scored, best_of=best_of, system=system)
    with policies[0].autocast():
        session.run(screen.lines())


def _served(
    server: Server, names: list[str | None], sampling: Sampling, system: str, not_served: Mapping[str, object]
) -> None:
    """Chat with models on a server; InputError where an option is for models loaded in this process."""
    from accord.chat.screen import Screen
    from accord.chat.served import ServedSpeaker
    from accord.chat.session import Session

    for name, value in not_served.items():
        if value:
            raise InputError(
                f"--{name.replace('_', '-')} is for a model loaded in this process, not for one on a server: leave it "
                "out."
            )
    screen = Screen()
    speakers = [ServedSpeaker(server, server.model_named(name)) for name in names]
    Session(speakers, screen, sampling, system=system).run(screen.lines())


def _check(reward: Reward, name: str) -> None:
    try:
        feedback.reward.check_prompts(reward, [EncodedPrompt(Prompt(""), (), -1)])
    except InputError as error:
        raise InputError(f"--reward {name} reads a row of data, and a chat has none ({error}).") from error
