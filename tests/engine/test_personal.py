"""The model that reads choices: one pass is what each number of choices gives alone; its folder is a plain one too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from accord.engine.load import load_reward_model
from accord.engine.personal import PersonalScorer, UserTrees, pack_users
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.errors import InputError
from accord.files import SUMS
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model, randomize


@pytest.fixture(scope="module")
def model() -> PersonalScorer:
    """A reader of float64 whose every weight is drawn, so that choices weigh much."""
    policy = policy_of(random_model(CONFIGS["llama"]()))
    policy.tokenizer = word_tokenizer()
    made = PersonalScorer.reading(policy, 2)
    randomize(made.reader, 3)
    return made


def pair(seed: int, row: int) -> Tree:
    tokens = torch.randint(1, 13, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = Branch((*tokens[3:6], 2)), Branch((*tokens[6:], 2))
    return Tree(tuple(tokens[:3]), (first, second), ranks=(0, 1), row=row)


USERS = [UserTrees(tuple(pair(10 * u + i, i) for i in range(n))) for u, n in enumerate((3, 1, 4))]
TREES = [tree for user in USERS for tree in user.trees]


def alone(model: PersonalScorer, user: UserTrees, k: int) -> Tensor:
    """The scores of comparison k given the first k, by itself."""
    states = model.states(Trees.of(user.trees)).unflatten(0, (-1, 2))
    return model.score(states[None, k], states[None, :k], torch.ones(1, 2, k, dtype=torch.bool))[0]


@torch.no_grad()
def test_one_pass_is_every_k_by_itself(model: PersonalScorer) -> None:
    """Users of three, one and four comparisons in one pack: what is padded beside them changes nothing."""
    (together,) = pack_users(USERS, 1000)
    assert together.counts == (3, 1, 4) and together.firsts.tolist() == [0, 3, 4]
    scores = model.rewards_given_earlier(together).view(-1, 2)
    each = [alone(model, user, k) for user in USERS for k in range(len(user.trees))]
    torch.testing.assert_close(scores, torch.stack(each))
    packs = pack_users(USERS, 20)  # the longest first
    assert [p.counts for p in packs] == [(4,), (3,), (1,)]
    apart = torch.cat([model.rewards_given_earlier(p) for p in packs]).view(-1, 2)
    torch.testing.assert_close(apart, torch.cat([scores[4:], scores[:4]]))


@torch.no_grad()
def test_pairs_of_one_ranking_are_not_given_each_other(model: PersonalScorer) -> None:
    """The third pair is of the second's row, so it is given the first alone."""
    first, second, third = (pair(i, row) for i, row in enumerate((0, 1, 1)))
    (together,) = pack_users([UserTrees((first, second, third))], 1000)
    scores = model.rewards_given_earlier(together).view(3, 2)
    torch.testing.assert_close(scores[2], alone(model, UserTrees((first, third)), 1))


@torch.no_grad()
def test_without_choices_it_is_the_plain_reward(model: PersonalScorer) -> None:
    plain = model.rewards(Trees.of(TREES)).view(-1, 2)
    firsts = pack_users(USERS, 1000)[0].firsts
    scores = model.rewards_given_earlier(pack_users(USERS, 1000)[0]).view(-1, 2)
    torch.testing.assert_close(scores[firsts], plain[firsts])
    assert (scores - plain).abs()[1:3].min() > 1e-3  # and with choices it is another


@torch.no_grad()
def test_what_an_untrained_reader_adds_by_hand() -> None:
    """t begins at 0; with A = 1 each choice adds the product of the states (d = 16), and the mean is over both."""
    model = PersonalScorer.reading(policy_of(random_model(CONFIGS["llama"]())), 2)
    model.reader.alike.weight.copy_(torch.eye(16))
    states = model.states(Trees.of(USERS[2].trees)).unflatten(0, (-1, 2))
    apart = ((states[0, 0] - states[0, 1]) + (states[1, 0] - states[1, 1])) / 2
    found = model.score(states[None, 2], states[None, :2], torch.ones(1, 2, 2, dtype=torch.bool))[0]
    plain = model.network.score(states[2]).squeeze(-1)  # type: ignore[operator]
    torch.testing.assert_close(found, plain + states[2] @ apart / 4)


@torch.no_grad()
def test_the_order_of_choices_is_nothing_and_who_won_is_much(model: PersonalScorer) -> None:
    states = model.states(Trees.of(USERS[2].trees)).unflatten(0, (-1, 2))
    sees = torch.ones(1, 2, 3, dtype=torch.bool)
    given, asked = states[None, :3], states[None, 3]
    found = model.score(asked, given, sees)
    torch.testing.assert_close(model.score(asked, given[:, [2, 0, 1]], sees), found)
    assert (model.score(asked, given.flip(2), sees) - found).abs().min() > 1e-3
    # Candidates do not see each other: each scores as it does by itself, so that scores are rewards.
    one = torch.cat([model.score(asked[:, [i]], given, sees[:, :1]) for i in range(2)], 1)
    torch.testing.assert_close(one, found)


def test_the_folder_is_a_plain_reward_models_too(model: PersonalScorer, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    loaded = load_reward_model(str(folder))
    assert isinstance(loaded, PersonalScorer)
    (together,) = pack_users(USERS, 1000)
    with torch.no_grad():
        expected = model.rewards_given_earlier(together)
        torch.testing.assert_close(loaded.rewards_given_earlier(together), expected.float(), rtol=1e-4, atol=1e-4)
        plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
        tokens = torch.tensor([[*TREES[0].prompt, *TREES[0].branches[0].tokens]])
        reward = model.rewards(pack(TREES[:1], 100)[0])[0]
        hidden = plain.model(input_ids=tokens).last_hidden_state[0, -1]
        torch.testing.assert_close(plain.score(hidden)[0], reward)


def test_what_is_no_reader_or_lacks_one(model: PersonalScorer, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    (folder / SUMS).unlink()
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if name != "reader.head.weight"}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks the weight reader.head.weight of its reader: copy it anew"):
        load_reward_model(str(folder))
    config = json.loads((folder / "config.json").read_text())
    del config["choices_reader"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_reward_model(str(folder))).__name__ == "Scorer"
