"""Model folders: what accord writes plain transformers reads, and what cannot be used is told in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, CTRLConfig

from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.forward import log_probabilities, takes_trees
from accord.engine.generate import generate
from accord.engine.load import load_classifier, load_model, load_preference_model, load_reward_model, reload
from accord.engine.models import Model, Policy
from accord.engine.offload import frozen_copy
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.records import EncodedPrompt, Prompt
from tests.data.conftest import EOS, TEMPLATE, WORDS, word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


def policy(name: str = "llama") -> Policy:
    """A random float32 network with the tokenizer of a token a word."""
    made = policy_of(random_model(CONFIGS[name](), dtype=torch.float32))
    made.tokenizer = word_tokenizer()
    return made


def wide() -> Policy:
    """A random network whose hidden states have 256 numbers."""
    config = CONFIGS["llama"]()
    config.hidden_size = 256
    return policy_of(random_model(config, dtype=torch.float32))


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
    loaded = load_reward_model(str(folder), device="cpu")
    with torch.no_grad():
        expected = made.network(input_ids=TOKENS).logits
        assert expected.shape == (1, 1)
        assert torch.equal(loaded.network(input_ids=TOKENS).logits, expected)
        torch.testing.assert_close(plain(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)


def test_a_new_scorer_has_the_policy_s_trunk_and_a_small_head() -> None:
    # The head is N(0, 1/(256 + 1)): over 19 seeds its variance is within 4 standard errors, 4 sqrt(2 / 4864) = 8%.
    made = wide()
    scorer = Scorer.on(made, seed=0)
    trunk = made.network.base_model.state_dict()
    before = trunk["embed_tokens.weight"].clone()
    assert all(torch.equal(v, trunk[k]) for k, v in scorer.network.base_model.state_dict().items())
    scorer.network.base_model.embed_tokens.weight.data.zero_()
    assert torch.equal(trunk["embed_tokens.weight"], before)  # the two share no memory
    heads = torch.cat([Scorer.on(made, seed).network.score.weight for seed in range(19)])
    assert float(heads.detach().square().mean()) == pytest.approx(1 / 257, rel=0.08)
    assert torch.equal(Scorer.on(made, seed=5).network.score.weight[0], heads[5])


@pytest.mark.parametrize("name", ["mamba", "ctrl"])  # one has no classifier, one another head
def test_an_architecture_without_a_classifier_is_told(name: str) -> None:
    config = CTRLConfig(vocab_size=13, n_embd=8, dff=8, n_layer=1, n_head=2) if name == "ctrl" else CONFIGS[name]()
    made = policy_of(random_model(config, dtype=torch.float32))
    for head in (Scorer.on, lambda model: PreferenceNetwork.on(model, 1)):
        with pytest.raises(
            InputError, match=r"random is a \w+, and transformers has no classifier of this architecture"
        ):
            head(made)


def test_a_new_comparer_has_a_scorer_s_score_and_planes_that_weigh_as_much() -> None:
    # Score N(0, 1/257), planes N(0, 1/(257 sqrt 4)): over 19 seeds variances within 4 standard errors, 8% of 4864 and
    # 3% of 38912 draws. A hidden state of 256 numbers of mean square 1 has a score of variance v = 256/257 and points
    # of variance v / 2. Two scores differ with variance 2 v, and four planes of two products have 4 * 2 * (v / 2)^2.
    made = wide()
    heads = torch.stack([PreferenceNetwork.on(made, 4, seed).network.score.weight.detach() for seed in range(19)])
    assert float(heads[:, 0].square().mean()) == pytest.approx(1 / 257, rel=0.08)
    assert float(heads[:, 1:].square().mean()) == pytest.approx(1 / 514, rel=0.03)
    comparer = PreferenceNetwork.on(made, 2)
    trunk = made.network.base_model.state_dict()
    assert all(torch.equal(v, trunk[k]) for k, v in comparer.network.base_model.state_dict().items())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_saved_comparer_is_a_classifier_whose_labels_say_what_they_are(name: str, tmp_path: Path) -> None:
    made = PreferenceNetwork.on(policy(name), 6)  # 13 labels: sorted as text, label 10 stands before label 2
    folder = made.save(tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    names = [plain.config.id2label[i] for i in range(13)]
    assert names == ["score", *(f"cycle {j}{axis}" for j in range(1, 7) for axis in "ab")]
    loaded = load_preference_model(str(folder), device="cpu")
    trees = Trees.of([Tree((3, 1), (Branch((4, 1, 5)), Branch((9, 2))))])
    with torch.no_grad():
        expected = made.network(input_ids=TOKENS).logits
        assert expected.shape == (1, 13)
        assert torch.equal(loaded.network(input_ids=TOKENS).logits, expected)
        torch.testing.assert_close(plain(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)
        both = loaded.outputs(trees)
        torch.testing.assert_close(both[:1], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(both[1:], plain(input_ids=torch.tensor([[3, 1, 9, 2]])).logits, rtol=0, atol=1e-5)


def test_a_classifier_is_known_by_its_labels(tmp_path: Path) -> None:
    reward, preference = (
        str(made.save(tmp_path / made.__class__.__name__))
        for made in (Scorer.on(policy()), PreferenceNetwork.on(policy(), 1))
    )
    assert type(load_classifier(reward, device="cpu")) is Scorer
    assert type(load_classifier(preference, device="cpu")) is PreferenceNetwork
    assert refusal(load_reward_model, preference).startswith(f"{preference} is a preference model, which compares two")
    told = f"{reward} is a reward model, not a preference model; train one with `accord preference`."
    assert refusal(load_preference_model, reward) == told
    other = PreferenceNetwork.on(policy(), 1)
    other.network.config.id2label = {0: "joy", 1: "anger", 2: "fear"}
    feelings = str(other.save(tmp_path / "feelings"))
    for load in (load_reward_model, load_preference_model):
        assert "is not a reward model" in refusal(load, feelings) and "with 3;" in refusal(load, feelings)


@pytest.mark.parametrize("kind", [lambda made: made, Scorer.on, lambda made: PreferenceNetwork.on(made, 2)])
def test_a_model_of_any_kind_reloads_as_it_was_saved(kind: Callable[[Model], Model], tmp_path: Path) -> None:
    made = kind(policy())
    folder = made.save(tmp_path / "model")
    saved = {name: weights.clone() for name, weights in made.network.state_dict().items()}
    for parameter in made.network.parameters():
        parameter.data.zero_()
    again = reload(made, folder)
    assert (type(again), again.name, again.device) == (type(made), str(folder), made.device)
    assert all(torch.equal(weights, saved[name]) for name, weights in again.network.state_dict().items())


def test_a_scorer_on_one_frozen_for_use_can_be_trained() -> None:
    # What scores in bfloat16 holds its linear layers so, without gradients; a value model that starts from it must not.
    scorer = Scorer.on(policy())
    scorer.network = frozen_copy(scorer.network, torch.bfloat16)  # type: ignore[assignment]
    value = Scorer.on(scorer)
    assert {(p.dtype, p.requires_grad) for p in value.network.parameters()} == {(torch.float32, True)}
    assert {p.requires_grad for p in scorer.network.parameters()} == {False}


def test_a_scorer_on_a_scorer_is_a_copy_of_it() -> None:
    first = Scorer.on(policy(), seed=3)
    second = Scorer.on(first, seed=4)
    assert all(torch.equal(v, first.network.state_dict()[k]) for k, v in second.network.state_dict().items())
    before = first.network.score.weight.detach().clone()
    second.network.score.weight.data.zero_()
    assert torch.equal(first.network.score.weight, before)


def refusal(load: object, name: str) -> str:
    with pytest.raises(InputError) as raised:
        load(name, device="cpu")  # type: ignore[operator]
    return str(raised.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    assert refusal(load_model, missing) == f"there is no model folder {missing}."
    assert refusal(load_model, str(tmp_path)) == f"{tmp_path} is not a model folder: it has no config.json."
    scorer = str(Scorer.on(policy()).save(tmp_path / "scorer"))
    assert refusal(load_model, scorer) == (
        f"{scorer} is a reward or preference model, not a language model: it scores texts and writes none."
    )
    folder = policy().save(tmp_path / "model")
    hint = f"{tmp_path} is not a model folder: it has no config.json; did you mean {folder}?"
    assert refusal(load_model, str(tmp_path)) == hint
    told = refusal(load_reward_model, str(folder))
    assert told.startswith(f"{folder} is not a reward model: it must be a sequence classifier with one label")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    made = policy()
    folder = made.save(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(made.network.state_dict(), folder / "pytorch_model.bin")
    said = refusal(load_model, str(folder))
    assert said.startswith(f"{folder} holds its weights as a pickle (pytorch_model.bin), which could run any code")


def test_a_tokenizer_without_an_end_is_refused() -> None:
    made = policy()
    made.tokenizer, made.name = word_tokenizer(template=None, eos_token=None), "base"
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
        assert torch.allclose(scorer.rewards(Trees.of([tree])), expected, atol=1e-5)


def test_the_end_of_turn_learns_though_it_is_padding() -> None:
    # torch gives the row of an embedding's padding_idx no gradient, and pad is often the end of turn.
    gradients = []
    for padding in (EOS, None):
        network = random_model(CONFIGS["llama"](), dtype=torch.float32)
        network.get_input_embeddings().padding_idx = padding
        made = policy_of(network)
        log_probabilities(made.network, Trees.of([Tree((3, EOS), (Branch((4,)),))]))[0].sum().backward()
        gradients.append(made.network.get_input_embeddings().weight.grad)
    assert torch.equal(*gradients) and gradients[0].abs().amax(1).nonzero().flatten().tolist() == [EOS, 3]


def test_samples_are_those_of_generate_with_their_prompts() -> None:
    model, sampling = policy(), Sampling(max_new_tokens=5, seed=3)
    prompts = [EncodedPrompt(Prompt(str(i)), (i + 1, i + 2), 7 + i) for i in range(2)]
    samples = model.sample(prompts, 2, sampling)
    groups = generate(model.network, [p.tokens for p in prompts], 2, sampling, **model.limits)
    assert [s.completion for s in samples] == [c for group in groups for c in group]
    assert [s.row for s in samples] == [7, 7, 8, 8]
    assert all(s.text == model.text(s.completion.tokens) for s in samples)


def test_log_probabilities_of_branches_add_up_those_of_tokens() -> None:
    model = policy()
    trees = Trees.of([Tree((1, 2), (Branch((3, 4, 5)), Branch((6, 7))))])
    logp = model.log_probs(trees)
    assert torch.equal(logp, log_probabilities(model.network, trees)[0])
    assert model.branch_log_probs(trees).tolist() == pytest.approx([float(logp[:3].sum()), float(logp[3:].sum())])
    means = model.branch_log_probs(trees, average=True).tolist()
    assert means == pytest.approx([float(logp[:3].mean()), float(logp[3:].mean())])


def test_a_model_in_another_precision_leaves_the_first_as_it_is() -> None:
    model = policy()
    other = model.in_dtype("bfloat16")
    assert (model.dtype, other.dtype) == (torch.float32, torch.bfloat16)
    assert other.network is model.network
    trees = Trees.of([Tree((1, 2), (Branch((3, 4)),))])
    assert torch.equal(other.frozen_copy().log_probs(trees), other.log_probs(trees))
    assert next(model.network.parameters()).dtype == torch.float32


def test_a_network_must_be_prepared() -> None:
    model = policy()
    fresh = type(model.network)(model.network.config)
    with pytest.raises(ValueError, match="prepare_network"):
        Policy(fresh, model.tokenizer)


def test_what_reads_models_is_still_found_where_it_was() -> None:
    with pytest.warns(DeprecationWarning, match=r"load_scorer is now accord.engine.load.load_reward_model"):
        from accord.engine.models import load_scorer
    assert load_scorer is load_reward_model
    with pytest.raises(ImportError, match="nothing_here"):
        from accord.engine.models import nothing_here  # noqa: F401
