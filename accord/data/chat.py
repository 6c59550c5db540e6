"""Chats: read from rows, rendered by the tokenizer's chat template, and tokenized, the end-of-turn token always there.

Rows hold strings, lists of messages, and "Human / Assistant" transcripts; here they become `Text`, and a `Text` becomes
tokens. A prompt and its completions are tokenized apart, each on its own, and never as one joined text: that is how a
sampler sees them, and the only way in which all branches of a tree have exactly the same prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from jinja2 import TemplateError

from accord.engine.trees import Branch
from accord.errors import InputError
from accord.records import Message, Role, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRANSCRIPT = "\n\nHuman:"
"""What a transcript in the format of Anthropic's hh-rlhf data begins with."""

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = get_args(Role)


def read_text(value: Any, column: str) -> Text:
    """The value of a row's `column`: a string as it is, a list of `{"role", "content"}` objects as a chat.

    Raises InputError for anything else, and for messages with missing keys or unknown roles.
    """
    if isinstance(value, str):
        return _encodable(value, f"'{column}'")
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise InputError(f"'{column}' must be a string or a list of messages, not {_kind(value)}")
    if not value:
        raise InputError(f"'{column}' is a chat without messages")
    return tuple(_message(item, f"{column}[{i}]") for i, item in enumerate(value))


def read_prompt(value: Any, column: str = "prompt") -> Text:
    """As `read_text`; a string that is a transcript becomes a chat (an "Assistant:" cue at its end is dropped)."""
    text = read_text(value, column)
    if not isinstance(text, str) or not text.startswith(TRANSCRIPT):
        return text
    turns = parse_transcript(text)
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def parse_transcript(text: str) -> tuple[Message, ...]:
    r"""The turns of a transcript `"\n\nHuman: ...\n\nAssistant: ..."`, each stripped of surrounding white space.

    Only "Human:" and "Assistant:" after an empty line begin a turn. Two turns of one speaker in a row are joined by an
    empty line, since chat templates ask for turns that alternate. A turn may be empty: the assistant kept silent.
    """
    parts = _SPEAKER.split(text)
    turns: list[Message] = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        said = content.strip()
        if turns and turns[-1].role == role:
            said = "\n\n".join(filter(None, (turns.pop().content, said)))
        turns.append(Message(role, said))
    return tuple(turns)


def align(prompt: Text, *completions: Text) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and its completions in one form: all plain strings, or all chats as soon as one of them is a chat.

    A plain prompt then becomes a user message (an empty one no message), a plain completion an assistant message.
    """
    if all(isinstance(text, str) for text in (prompt, *completions)):
        return prompt, completions
    if isinstance(prompt, str):
        prompt = (Message("user", prompt),) if prompt else ()
    return prompt, tuple((Message("assistant", c),) if isinstance(c, str) else c for c in completions)


def _message(item: Any, where: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise InputError(f"{where} must be an object with 'role' and 'content', not {_kind(item)}")
    for key in ("role", "content"):
        if item.get(key) is None:
            raise InputError(f"{where} lacks '{key}': a message is an object with 'role' and 'content'")
    role, content = item["role"], item["content"]
    if role not in _ROLES:
        raise InputError(f"{where} has the unknown role {role!r}: the roles are {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise InputError(f"{where} has content that is {_kind(content)}, not a string")
    if item.get("tool_calls"):
        raise InputError(f"{where} has 'tool_calls', which are not supported: write the call into 'content'")
    return Message(role, _encodable(content, where))


def _encodable(text: str, where: str) -> str:
    """The text, refused where it holds half of a surrogate pair, which no tokenizer and no UTF-8 file can take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds {text[error.start]!r}, which is not valid Unicode text") from None
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


Piece: TypeAlias = tuple[str, bool]
"""A stretch of a completion that is tokenized on its own, and whether it is trained on: an assistant's turn is."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> tuple[int, ...]:
    """The tokens of a prompt, up to where the model speaks.

    A string gets the special tokens its tokenizer puts in front, and none behind; an empty string is the
    beginning-of-text token alone, or nothing where the tokenizer has none. A chat is rendered by the tokenizer's chat
    template with the generation prompt. Raises InputError where there is no template, or the template refuses the chat.
    """
    [tokens] = tokenize(tokenizer, [prompt_text(tokenizer, prompt)])
    return opening(tokenizer, prompt) + tuple(tokens)


def encode_completion(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text) -> Branch:
    """The tokens of a completion of `prompt`, the end-of-turn token last.

    The end-of-turn token is the tokenizer's `eos_token`. In a chat of several turns the assistant's words and the
    end-of-turn tokens after them are flagged as trained; other turns and all headers are not. Raises InputError where
    the chat template does not render the prompt as the beginning of the whole chat.
    """
    prompt, (completion,) = align(prompt, completion)
    pieces = completion_pieces(tokenizer, prompt, completion, prompt_text(tokenizer, prompt))
    return join(pieces, tokenize(tokenizer, [text for text, _ in pieces]), end_of_turn(tokenizer))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without added special tokens."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def opening(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> tuple[int, ...]:
    """The special tokens before a plain prompt: those the tokenizer adds; an empty one gets its `bos_token` anyway."""
    if not isinstance(prompt, str):
        return ()
    added = list(tokenizer("")["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if added and added[-1] == eos and added != [bos]:
        added.pop()
    if not added and not prompt and bos is not None:
        added = [bos]
    return tuple(added)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a completion."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos_token, which every completion must end with: set one")
    return int(tokenizer.eos_token_id)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> str:
    """The prompt as the text that is tokenized."""
    return prompt if isinstance(prompt, str) else render(tokenizer, prompt, generation=True)


def completion_pieces(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, head: str
) -> tuple[Piece, ...]:
    """The completion as texts to tokenize, of which the first follows `head`, the prompt's text.

    The prompt and the completion are as `align` left them: both strings or both chats. In a chat, an assistant turn is
    what the template adds to the chat before it rendered with the generation prompt.
    """
    if isinstance(completion, str):
        return ((completion, True),)
    asked = () if isinstance(prompt, str) else prompt
    pieces: list[Piece] = []
    rendered = head
    for i, turn in enumerate(completion):
        if turn.role != "assistant":
            continue
        so_far = (*asked, *completion[:i])
        if i > 0:
            before = render(tokenizer, so_far, generation=True)
            pieces.append((_added(rendered, before), False))
            rendered = before
        after = render(tokenizer, (*so_far, turn), generation=False)
        pieces.append((_added(rendered, after), True))
        rendered = after
    return tuple(pieces)


def join(pieces: Iterable[Piece], tokens: Iterable[Sequence[int]], end: int) -> Branch:
    """A branch from the pieces of a completion and the tokens of each.

    What a template puts between the end-of-turn token and the next turn is not trained on; after the last end-of-turn
    token it is cut. Where the last turn has no such token, one is appended.
    """
    joined: list[int] = []
    trained: list[bool] = []
    last = 0
    for (_, is_trained), ids in zip(pieces, tokens, strict=True):
        spoken = len(ids)
        if is_trained:
            spoken = next((i for i in range(len(ids), 0, -1) if ids[i - 1] == end), len(ids))
            last = len(joined) + spoken
        joined += ids
        trained += [is_trained and i < spoken for i in range(len(ids))]
    del joined[last:], trained[last:]
    if not joined or joined[-1] != end:
        joined.append(end)
        trained.append(True)
    return Branch(tuple(joined), None if all(trained) else tuple(trained))


def render(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], *, generation: bool) -> str:
    """The chat as its tokenizer's template writes it, with the generation prompt where `generation`."""
    if tokenizer.chat_template is None:
        raise InputError("the tokenizer has no chat template: give it one, or use plain text in place of messages")
    if not chat:
        raise InputError("a chat needs a turn before the assistant's first: its prompt has no messages")
    messages = [{"role": turn.role, "content": turn.content} for turn in chat]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        raise InputError(f"the tokenizer's chat template refuses the chat ({error})") from None
    return str(text)


def _added(before: str, after: str) -> str:
    """What a template adds when a chat goes on from the text `before` to the text `after`."""
    if not after.startswith(before):
        index = shared(before, after)
        raise InputError(
            "the tokenizer's chat template is at fault: it does not render a chat's beginning as the beginning of the "
            f"whole chat (they part at character {index}, after {after[max(0, index - 20) : index]!r})"
        )
    return after[len(before) :]


def shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How many elements the two have in common before they part."""
    both = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(first), len(second)))
