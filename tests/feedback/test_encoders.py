"""Encoders as reward models: the score is what plain transformers gives of a question and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from accord.data.chat import encoder_text
from accord.engine.encoders import Encoder
from accord.engine.load import load_classifier, load_model, load_preference_model, load_reward_model
from accord.engine.models import Policy
from accord.errors import InputError
from accord.feedback.learned import LearnedJudge, LearnedReward
from accord.feedback.named import as_measure, judge_named, reward_named
from accord.records import Comparison, Completion, Message, Prompt, Sample, Text
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl
from tests.data.templates import CHATML

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<|im_start|>", "<|im_end|>", "how", "much", "is", "it", "?", "seven"]
WORDS += ["eight", "and", "you", "user", "assistant"]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "pad_token_id": 0, "initializer_range": 0.5,
    "num_labels": 1,
}  # fmt: skip
DISENTANGLED = {
    "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pooler_hidden_size": 16,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "deberta": lambda **more: transformers.DebertaV2Config(**{**SIZES, **DISENTANGLED, "type_vocab_size": 0, **more}),
    "roberta": lambda **more: transformers.RobertaConfig(**{**SIZES, "type_vocab_size": 1, **more}),
    "modernbert": lambda **more: transformers.ModernBertConfig(
        **{**SIZES, "attn_implementation": "sdpa", "cls_token_id": 1, "sep_token_id": 2, **more}
    ),
    "bert": lambda **more: transformers.BertConfig(**{**SIZES, **more}),
}


def tokenizer_of(name: str, template: str | None) -> PreTrainedTokenizerFast:
    """Words, with the special tokens of BERT around one text and two."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    tokenizer.model_input_names = ["input_ids", *["token_type_ids"] * (name == "bert"), "attention_mask"]
    tokenizer.chat_template = template
    return tokenizer


def save(folder: Path, name: str, template: str | None = None, **more: Any) -> str:
    torch.manual_seed(1)
    network = transformers.AutoModelForSequenceClassification.from_config(CONFIGS[name](**more))
    network.save_pretrained(folder)
    tokenizer_of(name, template).save_pretrained(folder)
    return str(folder)


def plain(folder: str, *text: str, **how: Any) -> float:
    """What a reward model's card has its readers compute."""
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return float(network(**tokenizer(*text, return_tensors="pt", **how)).logits[0, 0])


ASKED = (Message("user", "how much is it ?"),)
LONGER = (Message("system", "you"), *ASKED, Message("assistant", "seven"), Message("user", "and you ?"))
PAIRS: list[tuple[Text, Text]] = [
    ("how much is it ?", "seven"),
    (ASKED, (Message("assistant", "eight and eight and eight"),)),
    (ASKED, "seven and seven"),
    (LONGER, "eight"),
    ("", "seven ?"),
]
READ = [
    ("how much is it ?", "seven"),
    ("how much is it ?", "eight and eight and eight"),
    ("how much is it ?", "seven and seven"),
    ("you\n\nhow much is it ?\n\nseven\n\nand you ?", "eight"),
    ("seven ?",),
]


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_are_those_of_the_text_pair_in_transformers(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", name)
    expected = [plain(folder, *texts) for texts in READ]
    assert len({round(score, 3) for score in expected}) == len(READ)
    reward = reward_named(folder)
    assert isinstance(reward, LearnedReward) and isinstance(reward.model, Encoder)
    assert reward.texts(PAIRS + PAIRS[:1]).tolist() == pytest.approx([*expected, expected[0]], abs=1e-5)
    reward.tokens_per_pass = 1
    assert reward.texts(PAIRS).tolist() == pytest.approx(expected, abs=1e-5)
    one, two = expected[:2]
    (verdict,) = judge_named(folder)([Comparison("how much is it ?", "seven", "eight and eight and eight")])
    assert verdict.first_wins == pytest.approx(1 / (1 + torch.tensor(two - one).exp().item()), abs=1e-5)


def test_samples_are_read_by_their_words_whatever_the_policys_tokens(tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", "deberta")
    policy = load_model(save_model(tmp_path / "policy"))
    assert isinstance(policy, Policy)
    measure = as_measure(folder, policy)
    assert isinstance(measure, LearnedReward) and not measure.shares_tokens
    sample = Sample(Prompt(ASKED), "seven", (1, 2), Completion((3, 4), (0.0, 0.0), "end"))
    assert float(measure([sample])) == pytest.approx(plain(folder, "how much is it ?", "seven"), abs=1e-5)
    assert LearnedJudge(load_classifier(folder)).samples([sample], [sample])[0].first_wins == 0.5


def test_a_chat_is_rendered_where_there_is_a_template(tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", "modernbert", CHATML.replace("|>", "|> ").replace("<|im_end|>", " <|im_end|>"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "how much is it ?"}, {"role": "assistant", "content": "seven"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    expected = plain(folder, text, add_special_tokens=False)
    assert float(reward_named(folder).texts([(ASKED, "seven")])) == pytest.approx(expected, abs=1e-5)  # type: ignore[attr-defined]


def test_what_nothing_reads_is_refused() -> None:
    tokenizer = tokenizer_of("bert", None)
    with pytest.raises(InputError, match="a message holds 'reasoning_content', which the chat template does not read"):
        encoder_text(tokenizer, ASKED, (Message("assistant", "seven", {"reasoning_content": "hm"}),))
    assert encoder_text(tokenizer, (Message("user", "?", {"weight": 0}),), "seven") == {
        "text": "?",
        "text_pair": "seven",
    }


@pytest.mark.parametrize(("name", "longest"), [("roberta", 23), ("bert", 24)])
def test_a_text_beyond_the_positions_is_refused_in_a_sentence(name: str, longest: int, tmp_path: Path) -> None:
    reward = reward_named(save(tmp_path / "rm", name))
    fits = " ".join(["seven"] * (longest - 5))  # [CLS] how [SEP] ... [SEP], and one more
    assert len(reward.texts([("how ?", fits)])) == 1  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"reads {longest} tokens, and a prompt with its completion has {longest + 1}"):
        reward.texts([("how ?", f"{fits} seven")])  # type: ignore[attr-defined]


def test_positions_that_are_relative_have_no_limit(tmp_path: Path) -> None:
    folder, answer = save(tmp_path / "rm", "deberta"), " ".join(["seven", "eight"] * 20)
    score = float(reward_named(folder).texts([("how ?", answer)]))  # type: ignore[attr-defined]
    assert score == pytest.approx(plain(folder, "how ?", answer), abs=1e-5)


def test_what_is_no_reward_model_or_cannot_be_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feelings = save(tmp_path / "two", "roberta", num_labels=2)
    with pytest.raises(InputError, match="must be a sequence classifier with one label, and is a Roberta.* with 2;"):
        load_reward_model(feelings)
    one = save(tmp_path / "one", "roberta")
    with pytest.raises(InputError, match="is a reward model, not a preference model"):
        load_preference_model(one)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "how", "chosen": "seven", "rejected": "eight"}])
    assert accord("reward", "--model", one, "--data", rows, "--out", tmp_path / "run", *QUICK) == 2
    assert "is a reward or preference model, not a language model" in capsys.readouterr().err
    masked = transformers.AutoModelForMaskedLM.from_config(CONFIGS["deberta"]())
    masked.save_pretrained(tmp_path / "masked")
    tokenizer_of("deberta", None).save_pretrained(tmp_path / "masked")
    with pytest.raises(InputError, match="is a DebertaV2ForMaskedLM, which is not a causal language model"):
        load_model(str(tmp_path / "masked"))


def test_from_the_command_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", "deberta")
    rows = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "how", "chosen": "seven", "rejected": "eight ?"}])
    assert accord("evaluate", "comparisons", "--data", rows, "--reward", folder, "--out", tmp_path / "trial") == 0
    samples = [{"prompt": "how", "completion": text} for text in ("seven", "eight ?")]
    asked = write_jsonl(tmp_path / "samples.jsonl", samples)
    assert accord("label", "--data", asked, "--judge", folder, "--out", tmp_path / "labeled.jsonl") == 0
    (preference,) = read_jsonl(tmp_path / "labeled.jsonl")
    better = max(("seven", "eight ?"), key=lambda text: plain(folder, "how", text))
    assert preference["chosen"] == better
