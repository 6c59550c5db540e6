"""Dialogues in the templates of ten families: what is read and what is trained is what the template writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from accord.data import load_data
from accord.data.chat import encode_prompt
from accord.data.encoding import encode, to_tree
from accord.engine.templates import add_generation_prompt, with_template
from accord.engine.trees import Tree
from accord.engine.turns import stops_at, turn_end
from accord.errors import InputError, LeftOut
from accord.methods import SFT
from accord.records import Demonstration, Message, Preference
from tests.data.conftest import word_tokenizer
from tests.data.templates import CHATML, FAMILIES, GEMMA, MISTRAL, PHI, QWEN, R1, TOKENIZERS, byte_tokenizer, trained
from tests.methods.learners import policy_at

ASK = [{"role": "user", "content": "hi"}]
PLAIN = [name for name in FAMILIES if name not in ("qwen", "r1")]

words = st.text("abcdefgh éß\n.,", min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def dialogues(draw: st.DrawFn, name: str, turns: int) -> list[dict[str, str]]:
    system = [] if name == "gemma" or draw(st.booleans()) else [{"role": "system", "content": draw(words)}]
    said = [{"role": role, "content": draw(words)} for _ in range(turns) for role in ("user", "assistant")]
    return system + said


def rendered(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], **more: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **more)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("name", "end"), [(name, end) for name, (_, end) in FAMILIES.items()])
def test_the_end_of_a_turn_is_the_templates(name: str, end: str) -> None:
    learned = turn_end(TOKENIZERS[name])
    assert (learned.token, learned.text) == (TOKENIZERS[name].convert_tokens_to_ids(end), end)
    assert learned.rest == ("\n" if name in ("chatml", "gemma", "qwen", "phi", "zephyr") else "")


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=25)
@given(data=st.data())
def test_a_dialogue_is_read_as_the_template_writes_it(name: str, data: st.DataObject) -> None:
    tokenizer, (_, end) = TOKENIZERS[name], FAMILIES[name]
    messages = data.draw(dialogues(name, data.draw(st.integers(1, 3))))
    (row,) = load_data([{"messages": messages}])
    tree = to_tree(tokenizer, row)
    first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    assert list(tree.prompt) == rendered(tokenizer, messages[:first], add_generation_prompt=True)
    whole, rest = rendered(tokenizer, messages), rendered_rest(tokenizer)
    assert [*tree.prompt, *tree.branches[0].tokens] == whole[: len(whole) - len(rest)]
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert trained(tokenizer, tree.branches[0]) == "".join(answer + end for answer in answers)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25)
@given(data=st.data())
def test_samples_and_both_sides_of_a_pair_follow_the_prompt_of_the_template(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    empty = {"qwen": "<think>\n\n</think>\n\n", "r1": "\n</think>\n\n"}.get(name, "")  # of R1 the prompt opens it
    asked = data.draw(dialogues(name, data.draw(st.integers(1, 3))))[:-1]
    chosen, rejected = data.draw(st.lists(words, min_size=2, max_size=2, unique=True))
    (row,) = load_data([{"prompt": asked, "chosen": chosen, "rejected": rejected}])
    (tree,) = encode(tokenizer, [row], max_length=10_000, context=None).trees
    prompt = rendered(tokenizer, asked, add_generation_prompt=True)
    assert list(tree.prompt) == prompt == list(encode_prompt(tokenizer, row.prompt))
    assert [tokenizer.decode(branch.tokens) for branch in tree.branches] == [
        empty + said + FAMILIES[name][1] for said in (chosen, rejected)
    ]


@st.composite
def errands(draw: st.DrawFn, name: str) -> list[dict[str, Any]]:
    """A question, calls of a tool with their results, and an answer, each perhaps after a thought."""
    thought = st.fixed_dictionaries({}, optional={"reasoning_content": words} if name == "qwen" else {})
    said = draw(dialogues(name, 1))
    for _ in range(draw(st.integers(1, 2))):
        call = {"type": "function", "function": {"name": "rain", "arguments": {"city": draw(words)}}}
        content = {"content": draw(st.none() | words)}
        said[-1:-1] = [
            {"role": "assistant", **content, "tool_calls": [call], **draw(thought)},
            {"role": "tool", "content": draw(words), "name": "rain"},
        ]
    said[-1].update(draw(thought))
    return said


@pytest.mark.parametrize("name", ["llama", "qwen"])
@settings(max_examples=25)
@given(data=st.data())
def test_calls_of_tools_and_thoughts_are_read_as_the_template_writes_them(name: str, data: st.DataObject) -> None:
    tokenizer, tools = TOKENIZERS[name], [{"type": "function", "function": {"name": "rain"}}]
    messages = data.draw(errands(name))
    (row,) = load_data([{"messages": messages, "tools": tools}])
    tree = to_tree(tokenizer, row)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    asked = [rendered(tokenizer, messages[:i], tools=tools, add_generation_prompt=True) for i in answers]
    written = [rendered(tokenizer, messages[: i + 1], tools=tools) for i in answers]
    rest = len(rendered_rest(tokenizer))
    assert list(tree.prompt) == asked[0]
    assert [*tree.prompt, *tree.branches[0].tokens] == written[-1][: len(written[-1]) - rest]
    learned = [whole[len(before) : len(whole) - rest] for before, whole in zip(asked, written, strict=True)]
    assert trained(tokenizer, tree.branches[0]) == "".join(tokenizer.decode(tokens) for tokens in learned)


def rendered_rest(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return list(tokenizer(turn_end(tokenizer).rest, add_special_tokens=False)["input_ids"])


@settings(max_examples=25)
@given(data=st.data())
def test_thoughts_of_earlier_turns_make_every_answer_a_tree_of_its_own(data: st.DataObject) -> None:
    tokenizer = TOKENIZERS["qwen"]
    messages = data.draw(dialogues("qwen", 2))
    for message in messages:
        if message["role"] == "assistant":
            message["content"] = f"<think>\n{data.draw(words)}\n</think>\n\n{message['content']}"
    (row,) = load_data([{"messages": messages}])
    trees = encode(tokenizer, [row], max_length=10_000, context=None).trees
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    assert len(trees) == len(answers)
    for tree, i in zip(trees, answers, strict=True):
        assert list(tree.prompt) == rendered(tokenizer, messages[:i], add_generation_prompt=True)
        assert trained(tokenizer, tree.branches[0]) == messages[i]["content"] + "<|im_end|>"
        read = [*tree.prompt, *tree.branches[0].tokens, *rendered_rest(tokenizer)]
        assert read == rendered(tokenizer, messages[: i + 1])


def test_what_has_several_answers_and_two_sides_is_refused_where_the_past_is_rewritten() -> None:
    def side(first: str, last: str) -> list[dict[str, str]]:
        said = [("assistant", f"<think>\na\n</think>\n\n{first}"), ("user", "so?"), ("assistant", last)]
        return [{"role": role, "content": content} for role, content in said]

    row = {"prompt": [{"role": "user", "content": "hi"}], "chosen": side("b", "c"), "rejected": side("d", "e")}
    with pytest.raises(InputError, match=r"row 1: the chat template renders an earlier answer differently"):
        encode(TOKENIZERS["qwen"], load_data([row]), max_length=999, context=None)


def test_an_answer_follows_a_prompt_that_opens_a_thought() -> None:
    tokenizer = byte_tokenizer(R1)
    asked = (Message("user", "7 + 8?"),)
    assert tokenizer.decode(encode_prompt(tokenizer, asked)) == "<s><|User|>7 + 8?<|Assistant|><think>\n"
    for said in ("seven, eight</think>15", "<think>\nseven, eight</think>15", "<think>seven, eight</think>15"):
        tree = to_tree(tokenizer, Demonstration(asked, said))
        assert tokenizer.decode(tree.branches[0].tokens) == "seven, eight</think>15</s>"


def test_a_template_that_cuts_thoughts_out_of_answers_loses_none() -> None:
    tokenizer = byte_tokenizer(R1.replace("<|Assistant|><think>\n", "<|Assistant|>"))
    tree = to_tree(tokenizer, Demonstration((Message("user", "7 + 8?"),), "<think>eight</think>15"))
    assert tokenizer.decode(tree.branches[0].tokens) == "<think>eight</think>15</s>"


def test_a_thought_that_the_prompt_has_closed_is_not_written_after_it() -> None:
    tokenizer = byte_tokenizer(CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif"))
    asked = (Message("user", "7 + 8?"),)
    tree = to_tree(tokenizer, Demonstration(asked, "<think>\n\n</think>\n\n15"))
    assert trained(tokenizer, tree.branches[0]) == "15<|im_end|>"
    with pytest.raises(InputError, match=r"has a thought, and the chat template's generation prompt has closed it"):
        to_tree(tokenizer, Demonstration(asked, "<think>eight</think>15"))


def test_a_thought_that_is_written_until_there_is_a_later_answer_is_read_as_at_that_time() -> None:
    """LFM 2 leaves the thoughts out of all answers but the last."""
    last = "{% set ns = namespace(at=0) %}{% for m in messages %}{% if m.role == 'assistant' %}"
    last += "{% set ns.at = loop.index0 %}"
    content = "{{ m.content if loop.index0 == ns.at else m.content.split('</think>')[-1] }}"
    tokenizer = byte_tokenizer(last + "{% endif %}{% endfor %}" + CHATML.replace("{{ m.content }}", content))
    turns = [("user", "a?"), ("assistant", "<think>h</think>one"), ("user", "b?"), ("assistant", "<think>i</think>two")]
    (row,) = load_data([{"messages": [{"role": role, "content": content} for role, content in turns]}])
    (tree,) = encode(tokenizer, [row], max_length=999, context=None).trees
    assert trained(tokenizer, tree.branches[0]) == "<think>h</think>one<|im_end|><think>i</think>two<|im_end|>"


def test_what_a_message_holds_reaches_the_template_or_is_refused() -> None:
    said = {"role": "assistant", "content": "15", "reasoning_content": "eight and seven"}
    (row,) = load_data([{"messages": [{"role": "user", "content": "7 + 8?"}, said]}])
    branch = to_tree(byte_tokenizer(QWEN), row).branches[0]
    assert byte_tokenizer(QWEN).decode(branch.tokens) == "<think>\neight and seven\n</think>\n\n15<|im_end|>"
    with pytest.raises(
        InputError, match=r"row 1: a message holds 'reasoning_content', which the chat template does not"
    ):
        to_tree(byte_tokenizer(CHATML), row, 0)


TOOLS = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_tools_and_calls_are_rendered_and_calls_are_learned() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Bonn"}'}}
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "a", "name": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    tools = [{"type": "function", "function": {"name": "rain"}}]
    (row,) = load_data([{"messages": messages, "tools": tools}])
    tokenizer = byte_tokenizer(TOOLS)
    tree = to_tree(tokenizer, row)
    assert '"name": "rain"' in tokenizer.decode(tree.prompt)
    assert trained(tokenizer, tree.branches[0]) == (
        '{"name": "rain", "arguments": {"city": "Bonn"}}<|end|>It rains.<|end|>'
    )


def calling(template: str, *names: str, content: str = "", stops: tuple[int, ...] = ()) -> str:
    """What is learned of a turn that calls these tools, in a chat template."""
    calls = [{"type": "function", "function": {"name": name, "arguments": '{"x":1}'}} for name in names]
    messages = [*ASK, {"role": "assistant", "content": content, "tool_calls": calls}]
    tokenizer = byte_tokenizer(template)
    stops_at(tokenizer, stops)
    return trained(tokenizer, to_tree(tokenizer, load_data([{"messages": messages}])[0]).branches[0])


THINKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|><think></think>\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}</s>"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""In Nemotron 3's manner: the generation prompt opens a thought, and an answer without one has an empty one."""


def test_calls_follow_a_prompt_that_opens_a_thought() -> None:
    call = '{"name": "rain", "arguments": {"x": 1}}'
    assert calling(THINKS, "rain") == f"\n</think>\n\n{call}</s>"
    assert calling(THINKS, "rain", content="I look.") == f"\n</think>\n\nI look.{call}</s>"
    with pytest.raises(InputError, match="leaves out the answer's thought"):
        calling(THINKS.replace("m.content }}", "m.content.split('</think>')[-1] }}"), "rain", content="so</think>b")


def test_a_call_ends_with_the_token_at_which_the_model_stops() -> None:
    calls = TOOLS.replace("| tojson }}{% endfor %}<|end|>", "| tojson }}<|eot_id|>{% else %}<|end|>{% endfor %}")
    assert calling(calls, "rain") == '{"name": "rain", "arguments": {"x": 1}}<|eot_id|></s>'
    stops = (TOKENIZERS["phi"].convert_tokens_to_ids("<|eot_id|>"),)
    assert calling(calls, "rain", stops=stops) == '{"name": "rain", "arguments": {"x": 1}}<|eot_id|>'


def test_arguments_are_text_where_the_template_joins_them() -> None:
    joins = TOOLS.replace("call.function | tojson", "call.function.name + call.function.arguments")
    assert calling(joins, "rain", "wind") == 'rain{"x":1}wind{"x":1}<|end|>'


def test_a_call_that_the_template_leaves_out_is_refused() -> None:
    first = TOOLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")  # as gpt-oss's
    assert calling(first, "rain") == '{"name": "rain", "arguments": {"x": 1}}<|end|>'
    with pytest.raises(InputError, match=r"leaves out a tool call of turn 2 \(assistant\)"):
        calling(first, "rain", "rain")


@pytest.mark.parametrize("mask", [{"weight": 0}, {"train": False}])
def test_a_turn_without_weight_is_read_and_not_learned(mask: dict[str, Any]) -> None:
    messages = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "five", **mask},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "four"},
    ]
    tokenizer = byte_tokenizer(CHATML)
    (row,) = load_data([{"messages": messages}])
    branch = to_tree(tokenizer, row).branches[0]
    assert trained(tokenizer, branch) == "four<|im_end|>" and "five" in tokenizer.decode(branch.tokens)
    alone = load_data([{"messages": messages[:2]}])
    with pytest.raises(InputError, match="no assistant turn is trained"):
        to_tree(tokenizer, alone[0])


def test_system_messages_are_folded_or_refused() -> None:
    asked = (Message("system", "Be kind."), Message("user", "hi"))
    with pytest.raises(InputError, match=r"\(System role not supported\); --system fold puts the system's words into"):
        encode_prompt(byte_tokenizer(GEMMA), asked)
    folded = with_template(byte_tokenizer(GEMMA), None, "fold")
    text = folded.decode(encode_prompt(folded, asked))
    assert text == "<s><start_of_turn>user\nBe kind.\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    deaf = byte_tokenizer("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}")
    with pytest.raises(
        InputError, match="leaves out the system's words; --system fold puts them into the first question"
    ):
        encode_prompt(deaf, asked)
    untouched = byte_tokenizer(PHI)
    assert with_template(untouched, None, "fold").chat_template == PHI


def test_a_model_without_a_template_is_given_one(tmp_path: Any) -> None:
    bare = byte_tokenizer(None)
    with pytest.raises(InputError, match="has no chat template: give it one by --chat-template"):
        encode_prompt(bare, (Message("user", "hi"),))
    named = with_template(bare, "chatml", "refuse")
    assert named.decode(encode_prompt(named, (Message("user", "hi"),))) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    file = tmp_path / "phi.jinja"
    file.write_text(PHI)
    assert with_template(bare, str(file), "refuse").chat_template == PHI and bare.chat_template is None
    file.write_text(f"\ufeff{PHI}", encoding="utf-8")
    assert with_template(bare, str(file), "refuse").chat_template == PHI
    held = tmp_path / "tokenizer_config.json"
    held.write_text(json.dumps({"chat_template": PHI}))
    assert with_template(bare, str(held), "refuse").chat_template == PHI
    held.write_text("{}")
    with pytest.raises(InputError, match=r"cannot be read \(no JSON object with a chat_template\); give a file, or"):
        with_template(bare, str(held), "refuse")
    with pytest.raises(InputError, match=r"the chat template .*none\.jinja cannot be read"):
        with_template(bare, str(tmp_path / "none.jinja"), "refuse")


def test_a_whole_completion_goes_on_to_the_end_of_what_the_template_writes() -> None:
    tokenizer = byte_tokenizer(CHATML)
    row = Demonstration((Message("user", "hi"),), "yes")
    (tree,) = encode(tokenizer, [row], max_length=999, context=None, whole=True).trees
    assert isinstance(tree, Tree) and tokenizer.decode(tree.branches[0].tokens) == "yes<|im_end|>\n"
    assert trained(tokenizer, tree.branches[0]) == "yes<|im_end|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_that_the_prompt_has_begun_goes_on(name: str) -> None:
    tokenizer, end = TOKENIZERS[name], FAMILIES[name][1]
    begun = (Message("user", "hi"), Message("assistant", "one"))
    tree = to_tree(tokenizer, Preference(begun, " two", " three"))
    head, whole = (tokenizer.decode(encode_prompt(tokenizer, chat)) for chat in (begun[:1], begun))
    assert tokenizer.decode(tree.prompt) == whole and whole.startswith(head) and whole.endswith("one")
    assert [trained(tokenizer, branch) for branch in tree.branches] == [f" two{end}", f" three{end}"]


@pytest.mark.parametrize(
    ("template", "begun"),
    [
        (CHATML.partition("{% if add")[0], "<|im_start|>assistant\n"),
        ("{% for m in messages %}{{ m.role | upper }}: {{ m.content }}</s>{% endfor %}\n", "ASSISTANT:"),
        (CHATML, ""),
        (MISTRAL, ""),  # nothing between a question and its answer
    ],
)
def test_a_template_without_a_generation_prompt_gets_one(template: str, begun: str) -> None:
    tokenizer = byte_tokenizer(template)
    before = tokenizer.apply_chat_template(ASK, tokenize=False)
    assert add_generation_prompt(tokenizer) == begun
    assert tokenizer.apply_chat_template(ASK, tokenize=False) == before
    assert add_generation_prompt(tokenizer) == ""
    if begun:
        (row,) = load_data([{"prompt": ASK, "completion": "a"}])
        tree = to_tree(tokenizer, row)
        assert tokenizer.decode(tree.prompt) == before + begun
        assert trained(tokenizer, tree.branches[0]) == "a<|im_end|>" or begun == "ASSISTANT:"


def test_a_chosen_answer_that_is_only_a_tool_call_is_imitated() -> None:
    policy, left_out = policy_at(), LeftOut()
    policy.tokenizer = word_tokenizer(template="{% for m in messages %}{{ m.tool_calls or m.content }}</s>{% endfor %}")
    calls = (Message("assistant", "", {"tool_calls": [{"function": {"name": "good"}}]}),)
    silent, asked = (Message("assistant", ""),), (Message("user", "hi"),)
    SFT().encode(policy, [Preference(asked, calls, silent), Preference(asked, silent, calls)], left_out)
    assert left_out.lines() == ["1 row left out, as the chosen completion is empty (row 2)"]
