"""Tokenizers that put a space before a text: answers have the tokens that they have in the whole dialogue."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from accord.data import load_data
from accord.data.chat import encode_completion, encode_prompt, turn_rest
from accord.data.encoding import encode, to_tree
from accord.engine.spaces import adds_space, decoded
from accord.records import Demonstration, Message, Preference
from tests.data.templates import byte_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>", "[INST]", "[/INST]"]
LINES = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PLAIN_HEADS = LINES.replace("<|{{ m.role }}|>", "[{{ m.role }}]").replace("<|assistant|>", "[assistant]")
"""As Zephyr has them, whose headers are no tokens of their own."""
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)


def spaced(kind: str, template: str, end: str = "<|end|>") -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2's was converted (`prepend`), or by Metaspace with a space before a text, or never one."""
    merges = [("o", "n"), ("on", "e"), ("▁", "one"), ("t", "w"), ("tw", "o"), ("▁", "two")]
    letters = sorted({*"▁\n?[]<|>", *"onetwaskuri"})
    words = [*SPECIAL, *letters, *("".join(pair) for pair in merges)]
    model = models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=kind)
    tokenizer.add_special_tokens(SPECIAL)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=end, unk_token="<unk>")
    made.chat_template = template
    return made


ASKED = [{"role": "user", "content": "two?"}, {"role": "assistant", "content": "one"}] * 2


@pytest.mark.parametrize("kind", ["prepend", "first", "always", "never"])
@pytest.mark.parametrize(("template", "end"), [(LINES, "<|end|>"), (PLAIN_HEADS, "<|end|>"), (MISTRAL, "</s>")])
def test_a_dialogue_has_the_tokens_of_its_whole_text(kind: str, template: str, end: str) -> None:
    tokenizer = spaced(kind, template, end)
    assert adds_space(tokenizer) == (kind != "never")
    (row,) = load_data([{"messages": ASKED}])
    tree = to_tree(tokenizer, row)
    text = tokenizer.apply_chat_template(ASKED, tokenize=False)
    whole = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    mine = [*tree.prompt, *tree.branches[0].tokens]
    assert whole[: len(mine)] == mine and len(whole) - len(mine) == len(turn_rest(tokenizer))
    prompt = (Message("user", "two?"),)
    scored = encode_completion(tokenizer, prompt, "one", whole=True)  # as a reward model reads it
    text = tokenizer.apply_chat_template(ASKED[:2], tokenize=False)
    expected = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert [*encode_prompt(tokenizer, prompt), *scored.tokens] == expected


@pytest.mark.parametrize("kind", ["prepend", "first", "always"])
def test_plain_texts_go_on_with_one_space_and_keep_it(kind: str) -> None:
    tokenizer = spaced(kind, LINES)
    (tree,) = encode(tokenizer, [Preference("one two", " one", " two")], max_length=99, context=None).trees
    chosen, rejected = (tokenizer.convert_ids_to_tokens(list(branch.tokens)) for branch in tree.branches)
    assert (chosen, rejected) == (["▁one", "<|end|>"], ["▁two", "<|end|>"])
    said = tree.branches[0].tokens
    assert decoded(tokenizer, said) == "one" and decoded(tokenizer, said, tree.prompt) == " one"
    (tree,) = encode(tokenizer, [Demonstration("one two", " one", said)], max_length=99, context=None).trees
    assert tree.branches[0].tokens == said
    (tree,) = encode(tokenizer, [Demonstration("", "one")], max_length=99, context=None).trees  # a text of its own
    assert tokenizer.convert_ids_to_tokens(list(tree.branches[0].tokens))[0] == "▁one"


def test_a_tokenizer_that_knows_no_letter_adds_no_space() -> None:
    few = Tokenizer(models.WordLevel({"hi": 0}, unk_token="<unk>"))
    assert not adds_space(PreTrainedTokenizerFast(tokenizer_object=few))


def test_what_would_be_one_token_with_the_prompt_stays_on_its_own() -> None:
    tokenizer = spaced("never", LINES)
    assert not adds_space(byte_tokenizer(None))
    (tree,) = encode(tokenizer, [Preference("tw", "o", "one")], max_length=99, context=None).trees
    assert tokenizer.convert_ids_to_tokens(list(tree.branches[0].tokens)) == ["o", "<|end|>"]
    tokenizer = spaced("always", LINES)
    (tree,) = encode(tokenizer, [Preference("tw", "o", "one")], max_length=99, context=None).trees
    assert tokenizer.convert_ids_to_tokens(list(tree.branches[0].tokens)) == ["▁", "o", "<|end|>"]
