"""What chat templates are told beside what was said: settings, system words, tools, notes and calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accord.data import load_data
from accord.data.encoding import encode, encode_prompts, to_tree
from accord.engine.templates import with_template
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Message, Prompt
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


@pytest.mark.parametrize(
    "tools", ['[{"name": "weather"', {"name": "weather"}, [{"name": "weather"}, "forecast"], [None]]
)
def test_tools_that_are_no_list_of_objects_are_refused(tools: Any) -> None:
    with pytest.raises(InputError, match=r"^row 1: 'tools' must be a list of objects that describe tools, and .* none"):
        load_data([{**PAIR, "tools": tools}])


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


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Llama 3.1 has it: no words beside a call, and a tool's result as JSON."""
SPEAKERS = QWEN.replace("{% else %}<|im_start|>", "{% elif m.role == 'user' %}<|im_start|>")
"""A template of two speakers, which has no place for others."""


def test_turns_that_a_template_drops_are_refused() -> None:
    asked, told = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    call: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    result = {"role": "tool", "content": 'one "two"\n'}
    (row,) = load_data([{"messages": [asked, call, result, told]}])
    tree = to_tree(byte_tokenizer(CALLS), row)
    assert r'"one \"two\"\n"' in byte_tokenizer(CALLS).decode(tree.branches[0].tokens)
    (row,) = load_data([{"messages": [asked, {**call, "content": "Let me look."}, result, told]}])
    with pytest.raises(InputError, match=r"leaves out the words of turn 2 \(assistant\) beside its tool calls: give"):
        to_tree(byte_tokenizer(CALLS), row)
    (row,) = load_data([{"messages": [asked, told, {"role": "system", "content": "Be rude."}, asked, told]}])
    with pytest.raises(InputError, match=r"leaves out the words of turn 3 \(system\): give one that writes them"):
        to_tree(byte_tokenizer(SPEAKERS), row)


def test_turns_in_a_row_by_one_speaker_are_to_be_joined_where_a_template_wants_turns_to_alternate() -> None:
    strict = (
        "{% if messages[0].role == messages[1].role %}{{ raise_exception('Roles must alternate') }}{% endif %}" + QWEN
    )
    asked = {"role": "user", "content": "q"}
    (row,) = load_data([{"messages": [asked, asked, {"role": "assistant", "content": "a"}]}])
    with pytest.raises(
        InputError, match=r"refuses the chat \(Roles must alternate\); join the turns in a row by one spea"
    ):
        to_tree(byte_tokenizer(strict), row)


def test_words_that_a_template_changes_are_not_dropped() -> None:
    switched = CALLS.replace("{{ m.content }}", "{{ m.content | replace('/no_think', '') | upper }}")
    (row,) = load_data([{**PAIR, "prompt": [{"role": "system", "content": "kind /no_think"}, *PAIR["prompt"]]}])
    assert "KIND " in byte_tokenizer(switched).decode(to_tree(byte_tokenizer(switched), row).prompt)


def test_a_developer_s_words_are_the_system_s_where_a_template_has_no_developer() -> None:
    (row,) = load_data([{**PAIR, "prompt": [{"role": "developer", "content": "kind"}, *PAIR["prompt"]]}])
    assert "<|im_start|>system\nkind<|im_end|>" in TOKENIZERS["chatml"].decode(
        to_tree(TOKENIZERS["chatml"], row).prompt
    )


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_by_any_of_its_names(key: str) -> None:
    """A message's key or a row's column; gpt-oss's template reads `thinking`, DeepSeek's has a variable so called."""
    rows = load_data(
        [
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: "hm"}]},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: "hm"}]},
        ]
    )
    rows += load_data([{"question": "q", key: "hm", "answer": "a"}])
    rows += load_data([{"prompt": PAIR["prompt"], "completion": [{"role": "assistant", "content": "a"}], key: "hm"}])
    for row in rows:
        assert trained(TOKENIZERS["qwen"], to_tree(TOKENIZERS["qwen"], row).branches[0]) == (
            "<think>\nhm\n</think>\n\na<|im_end|>"
        )
    own = byte_tokenizer(QWEN.replace("reasoning_content", "thinking"))
    assert trained(own, to_tree(own, rows[0]).branches[0]) == "<think>\nhm\n</think>\n\na<|im_end|>"
    switch = TOKENIZERS["chatml"].chat_template + "{% if thinking is defined %}{% endif %}"
    with pytest.raises(InputError, match=f"a message holds '{key}', which the chat template does not read"):
        to_tree(byte_tokenizer(switch), rows[0])


def test_a_thought_where_thinking_is_switched_off_is_refused() -> None:
    tokenizer = with_template(byte_tokenizer(THINKING), None, "refuse", {"enable_thinking": False})
    told = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    (row,) = load_data([{"messages": [*PAIR["prompt"], told]}])
    with pytest.raises(InputError, match="the chat template leaves out the answer's thought: let the model think by"):
        to_tree(tokenizer, row)


def test_documents_go_to_a_template_that_reads_them() -> None:
    told = "{% for d in documents %}{{ d.text }}\n{% endfor %}" + TOKENIZERS["chatml"].chat_template
    document = {"title": "t", "text": "Bonn is a city."}
    (row,) = load_data([{**PAIR, "documents": [document]}])
    tree = to_tree(byte_tokenizer(told), row)
    assert byte_tokenizer(told).decode(tree.prompt).startswith("Bonn is a city.\n<|im_start|>user")
    assert [trained(byte_tokenizer(told), branch) for branch in tree.branches] == ["a<|im_end|>", "b<|im_end|>"]
    with pytest.raises(InputError, match="the row has 'documents', which the chat template does not read"):
        to_tree(TOKENIZERS["chatml"], row)
    (row,) = load_data([{**PAIR, "documents": ["Bonn is a city."]}])
    assert to_tree(byte_tokenizer(told), row).prompt == tree.prompt
    asked = [{"role": "user", "content": "Bonn is a city. Is it?"}]
    (row,) = load_data([{**PAIR, "prompt": asked, "documents": [document]}])
    assert "city" in TOKENIZERS["chatml"].decode(to_tree(TOKENIZERS["chatml"], row).prompt)


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
        {"role": "assistant", "content": "", "tool_calls": [{"name": "rain", "arguments": '{"city": "Bonn"}'}]},
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


def test_thoughts_calls_and_results_among_the_parts_of_a_message() -> None:
    """Anthropic's way; Mistral's thoughts have parts too."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "look"}]}
    call = {"type": "tool_use", "id": "t", "name": "rain", "input": {"city": "Bonn"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "yes"}]}
    last = [{"type": "thinking", "thinking": "so", "signature": "s"}, {"type": "text", "text": "It rains."}]
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "One moment."}, call]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": last},
    ]
    (row,) = load_data([{"messages": messages}])
    tokenizer = TOKENIZERS["qwen"]
    assert tokenizer.decode(to_tree(tokenizer, row).branches[0].tokens) == (
        "<think>\nlook\n</think>\n\nOne moment."
        '<tool_call>{"name": "rain", "arguments": {"city": "Bonn"}}</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>yes</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\nso\n</think>\n\nIt rains.<|im_end|>"
    )


SO, HM = {"type": "reasoning.text", "text": "so", "signature": "s"}, {"type": "reasoning.summary", "summary": "hm"}
SEALED = {"type": "reasoning.encrypted", "data": "x"}


@pytest.mark.parametrize(
    ("said", "thought"),
    [
        ({"reasoning": [SO, HM, SEALED]}, "so\n\nhm"),
        ({"reasoning": {"summary": [{"type": "summary_text", "text": "so"}], "encrypted_content": "x"}}, "so"),
        ({"reasoning_content": [{"type": "thinking", "thinking": "so"}, {"type": "redacted_thinking"}]}, "so"),
        ({"reasoning": "so\nhm", "reasoning_details": [SO, HM]}, "so\nhm"),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "so"}]}, "so"),
        ({"content": [{"type": "reasoning", "summary": [SO]}, {"type": "text", "text": "a"}]}, "so"),
    ],
)
def test_a_thought_in_a_list_or_an_object(said: dict[str, Any], thought: str) -> None:
    """OpenRouter's, OpenAI's, Anthropic's and LiteLLM's; what only the API can read is left to it."""
    (row,) = load_data(
        [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **said}]}]
    )
    branch = to_tree(TOKENIZERS["qwen"], row).branches[0]
    assert trained(TOKENIZERS["qwen"], branch) == f"<think>\n{thought}\n</think>\n\na<|im_end|>"


@pytest.mark.parametrize("held", [["so"], {"effort": "high"}, [SEALED], 3, {"text": [SO, "hm"]}])
def test_a_thought_in_no_known_form_is_refused(held: Any) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": held}]
    kind = type(held).__name__
    with pytest.raises(
        InputError, match=rf"^row 1: messages\[1\] has 'reasoning' of type {kind}, in which there is no"
    ):
        load_data([{"messages": messages}])
    given = Demonstration((Message("user", "q"),), (Message("assistant", "a", {"reasoning": held}),))
    with pytest.raises(InputError, match=f"a message holds 'reasoning' of type {kind}: write the thought as text"):
        to_tree(TOKENIZERS["qwen"], given)


def test_a_call_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"messages\[1\] calls a function, and its content is no JSON object"):
        load_data([{"messages": [{"role": "user", "content": "q"}, {"role": "tool_call", "content": "rain!"}]}])
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "rain", "arguments": "{city: Bonn"}]}
    (row,) = load_data([{"messages": [{"role": "user", "content": "q"}, call]}])
    with pytest.raises(InputError, match="a call of 'rain' has arguments that are not JSON, '{city: Bonn': mend"):
        to_tree(TOKENIZERS["llama"], row)


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


def test_settings_that_the_template_does_not_read_are_told_once() -> None:
    settings = {"enable_thinking": False, "strftime_now": "2026-11-30", "effort": "low", "other": None}
    rows = load_data([{**PAIR, "chat_template_kwargs": settings}, PAIR, {**PAIR, "chat_template_kwargs": settings}])
    left_out = LeftOut()
    said = ["the chat template does not read 'effort', which rows have in 'chat_template_kwargs'"]
    encode(byte_tokenizer(THINKING), rows, max_length=99, context=None, left_out=left_out)
    assert left_out.taken == said
    asked = [Prompt(row.prompt) for row in rows]
    assert encode_prompts(byte_tokenizer(THINKING), asked, room=1, context=None)[1] == said


def test_settings_in_a_cell_of_text_are_settings_and_beside_a_plain_text_are_told() -> None:
    (row,) = load_data([{**PAIR, "chat_template_kwargs": '{"enable_thinking": false}'}])
    assert byte_tokenizer(THINKING).decode(to_tree(byte_tokenizer(THINKING), row).prompt) == OFF
    left_out = LeftOut()
    plain = {**PAIR, "prompt": "say d"}
    more = [{"chat_template_kwargs": {"x": 1}}, {"documents": ["d"]}, {"documents": ["e"]}]
    load_data([{**plain, **one} for one in more], left_out=left_out)
    assert left_out.taken == [
        "1 of 3 rows have 'chat_template_kwargs' beside a plain text, where no chat template reads it",
        "1 of 3 rows have 'documents' beside a plain text, where no chat template reads it",
    ]
