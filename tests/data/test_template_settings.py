"""What chat templates are told beside what was said: settings, system words, tools, notes and calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accord.data import load_data
from accord.data.encoding import to_tree
from accord.engine.turns import with_template
from accord.errors import InputError
from tests.data.templates import QWEN, TOKENIZERS, byte_tokenizer, trained

THINKING = QWEN.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
"""As Qwen 3 has it: a prompt in which thinking is switched off has an empty thought."""

LAST = (
    "{% if messages[0].role == 'system' %}{% set words = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}<s>{% for m in rest %}{% if m.role == 'user' %}"
    "{% if loop.last and words is defined %}[INST] {{ words }}\n\n{{ m.content }}[/INST]"
    "{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)
"""As Mistral's 7B 0.3 has it: the system's words are before the last question, while it is the last message."""

PAIR = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
OFF = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("told", "of_row", "is_off"),
    [
        ({"enable_thinking": "false"}, None, True),
        ({"enable_thinking": False}, {"enable_thinking": None}, True),
        ({"enable_thinking": False}, {"enable_thinking": True}, False),
        ({}, {"enable_thinking": False}, True),
        ({}, None, False),
    ],
)
def test_thinking_is_switched_off_for_a_run_or_a_row(told: dict[str, Any], of_row: Any, is_off: bool) -> None:
    tokenizer = with_template(byte_tokenizer(THINKING), None, "refuse", told)
    (row,) = load_data([PAIR if of_row is None else {**PAIR, "chat_template_kwargs": of_row}])
    tree = to_tree(tokenizer, row)
    empty = "<think>\n\n</think>\n\n"
    assert tokenizer.decode(tree.prompt) == (OFF if is_off else OFF.removesuffix(empty))
    said = [tokenizer.decode(branch.tokens) for branch in tree.branches]
    assert said == [("" if is_off else empty) + answer + "<|im_end|>" for answer in "ab"]


def test_what_a_template_is_told_stays_in_it_as_a_default() -> None:
    kept = with_template(byte_tokenizer(THINKING), None, "refuse", {"enable_thinking": False})
    asked = [{"role": "user", "content": "q"}]
    assert kept.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == OFF
    again = kept.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert OFF.removesuffix("<think>\n\n</think>\n\n") == again


def test_what_a_template_does_not_read_is_refused() -> None:
    with pytest.raises(
        InputError, match="'enable_thinkin', which the chat template does not read; did you mean enable_th"
    ):
        with_template(byte_tokenizer(THINKING), None, "refuse", {"enable_thinkin": False})
    for bad, why in (({"chat_template": "{{ 1 }}"}, "no setting of a chat template"), ([1], "an object of names")):
        (row,) = load_data([{**PAIR, "chat_template_kwargs": bad}])
        with pytest.raises(InputError, match=why):
            to_tree(byte_tokenizer(THINKING), row)


def test_system_words_that_stand_before_the_last_question_are_folded() -> None:
    messages = [("system", "brief!"), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
    (row,) = load_data([{"messages": [{"role": role, "content": said} for role, said in messages]}])
    with pytest.raises(InputError, match="leaves out the system's words; --system fold puts them"):
        to_tree(byte_tokenizer(LAST), row)
    tree = to_tree(tokenizer := with_template(byte_tokenizer(LAST), None, "fold"), row)
    assert tokenizer.decode(tree.prompt) == "<s>[INST] brief!\n\nq[/INST]"
    assert trained(tokenizer, tree.branches[0]) == " a</s> b</s>"
    messages[0] = ("system", "")
    (row,) = load_data([{"messages": [{"role": role, "content": said} for role, said in messages]}])
    assert tokenizer.decode(to_tree(tokenizer, row).prompt) == "<s>[INST] q[/INST]"


def test_tools_that_a_template_drops_are_refused() -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    (row,) = load_data([{**PAIR, "tools": tools}])
    with pytest.raises(InputError, match="leaves out the tool 'weather': give one that reads tools"):
        to_tree(TOKENIZERS["chatml"], row)
    shown = TOKENIZERS["qwen"].decode(to_tree(TOKENIZERS["qwen"], row).prompt)
    assert "weather" in shown
    for written in (json.dumps(tools), [json.dumps(tool) for tool in tools]):
        (row,) = load_data([{**PAIR, "tools": written}])
        assert TOKENIZERS["qwen"].decode(to_tree(TOKENIZERS["qwen"], row).prompt) == shown
    told = [{"role": "system", "content": "You may call weather()."}, *PAIR["prompt"]]
    (row,) = load_data([{**PAIR, "prompt": told, "tools": tools}])  # as Hermes' data has them, in words too
    assert "weather()" in TOKENIZERS["chatml"].decode(to_tree(TOKENIZERS["chatml"], row).prompt)


def test_notes_on_a_message_are_no_words_of_it() -> None:
    notes = {
        "country": "X",
        "hashed_ip": "0",
        "toxic": False,
        "turn_identifier": 1,
        "timestamp": None,
        "header": {"a": 1},
    }
    messages = [{"role": "user", "content": "q", **notes}, {"role": "assistant", "content": "a", **notes}]
    (row,) = load_data([{"conversation": messages}])
    assert trained(TOKENIZERS["chatml"], to_tree(TOKENIZERS["chatml"], row).branches[0]) == "a<|im_end|>"
    (row,) = load_data([{"messages": [messages[0], {**messages[1], "mood": "x"}]}])
    with pytest.raises(InputError, match="a message holds 'mood', which the chat template does not read"):
        to_tree(TOKENIZERS["chatml"], row)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "function_call": {"name": "rain", "arguments": '{"city": "Bonn"}'}},
        {"role": "tool_call", "content": '{"name": "rain", "arguments": {"city": "Bonn"}}'},
        {"from": "function_call", "value": '[{"name": "rain", "arguments": {"city": "Bonn"}}]'},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "rain", "arguments": {"city": "Bonn", "day": None}}, "id": None}],
        },
    ],
)
def test_calls_in_the_ways_of_several_tools(message: dict[str, Any]) -> None:
    """OpenAI's before tools, ms-swift's, LLaMA-Factory's, and one of a table in which others have more arguments."""
    result = {"role": "function", "name": "rain", "content": "yes"}
    parts = {"role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]}
    spelled = [{"from": m["role"], "value": m["content"]} for m in (result, {**parts, "content": "It rains."})]
    rest = [{"from": "observation", "value": "yes"}, spelled[1]] if "from" in message else [result, parts]
    asked = {"from": "human", "value": "Rain?"} if "from" in message else {"role": "user", "content": "Rain?"}
    (row,) = load_data([{"messages": [asked, message, *rest]}])
    tokenizer = TOKENIZERS["llama"]
    call = '{"name": "rain", "arguments": {"city": "Bonn"}}'
    assert trained(tokenizer, to_tree(tokenizer, row).branches[0]) == f"{call}<|eot_id|>It rains.<|eot_id|>"


def test_a_call_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"messages\[1\] calls a function, and its content is no JSON object"):
        load_data([{"messages": [{"role": "user", "content": "q"}, {"role": "tool_call", "content": "rain!"}]}])


SMOLVLM = (
    "<s>{% for m in messages %}{{ m.role | capitalize }}{% if m['content'][0]['type'] == 'image' %}:{% else %}: "
    "{% endif %}{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""As SmolVLM has it."""
LLAVA = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for part in m['content'] if part.type == 'text' %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
"""As LLaVA 1.5 has it."""


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [(SMOLVLM, "<s>User: q<|end|>\nAssistant:", " {}<|end|>"), (LLAVA, "USER: q ASSISTANT: ", "{}</s>")],
)
def test_templates_that_read_parts_are_given_parts(template: str, prompt: str, answer: str) -> None:
    tokenizer = byte_tokenizer(template)
    (row,) = load_data([PAIR])
    tree = to_tree(tokenizer, row)
    assert tokenizer.decode(tree.prompt) == prompt
    assert [tokenizer.decode(branch.tokens) for branch in tree.branches] == [answer.format(said) for said in "ab"]
    system = {**PAIR, "prompt": [{"role": "system", "content": "Be kind."}, *PAIR["prompt"]]}
    (row,) = load_data([system])
    assert "Be kind." in tokenizer.decode(to_tree(tokenizer, row).prompt)
