"""The café's texts, tokenizer and model, and the files they are written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from accord.cli.world import world
from accord.errors import InputError
from accord.evaluate.probe_files import read_probes
from accord.feedback.constraints import parse
from accord.records import Demonstration
from accord.worlds import cafe
from accord.worlds.cafe.grammar import DISHES, NEGATIVE_WORDS, PAIRS, POSITIVE_WORDS, WORDS
from accord.worlds.cafe.texts import HELD_OUT, TRAINING


def test_every_word_has_one_meaning() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert not POSITIVE_WORDS & NEGATIVE_WORDS
    assert 120 <= len(cafe.tokenizer()) <= 250


def test_pairs_are_the_grammar_s_and_no_others() -> None:
    assert {("the", "DISH"), ("COPULA", "ADJ"), (".", ""), ("ADJ", "TIME"), ("SIDE", "and")} <= PAIRS
    assert not {("ADJ", "ADJ"), ("the", "the"), ("", "ADJ"), ("", ""), ("ADJ", ""), ("VERB", "VERB")} & PAIRS


def test_the_tokenizer_gives_back_what_it_was_given() -> None:
    tokenizer = cafe.tokenizer()
    for row in [*cafe.corpus(0, 300), *cafe.demonstrations(0, 100)]:
        tokens = tokenizer(row.completion)["input_ids"]
        assert tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens) == row.completion
    assert tokenizer.decode(tokenizer("The soup's zorb.")["input_ids"]) == "the soup <unk> <unk> <unk> ."


def test_the_chat_template() -> None:
    tokenizer = cafe.tokenizer()
    chat = [{"role": "user", "content": "how is the pie ?"}, {"role": "assistant", "content": "it is warm ."}]
    asked = str(tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False))
    whole = str(tokenizer.apply_chat_template(chat, tokenize=False))
    assert tokenizer.tokenize(asked) == ["<user>", "how", "is", "the", "pie", "?", "<assistant>"]
    assert tokenizer.tokenize(whole) == [*tokenizer.tokenize(asked), "it", "is", "warm", ".", "<eos>"]
    with pytest.raises(Exception, match="roles user and assistant, not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "be kind"}])


def test_held_out_questions_are_in_no_other_text() -> None:
    held_out = {text for text, _ in HELD_OUT}
    assert not held_out & {text for text, _ in TRAINING}
    assert len(TRAINING) > 3000 and len(held_out) > 800
    corpus = " ".join(str(row.completion) for row in cafe.corpus(0, 2000))
    assert not [text for text in held_out if text in corpus]
    demonstrated = {row.prompt[0].content for row in cafe.demonstrations(0, 2000)}  # type: ignore[union-attr]
    assert not held_out & demonstrated
    assert {row.prompt[0].content for row in cafe.heldout(0, 200)} <= held_out  # type: ignore[union-attr]


def test_the_seed_decides_every_text() -> None:
    for draw in (cafe.corpus, cafe.demonstrations, cafe.prompts, cafe.heldout):
        assert draw(0, 50) == draw(0, 50) != draw(1, 50)


def test_prompts_are_all_different() -> None:
    assert len({row.prompt for row in cafe.prompts(0, 3000)}) == 3000
    with pytest.raises(ValueError):
        cafe.heldout(0, len(HELD_OUT) + 1)


def test_texts_are_of_moderate_length() -> None:
    lengths = [len(str(row.completion).split()) for row in cafe.demonstrations(0, 500)]
    assert min(lengths) >= 12 and max(lengths) <= 24
    assert all(len(str(row.completion).split()) < 128 for row in cafe.corpus(0, 3000))


def test_the_model_is_small_and_its_seed_decides_its_weights() -> None:
    state = torch.random.get_rng_state()
    model, again, other = cafe.new_model(0), cafe.new_model(0), cafe.new_model(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 1.0e6 < sum(weight.numel() for weight in model.parameters()) < 1.5e6
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(model.state_dict()[name], other.state_dict()[name])


def test_references_answer_the_questions_held_out_as_demonstrations_do() -> None:
    found, asked = cafe.references(5, 40), cafe.heldout(5, 40)
    assert [row.prompt for row in found] == [row.prompt for row in asked]
    assert all(12 <= len(str(row.completion).split()) <= 24 for row in found)
    dishes = [next(dish for dish in DISHES if dish in row.prompt[0].content.split()) for row in found]
    assert all(dish in str(row.completion).split() for dish, row in zip(dishes, found, strict=True))


@pytest.mark.parametrize(
    ("answer", "broken"),
    [
        ("the soup is fresh . it is warm and rich .", set()),
        ("the soup is soggy . it is warm and rich .", {"avoid"}),
        ("the pie is fresh . it is warm and rich .", {"include"}),
        ("the soup is fresh .", {"sentences"}),
        ("the pie is stale . " * 5, {"avoid", "include", "sentences"}),
        ("", {"include", "sentences"}),
    ],
)
def test_probes_know_good_manners(answer: str, broken: set[str]) -> None:
    found, asked = cafe.probes(5, 40), cafe.heldout(5, 40)
    for kind in ("instructions", "style"):
        assert [row["prompt"] for row in found[kind]] == [row.prompt[0].content for row in asked]  # type: ignore[union-attr]
    manners = next(row["constraints"] for row in found["instructions"] if "soup" in row["prompt"].split())
    assert {rule.name for rule in parse(manners) if not rule.holds(answer)} == broken


def test_the_world_as_files(tmp_path: Path) -> None:
    cafe.write(tmp_path, seed=2)
    rows = [json.loads(line) for line in (tmp_path / "demonstrations.jsonl").read_text().splitlines()]
    first = cafe.demonstrations(2, 1)[0]
    assert isinstance(first, Demonstration)
    assert rows[0]["completion"] == first.completion
    assert [
        len((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("corpus", "prompts", "heldout")
    ] == [
        12_000,
        2_000,
        400,
    ]
    assert {kind: len(items) for kind, items in read_probes(str(tmp_path / "probes.yaml")).items()} == {
        "instructions": 100,
        "style": 100,
    }
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "init")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "init")
    assert tokenizer.chat_template == cafe.tokenizer().chat_template
    assert tokenizer.decode(tokenizer("how is the soup ?")["input_ids"]) == "how is the soup ?"
    assert (model.config.pad_token_id, model.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert torch.equal(model.lm_head.weight, cafe.new_model(2).lm_head.weight)


def test_a_narrower_model_speaks_the_same_language(tmp_path: Path) -> None:
    # At width w and v words: embeddings v w; in each of 3 layers attention w^2 (1 + 1/3 + 1/3 + 1), SwiGLU 3 w (7/3 w)
    # and two norms 2 w; a last norm w.
    for width, parameters in ((48, 75_168), (192, 1_102_464)):
        model = cafe.new_model(0, width)
        layers = 3 * (width**2 * 8 // 3 + 7 * width**2 + 2 * width)
        assert (
            sum(p.numel() for p in model.parameters()) == model.config.vocab_size * width + layers + width == parameters
        )
    with pytest.raises(InputError, match="must be a multiple of 12, not 50"):
        world(str(tmp_path / "world"), width=50)
    with pytest.raises(InputError, match="--width is for the worlds cafe, counter, facts and shelf"):
        world(str(tmp_path / "world"), name="sums", width=48)
    assert not (tmp_path / "world").exists()
