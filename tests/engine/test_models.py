"""Model folders: what accord writes plain transformers reads, and what cannot be used is told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from accord.engine.forward import log_probabilities, rewards, takes_trees
from accord.engine.models import Policy, Scorer, load_model, load_scorer
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from tests.data.conftest import EOS, TEMPLATE, WORDS, word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


def policy(name: str = "llama") -> Policy:
    """A random float32 network with the tokenizer of a token a word."""
    made = policy_of(random_model(CONFIGS[name](), dtype=torch.float32))
    made.tokenizer = word_tokenizer()
    return made


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_saved_policy_needs_no_accord(name: str, tmp_path: Path) -> None:
    made = policy(name)
    folder = made.save(tmp_path / "runs" / "model")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert plain.config.architectures == [type(made.network).__name__]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.chat_template, tokenizer.eos_token_id, len(tokenizer)) == (TEMPLATE, EOS, len(WORDS))
    loaded = load_model(str(folder), device="cpu")
    assert takes_trees(loaded.network) and loaded.end == EOS and not loaded.network.training
    with torch.no_grad():
        expected = made.network(input_ids=TOKENS).logits
        assert torch.equal(loaded.network(input_ids=TOKENS).logits, expected)
        torch.testing.assert_close(plain(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    folder = policy().save(tmp_path / "model")
    (folder / "stale.txt").write_text("from the model before")
    policy("gpt2").save(folder)
    assert not (folder / "stale.txt").exists()
    assert type(load_model(str(folder), device="cpu").network).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_saved_scorer_is_a_classifier_with_one_label(name: str, tmp_path: Path) -> None:
    made = Scorer.on(policy(name))
    folder = made.save(tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    loaded = load_scorer(str(folder), device="cpu")
    with torch.no_grad():
        expected = made.network(input_ids=TOKENS).logits
        assert expected.shape == (1, 1)
        assert torch.equal(loaded.network(input_ids=TOKENS).logits, expected)
        torch.testing.assert_close(plain(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)


def test_a_new_scorer_has_the_policy_s_trunk_and_a_small_head() -> None:
    # The head is N(0, 1/(16 + 1)): over 300 seeds its variance is within 4 standard errors, 4 sqrt(2 / 4800) = 8%.
    made = policy()
    scorer = Scorer.on(made, seed=0)
    trunk = made.network.base_model.state_dict()
    assert all(torch.equal(v, trunk[k]) for k, v in scorer.network.base_model.state_dict().items())
    scorer.network.base_model.embed_tokens.weight.data.zero_()
    assert float(trunk["embed_tokens.weight"].abs().sum()) > 0  # the two share no memory
    heads = torch.cat([Scorer.on(made, seed).network.score.weight for seed in range(300)])
    assert float(heads.detach().square().mean()) == pytest.approx(1 / 17, rel=0.08)
    assert torch.equal(Scorer.on(made, seed=5).network.score.weight[0], heads[5])


def test_a_scorer_on_a_scorer_is_a_copy_of_it() -> None:
    first = Scorer.on(policy(), seed=3)
    second = Scorer.on(first, seed=4)
    assert all(torch.equal(v, first.network.state_dict()[k]) for k, v in second.network.state_dict().items())
    second.network.score.weight.data.zero_()
    assert float(first.network.score.weight.detach().abs().sum()) > 0


def refusal(load: object, name: str) -> str:
    with pytest.raises(InputError) as raised:
        load(name, device="cpu")  # type: ignore[operator]
    return str(raised.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    assert refusal(load_model, missing) == f"there is no model folder {missing}."
    assert refusal(load_model, str(tmp_path)) == f"{tmp_path} is not a model folder: it has no config.json."
    folder = policy().save(tmp_path / "model")
    hint = f"{tmp_path} is not a model folder: it has no config.json; did you mean {folder}?"
    assert refusal(load_model, str(tmp_path)) == hint
    told = refusal(load_scorer, str(folder))
    assert told.startswith(f"{folder} is not a reward model: it must be a sequence classifier with one label")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    made = policy()
    folder = made.save(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(made.network.state_dict(), folder / "pytorch_model.bin")
    assert refusal(load_model, str(folder)).startswith(f"the model {folder} cannot be loaded: ")


def test_a_tokenizer_without_an_end_is_refused() -> None:
    made = policy()
    made.tokenizer, made.name = word_tokenizer(eos_token=None), "base"
    with pytest.raises(InputError, match="the tokenizer of base has no end-of-turn token"):
        _ = made.end


def test_transformers_scores_where_accord_does(tmp_path: Path) -> None:
    # Where the end of turn is padding too, transformers would read the score of the token before it.
    made = policy()
    made.tokenizer = word_tokenizer(pad_token="</s>")
    scorer = Scorer.on(made)
    assert (scorer.tokenizer.pad_token, made.tokenizer.pad_token) == ("<unk>", "</s>")
    tree = Tree((3, 6, EOS, 4), (Branch((8, 10, EOS)), Branch((9, EOS)), Branch((EOS,))))
    folder = scorer.save(tmp_path / "reward")
    plain, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.decode(tree.prompt + branch.tokens) for branch in tree.branches]
    rows = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        expected = plain(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits.squeeze(1)
        assert torch.allclose(rewards(scorer.network, Trees.of([tree])), expected, atol=1e-5)


def test_the_end_of_turn_learns_though_it_is_padding() -> None:
    # torch gives the row of an embedding's padding_idx no gradient, and pad is often the end of turn.
    network = random_model(CONFIGS["llama"](), dtype=torch.float32)
    network.get_input_embeddings().padding_idx = EOS
    made = policy_of(network)
    trees = Trees.of([Tree((3, EOS), (Branch((4,)),))])
    log_probabilities(made.network, trees)[0].sum().backward()
    assert made.network.get_input_embeddings().weight.grad[EOS].norm() > 0
