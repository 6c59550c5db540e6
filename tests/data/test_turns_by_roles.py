"""Templates that mark where turns begin and not where they end: the next turn's token is the end of the one before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from accord.data import load_data
from accord.data.chat import closing, encode_completion, encode_prompt, encode_reply
from accord.data.encoding import encode, to_tree
from accord.engine.load import load_model, load_reward_model
from accord.engine.templates import with_template
from accord.engine.turns import stops_at, turn_end
from accord.feedback.learned import LearnedReward
from accord.records import Message
from tests.commands.small import QUICK, accord, write_jsonl
from tests.data.templates import byte_tokenizer, trained

GLM = (
    "[gMASK]<sop>{% if tools %}<|system|>\n{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|assistant|>{% for call in m.tool_calls or [] %}{{ call.function.name }}\n"
    "{{ call.function.arguments | tojson }}{% endfor %}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    "{% elif m.role == 'tool' %}<|observation|>\n{{ m.content }}{% else %}<|{{ m.role }}|>\n{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""In the manner of GLM-4's of 2025: nothing ends a turn, and the model stops at `<|user|>` and `<|observation|>`."""

THINKING = GLM.replace(
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}",
    "{{ '\n' }}{% if loop.last or '</think>' not in m.content %}{{ m.content }}"
    "{% else %}<think></think>{{ m.content.split('</think>')[-1] }}{% endif %}",
)
"""In the manner of GLM-4.5's, which leaves the thoughts of earlier turns out."""

SAID = [("user", "1 + 1?"), ("assistant", "2"), ("user", "+ 1?"), ("assistant", "3"), ("user", "+ 1?")]
CHAT = [{"role": role, "content": content} for role, content in [*SAID, ("assistant", "4")]]
CALL = {"type": "function", "function": {"name": "rain", "arguments": {"city": "Bonn"}}}
TOOLS = [{"type": "function", "function": {"name": "rain"}}]


def tokenizer_of(template: str, *stops: str) -> Any:
    tokenizer = byte_tokenizer(template, "<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>", "<|observation|>"]})
    stops_at(tokenizer, [tokenizer.convert_tokens_to_ids(stop) for stop in ("<|endoftext|>", *stops)])
    return tokenizer


def glm(template: str = GLM) -> Any:
    return tokenizer_of(template, "<|user|>", "<|observation|>")


def test_the_end_is_the_next_turns_token_where_the_model_stops_at_it() -> None:
    tokenizer = glm()
    end = turn_end(tokenizer)
    assert (end.token, end.text, end.rest, end.call) == (
        tokenizer.convert_tokens_to_ids("<|user|>"), "<|user|>", "", "<|observation|>",
    )  # fmt: skip
    assert turn_end(with_template(tokenizer, None, "refuse", {"tools": "x"})).text == "<|user|>"  # copies know it too
    alone = turn_end(tokenizer_of(GLM, "<|user|>"))
    assert (alone.text, alone.call) == ("<|user|>", "<|user|>")
    for deaf in (tokenizer_of(GLM), tokenizer_of(GLM, "<|assistant|>"), byte_tokenizer(GLM)):
        assert turn_end(deaf).token == deaf.eos_token_id and not turn_end(deaf).is_next


@pytest.mark.parametrize("template", [GLM, THINKING])
def test_every_turn_of_a_dialogue_learns_to_end(template: str) -> None:
    tokenizer = glm(template)
    (row,) = load_data([{"messages": CHAT}])
    tree = to_tree(tokenizer, row)
    assert trained(tokenizer, tree.branches[0]) == "\n2<|user|>\n3<|user|>\n4<|user|>"
    whole = tokenizer.decode([*tree.prompt, *tree.branches[0].tokens])
    assert whole == str(tokenizer.apply_chat_template(CHAT, tokenize=False)) + "<|user|>"


def test_a_call_ends_where_its_result_begins() -> None:
    tokenizer = glm()
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "yes", "name": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    (row,) = load_data([{"messages": messages, "tools": TOOLS}])
    called = 'rain\n{"city": "Bonn"}<|observation|>'
    assert trained(tokenizer, to_tree(tokenizer, row).branches[0]) == f"{called}\nIt rains.<|user|>"
    (row,) = load_data([{"messages": messages[:2], "tools": TOOLS}])
    assert trained(tokenizer, to_tree(tokenizer, row).branches[0]) == called


def test_a_turn_that_is_not_learned_does_not_learn_its_end() -> None:
    tokenizer = glm()
    (row,) = load_data([{"messages": [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]}])
    assert trained(tokenizer, to_tree(tokenizer, row).branches[0]) == "\n3<|user|>\n4<|user|>"


def test_answers_whose_past_is_rewritten_end_each_on_its_own() -> None:
    tokenizer = glm(THINKING)
    said = [{**m, "content": f"<think>so</think>{m['content']}"} if m["role"] == "assistant" else m for m in CHAT]
    trees = encode(tokenizer, load_data([{"messages": said}]), max_length=999, context=None).trees
    assert [trained(tokenizer, tree.branches[0]) for tree in trees] == [
        f"\n<think>so</think>{n}<|user|>" for n in (2, 3, 4)
    ]


ALPACA = (
    "{% for m in messages %}### {{ 'Response' if m.role == 'assistant' else 'Instruction' }}:\n{{ m.content + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)


@pytest.mark.parametrize(("template", "message"), [(ALPACA, ""), (GLM, "\n")])
def test_where_nothing_marks_an_end_every_answer_is_one_of_its_own_and_ends(template: str, message: str) -> None:
    """ALPACA has no token at all, and GLM's template is with a tokenizer whose model is not known to stop at a role."""
    tokenizer = byte_tokenizer(template)
    trees = encode(tokenizer, load_data([{"messages": CHAT}]), max_length=999, context=None).trees
    assert [trained(tokenizer, tree.branches[0]) for tree in trees] == [f"{message}{n}</s>" for n in (2, 3, 4)]
    prompts = [tokenizer.apply_chat_template(CHAT[:i], tokenize=False, add_generation_prompt=True) for i in (1, 3, 5)]
    assert [tokenizer.decode(tree.prompt) for tree in trees] == prompts


def test_pairs_and_replies_end_so_too() -> None:
    tokenizer = glm()
    (row,) = load_data([{"prompt": CHAT[:3], "chosen": "3", "rejected": "4"}])
    tree = to_tree(tokenizer, row)
    assert [tokenizer.decode(branch.tokens) for branch in tree.branches] == ["\n3<|user|>", "\n4<|user|>"]
    chat = tuple(Message(m["role"], m["content"]) for m in CHAT[:2])  # type: ignore[arg-type]
    assert tokenizer.decode(encode_reply(tokenizer, chat, "+ 1?")) == "\n+ 1?<|assistant|>"
    assert tokenizer.decode(encode_reply(tokenizer, chat, "+ 1?", ended=False)) == "<|user|>\n+ 1?<|assistant|>"


def test_a_chat_that_is_read_whole_has_no_further_turn() -> None:
    tokenizer = glm()
    chat = tuple(Message(m["role"], m["content"]) for m in CHAT)  # type: ignore[arg-type]
    branch = encode_completion(tokenizer, chat[:1], chat[1:], whole=True)
    whole = tokenizer.decode([*encode_prompt(tokenizer, chat[:1]), *branch.tokens])
    assert whole == tokenizer.apply_chat_template(CHAT, tokenize=False) and closing(tokenizer) == ()
    assert closing(byte_tokenizer(GLM)) == (byte_tokenizer(GLM).eos_token_id,)


def save(folder: Path, *, scorer: bool = False) -> str:
    tokenizer = glm()
    torch.manual_seed(1)
    config: Any = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, num_labels=1, pad_token_id=None,
        eos_token_id=[tokenizer.convert_tokens_to_ids(s) for s in ("<|endoftext|>", "<|user|>", "<|observation|>")],
    )  # fmt: skip
    kind: Any = transformers.AutoModelForSequenceClassification if scorer else transformers.AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_model_in_a_folder_learns_its_middle_ends_and_keeps_where_it_stops(tmp_path: Path) -> None:
    name = save(tmp_path / "m")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": CHAT}] * 4)
    assert accord("sft", "--model", name, "--data", rows, "--out", tmp_path / "run", *QUICK) == 0
    model, made = load_model(name), load_model(str(tmp_path / "run/model"))
    ends = [model.tokenizer.convert_tokens_to_ids(s) for s in ("<|user|>", "<|endoftext|>", "<|observation|>")]
    saved = json.loads((tmp_path / "run/model/generation_config.json").read_text())
    assert saved["eos_token_id"] == ends == list(made.ends) == list(model.ends)
    tree = to_tree(made.tokenizer, load_data([{"messages": CHAT}])[0])
    assert trained(made.tokenizer, tree.branches[0]) == "\n2<|user|>\n3<|user|>\n4<|user|>"


def test_a_reward_model_gives_what_plain_transformers_gives_of_the_whole_chat(tmp_path: Path) -> None:
    reward = LearnedReward(load_reward_model(save(tmp_path / "rm", scorer=True)))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = reward.model.tokenizer
    for answer in ("2.", "I do not know."):
        chat = [CHAT[0], {"role": "assistant", "content": answer}]
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
        with torch.no_grad():
            want = network(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item()
        got = reward.texts([((Message("user", "1 + 1?"),), answer)]).item()
        assert got == pytest.approx(want, abs=1e-5)
