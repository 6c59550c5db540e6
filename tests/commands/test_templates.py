"""By which template chats are read: chosen on the command line, and through which texts in columns are judged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from accord.engine.load import load_model, load_reward_model
from accord.errors import InputError
from accord.feedback.learned import LearnedReward
from accord.feedback.named import as_reward
from accord.records import Completion, Message, Prompt, Sample
from tests.commands.small import QUICK, accord, read_jsonl, write_jsonl
from tests.commands.test_models_of_others import save
from tests.data.templates import FAMILIES, GEMMA, PHI, byte_tokenizer

ASK = [{"role": "user", "content": "hi"}]
SYSTEM = [{"role": "system", "content": "Be kind."}, *ASK]


def logp(folder: str, template: str, question: str, answer: str) -> float:
    """log p of an answer and its end by plain transformers, after a question in a template."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = byte_tokenizer(template)
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    end = next(end for text, end in FAMILIES.values() if text == template)
    head, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer + end))
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([head + said])).logits[0].log_softmax(-1)
    return sum(float(logits[len(head) - 1 + i, token]) for i, token in enumerate(said))


def score(folder: str, text: str, tokenizer: Any) -> float:
    """What plain transformers makes of a text by a reward model."""
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return float(network(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0])


def chat(tokenizer: Any, question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


@pytest.fixture
def phi(tmp_path: Path) -> str:
    (tmp_path / "phi.jinja").write_text(PHI)
    return str(tmp_path / "phi.jinja")


def test_a_template_is_given_wherever_a_chat_is_rendered(tmp_path: Path, phi: str) -> None:
    base = save(tmp_path / "m", None)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": ASK, "chosen": "yes", "rejected": "no"}])
    common = ("--model", base, "--data", rows, "--chat-template", phi)
    assert accord("score", *common, "--out", tmp_path / "score.jsonl") == 0
    (found,) = read_jsonl(tmp_path / "score.jsonl")
    assert found["chosen_logp"] == pytest.approx(logp(base, PHI, "hi", "yes"), abs=1e-3)
    sampling = ("--max-new-tokens", "3", "--temperature", "0", "--dtype", "float32")
    assert accord("sample", *common, *sampling, "--out", tmp_path / "sample.jsonl") == 0
    own = save(tmp_path / "own", "phi")
    assert accord("sample", "--model", own, "--data", rows, *sampling, "--out", tmp_path / "same.jsonl") == 0
    assert read_jsonl(tmp_path / "sample.jsonl") == read_jsonl(tmp_path / "same.jsonl")
    assert accord("score", "--model", base, "--data", rows, "--out", tmp_path / "none.jsonl") == 2
    verified = write_jsonl(tmp_path / "verified.jsonl", [{"prompt": ASK, "answer": "4"}])
    asked = (
        "--data",
        verified,
        "--verifier",
        "number",
        "--n",
        "1",
        "--max-new-tokens",
        "4",
        "--out",
        tmp_path / "passes",
    )
    assert accord("evaluate", "passes", "--model", base, *asked) == 2
    assert accord("evaluate", "passes", "--model", base, *asked, "--chat-template", "chatml") == 0


def test_the_choice_is_in_config_yaml(tmp_path: Path, phi: str) -> None:
    base = save(tmp_path / "m", "gemma")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": SYSTEM, "chosen": "yes", "rejected": "no"}])
    common = ("dpo", "--model", base, "--data", rows, *QUICK)
    assert accord(*common, "--out", tmp_path / "folded", "--system", "fold") == 0
    assert "system: fold" in (tmp_path / "folded/config.yaml").read_text()
    assert accord(*common, "--out", tmp_path / "phi", "--chat-template", phi) == 0
    assert f"chat_template: {phi}" in (tmp_path / "phi/config.yaml").read_text()
    assert load_model(str(tmp_path / "phi/model")).tokenizer.chat_template == PHI


WRONG = {
    "unfinished": ("{% for m in messages %}{{ m.content }}", "fails on a chat of one question", "line 1"),
    "failing": ("{{ messages[7].content.nothing }}", "fails on a chat of one question", ""),
    "a page": ("# A page about templates", "is not a chat template: its text of a chat lacks the user's", ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_template_is_refused_in_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, *told = WRONG[name]
    file = tmp_path / "wrong.jinja"
    file.write_text(text)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": ASK, "chosen": "yes", "rejected": "no"}])
    out = tmp_path / "out.jsonl"
    command = ("score", "--model", save(tmp_path / "m", None), "--data", rows, "--out", out, "--chat-template")
    assert accord(*command, file) == 2 and not out.exists()
    printed = capsys.readouterr().err
    assert all(part in printed for part in told) and str(file) in printed
    assert accord(*command, tmp_path / "nowhere") == 2
    assert "cannot be read" in capsys.readouterr().err


def test_system_messages_are_folded_for_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = save(tmp_path / "rm", "gemma", scorer=True)
    samples = [{"prompt": SYSTEM, "completion": text} for text in ("yes", "no")]
    rows = write_jsonl(tmp_path / "samples.jsonl", samples)
    command = ("label", "--data", rows, "--out", tmp_path / "labels.jsonl", "--judge")
    assert accord(*command, judge) == 2
    assert "System role not supported" in capsys.readouterr().err
    assert accord(*command, judge, "--system", "fold") == 0
    (row,) = read_jsonl(tmp_path / "labels.jsonl")
    tokenizer = byte_tokenizer(GEMMA)
    better = max(("yes", "no"), key=lambda a: score(judge, chat(tokenizer, "Be kind.\n\nhi", a), tokenizer))
    assert row["chosen"] in (better, [{"role": "assistant", "content": better}])
    assert accord(*command, "measures:length", "--chat-template", "chatml") == 2


def test_a_chat_puts_a_system_prompt_where_there_is_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    for options in (("--model", save(tmp_path / "g", "gemma")), ("--model", save(tmp_path / "b", None))):
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        chosen = ("--chat-template", "chatml") if options[1].endswith("b") else ()
        assert accord("chat", *options, *chosen, "--system", "Be kind.", "--max-new-tokens", "2") == 0
        assert "system prompt" not in capsys.readouterr().err


JUDGED = [
    {"instruction": "1 + 1?", "output_1": "two", "output_2": "three", "label": 1},
    {"instruction": "Rain?", "output_1": "no", "output_2": "It rains.", "label": 2},
    {"instruction": "Sun?", "output_1": "perhaps", "output_2": "yes", "label": 1},
]
COLUMNS = ("--columns.prompt", "instruction", "--columns.first", "output_1", "--columns.second", "output_2")


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_texts_in_columns_are_read_through_the_template_of_the_model_on_trial(form: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", "chatml", scorer=True)
    tokenizer = byte_tokenizer(FAMILIES["chatml"][0])

    def read(question: str, answer: str) -> float:
        plain = question + answer + tokenizer.eos_token
        return score(folder, chat(tokenizer, question, answer) if form == "chat" else plain, tokenizer)

    leads = [read(r["instruction"], r["output_1"]) - read(r["instruction"], r["output_2"]) for r in JUDGED]  # type: ignore[arg-type]
    rows = write_jsonl(tmp_path / "rows.jsonl", JUDGED)
    command = ("evaluate", "comparisons", "--data", rows, *COLUMNS, "--reward", folder, "--dtype", "float32")
    more = () if form == "chat" else ("--form", "plain")
    assert accord(*command, *more, "--probes", "0", "--out", tmp_path / "trial") == 0
    result = json.loads((tmp_path / "trial/evaluation.json").read_text())
    right = [(lead > 0) == (row["label"] == 1) for lead, row in zip(leads, JUDGED, strict=True)]
    assert result["accuracy"]["estimate"] == pytest.approx(sum(right) / 3)
    (confidence,) = result["calibration"]["bins"]
    expected = sum(1 / (1 + math.exp(-abs(lead))) for lead in leads) / 3
    assert confidence["confidence"] == pytest.approx(expected, abs=1e-4)


def test_a_form_needs_columns_and_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", JUDGED)
    command = ("evaluate", "comparisons", "--data", rows, "--out", tmp_path / "trial", "--form", "chat")
    assert accord(*command, "--reward", "measures:length") == 2
    assert "--form is for texts in --columns" in capsys.readouterr().err
    assert accord(*command, *COLUMNS, "--reward", save(tmp_path / "rm", None, scorer=True)) == 2
    assert "has none; --chat-template gives one" in capsys.readouterr().err


def test_samples_are_rendered_again_in_the_reward_models_own_template(tmp_path: Path) -> None:
    policy = load_model(save(tmp_path / "m", "chatml"))
    folder = save(tmp_path / "rm", "llama", scorer=True)
    reward = LearnedReward(load_reward_model(folder), policy)
    tokenizer = byte_tokenizer(FAMILIES["llama"][0])
    tokens = tuple(policy.tokenizer("yes<|im_end|>", add_special_tokens=False)["input_ids"])
    asked = Prompt((Message("user", "hi"),))
    whole = Sample(asked, "yes", (1, 2), Completion(tokens, (0.0,) * len(tokens), "end"))
    cut = Sample(asked, "yes", (1, 2), Completion(tokens[:-1], (0.0,) * (len(tokens) - 1), "length"))
    rendered = chat(tokenizer, "hi", "yes")
    expected = [score(folder, text, tokenizer) for text in (rendered, rendered.removesuffix("<|eot_id|>"))]
    assert abs(expected[0] - expected[1]) > 1e-3
    assert reward([whole, cut]).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_reward_model_without_a_system_role_reads_the_system_s_words_in_the_question(tmp_path: Path) -> None:
    policy = load_model(save(tmp_path / "m", "chatml"))
    folder = save(tmp_path / "rm", "gemma", scorer=True)
    pairs = [((Message("system", "brief!"), Message("user", "hi")), "yes"), ((Message("user", "brief!\n\nhi"),), "yes")]
    told, asked = as_reward(folder, policy).texts(pairs).tolist()  # type: ignore[attr-defined]
    assert told == asked
    bare = as_reward(save(tmp_path / "bare", None, scorer=True), policy)
    with pytest.raises(
        InputError, match="^the reward model .*bare has no chat template, and a prompt is a chat: write"
    ):
        bare.texts(pairs)  # type: ignore[attr-defined]


def test_a_policy_that_folds_is_read_by_its_tokens(tmp_path: Path) -> None:
    from accord.engine.config import TemplateOptions

    policy = TemplateOptions(system="fold").templated(load_model(save(tmp_path / "m", "gemma")))
    reward = LearnedReward(load_reward_model(save(tmp_path / "rm", "gemma", scorer=True)), policy)
    assert reward.shares_tokens and policy.tokenizer.chat_template != GEMMA


def test_a_run_tells_its_template_more_and_the_model_keeps_it(tmp_path: Path) -> None:
    template = tmp_path / "think.jinja"
    template.write_text(
        PHI + "{% if add_generation_prompt and enable_thinking is defined %}{{ enable_thinking }}{% endif %}"
    )
    base = save(tmp_path / "m", None)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": ASK, "chosen": "yes", "rejected": "no"}])
    told = ("--chat-template", template, "--chat-template-kwargs", "enable_thinking=false")
    assert accord("dpo", "--model", base, "--data", rows, *QUICK, "--out", tmp_path / "run", *told) == 0
    assert "enable_thinking: 'false'" in (tmp_path / "run/config.yaml").read_text()
    tokenizer = load_model(str(tmp_path / "run/model")).tokenizer
    asked = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    assert asked.endswith("False")
    assert accord("data", rows, "--model", base, *told) == 0
    assert accord("score", "--model", base, "--data", rows, "--out", tmp_path / "s.jsonl", *told[2:]) == 2
