"""The rows that stages exchange.

Every stage of accord reads rows and writes rows, so any stage runs alone and human and AI verdicts are interchangeable.
A text is either a plain string or a chat (a tuple of messages); a row is a frozen dataclass; a file holds one row a
line as JSON, in the columns usual in the field (`prompt`, `completion`, `chosen`, `rejected`, `label`, `messages`).
Nothing here knows about tensors or tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from accord.arrays import Flags, LogProbs, Tokens

Role: TypeAlias = Literal["system", "user", "assistant", "tool", "developer"]


MASKS = ("weight", "train", "training", "trainable", "loss", "loss_mask")
"""Keys of a message that say whether it is trained on."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `more` holds its other keys for the chat template: tool_calls, reasoning_content, name ...

    In `more`, `MASKS` say whether an assistant's turn is trained on. In a chat's first message, `tools` lists the tools
    the assistant may call, and `chat_template_kwargs` further arguments of the template.
    """

    role: Role
    content: str
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def words(self) -> str:
        """What the turn says: its content, and its tool calls as JSON, a line each."""
        calls = self.more.get("tool_calls") or ()
        named = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
        lines = (json.dumps(call, ensure_ascii=False, default=str) for call in named)
        return "\n".join(filter(None, (self.content, *lines)))

    @property
    def is_trained(self) -> bool:
        """Whether the turn, if it is the assistant's, is trained on."""
        return all(bool(self.more.get(name, True)) for name in MASKS)


Text: TypeAlias = str | tuple[Message, ...]
"""A plain string, or the turns of a chat."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt for a model. `columns` keeps the row's other columns for reward functions and verifiers."""

    prompt: Text
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the completion a model should learn to give; with an empty prompt it is plain text.

    A completion may be a chat of several turns: the assistant's turns are trained on, the others are context. `tokens`
    are the completion's tokens as a sampler drew them, where known; its text is then not tokenized again.
    """

    prompt: Text
    completion: Text
    tokens: Tokens = ()


@dataclass(frozen=True, slots=True)
class Tokenization:
    """A text that is tokenized already, with a trained flag per token; False for the first, which nothing predicts."""

    tokens: Tokens
    trained: Flags
    prompt: ClassVar[Text] = ""


@dataclass(frozen=True, slots=True)
class Labeled:
    """A completion and whether it is desirable (KTO's unpaired feedback)."""

    prompt: Text
    completion: Text
    label: bool


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions of one prompt, the first of which was preferred.

    `margin` is how much larger the chosen reward should be (Llama 2, arXiv:2307.09288, eq. 2). `probability` is that of
    the chosen one being better, in [.5, 1]; 1 means no doubt. `user` is whose preference it is, "" where unknown.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    margin: float = 0.0
    probability: float = 1.0
    user: str = ""

    def __post_init__(self) -> None:
        if not 0.5 <= self.probability <= 1:
            raise ValueError(f"chosen is better with a probability in [.5, 1], not {self.probability}; swap the two")


@dataclass(frozen=True, slots=True)
class Ranking:
    """K completions of one prompt with ranks: 0 is best, equal ranks are ties; `user` as in Preference."""

    prompt: Text
    completions: tuple[Text, ...]
    ranks: tuple[int, ...]
    user: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A question to a judge: which of two completions of one prompt is better?

    `columns` are the other columns on which the rows of the two completions agree.
    """

    prompt: Text
    first: Text
    second: Text
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def swapped(self) -> Comparison:
        """The same comparison with the completions in the other order."""
        return Comparison(self.prompt, self.second, self.first, self.columns)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer: the probability that the first completion is better, .5 for a tie.

    None marks an answer that could not be understood; it is counted, and never turned into a tie.
    """

    first_wins: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.first_wins is not None and not 0.0 <= self.first_wins <= 1.0:
            raise ValueError(f"a verdict is a probability in [0, 1], not {self.first_wins}")


@dataclass(frozen=True, slots=True)
class Completion:
    """What a sampler returns: tokens, their log-probabilities under the distribution sampled from, and why it stopped.

    `stop` is "end" when the last token is the end-of-turn token and "length" when the sampler ran out of tokens.
    `version` is the training step whose weights drew it, where samples are drawn ahead of the training.
    """

    tokens: Tokens
    logprobs: LogProbs
    stop: Literal["end", "length"]
    version: int | None = None

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.logprobs):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.logprobs)} log-probabilities")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled completion as rewards see it: the prompt with its columns, the text, and its tokens.

    `row` is the index, from 0, of the prompt's row in the data, so that messages can name it.
    """

    prompt: Prompt
    text: str
    prompt_tokens: Tokens
    completion: Completion
    row: int = -1


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt, its tokens, and the index, from 0, of its row in the data."""

    prompt: Prompt
    tokens: Tokens
    row: int


Row: TypeAlias = Prompt | Demonstration | Tokenization | Labeled | Preference | Ranking


def text_to_json(text: Text) -> str | list[dict[str, Any]]:
    """A string as it is; a chat as a list of `{"role", "content"}` objects with the messages' other keys."""
    return text if isinstance(text, str) else [{"role": m.role, "content": m.content, **m.more} for m in text]


def row_to_json(row: Row) -> dict[str, Any]:
    """The row as a JSON object in the field's column conventions; `accord.data` reads it back."""
    prompt = {"prompt": text_to_json(row.prompt)}
    match row:
        case Prompt(_, columns):
            return {**prompt, **columns}
        case Demonstration(_, completion, tokens):
            drawn = {"completion_ids": list(tokens)} if tokens else {}
            return {**prompt, "completion": text_to_json(completion), **drawn}
        case Tokenization(tokens, trained):
            labels = [token if is_trained else -100 for token, is_trained in zip(tokens, trained, strict=True)]
            return {"input_ids": list(tokens), "labels": labels}
        case Labeled(_, completion, label):
            return {**prompt, "completion": text_to_json(completion), "label": label}
        case Preference(_, chosen, rejected, margin, probability, user):
            more: dict[str, Any] = {"margin": margin} if margin else {}
            more |= {"chosen_probability": probability} if probability != 1 else {}
            more |= {"user": user} if user else {}
            return {**prompt, "chosen": text_to_json(chosen), "rejected": text_to_json(rejected), **more}
        case Ranking(_, completions, ranks, user):
            more = {"completions": [text_to_json(c) for c in completions], "ranks": list(ranks)}
            return {**prompt, **more, **({"user": user} if user else {})}


def show(text: Text) -> str:
    """The text to read: a string as it is, a chat as one `role: words` paragraph per turn, after its tools if any."""
    if isinstance(text, str):
        return text
    tools = next((m.more["tools"] for m in text if m.more.get("tools")), None)
    listed = [] if tools is None else [f"tools: {json.dumps(tools, ensure_ascii=False, default=str)}"]
    return "\n\n".join([*listed, *(f"{m.role}: {m.words}" for m in text)])
