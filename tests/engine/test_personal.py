"""The models that read choices: one pass is what each number of choices gives alone; its folder is a plain one too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, logsigmoid
from transformers import AutoModelForSequenceClassification

from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.load import load_classifier
from accord.engine.personal import PersonalModel, PersonalScorer, Reader, UserTrees, pack_users, with_reader
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.errors import InputError
from accord.files import SUMS
from accord.objectives.preference import general_preference
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model, randomize

PLANES = (0, 2)
"""A reward model, and a preference model of two answers."""


@pytest.fixture(scope="module", params=PLANES)
def model(request: pytest.FixtureRequest) -> PersonalModel:
    """A reader of float64 whose every weight is drawn, so that choices weigh much."""
    made = untrained(request.param)
    randomize(made.reader, 3)
    return made


def untrained(planes: int) -> PersonalModel:
    policy = policy_of(random_model(CONFIGS["llama"]()))
    policy.tokenizer = word_tokenizer()
    return with_reader(policy, 2, planes)


def pair(seed: int, row: int) -> Tree:
    tokens = torch.randint(1, 13, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = Branch((*tokens[3:6], 2)), Branch((*tokens[6:], 2))
    return Tree(tuple(tokens[:3]), (first, second), ranks=(0, 1), row=row)


USERS = [UserTrees(tuple(pair(10 * u + i, i) for i in range(n))) for u, n in enumerate((3, 1, 4))]
TREES = [tree for user in USERS for tree in user.trees]


def alone(model: PersonalModel, user: UserTrees, k: int) -> Tensor:
    """The labels of comparison k given the first k, by itself."""
    states = model.states(Trees.of(user.trees)).unflatten(0, (-1, 2))
    return model.outputs_given(states[None, k], states[None, :k], torch.ones(1, 2, k, dtype=torch.bool))[0]


@torch.no_grad()
def test_one_pass_is_every_k_by_itself(model: PersonalModel) -> None:
    """Users of three, one and four comparisons in one pack: what is padded beside them changes nothing."""
    (together,) = pack_users(USERS, 1000)
    assert together.counts == (3, 1, 4) and together.firsts.tolist() == [0, 3, 4]
    scores = model.outputs_given_earlier(together).unflatten(0, (-1, 2))
    each = [alone(model, user, k) for user in USERS for k in range(len(user.trees))]
    torch.testing.assert_close(scores, torch.stack(each))
    packs = pack_users(USERS, 20)  # the longest first
    assert [p.counts for p in packs] == [(4,), (3,), (1,)]
    apart = torch.cat([model.outputs_given_earlier(p) for p in packs]).unflatten(0, (-1, 2))
    torch.testing.assert_close(apart, torch.cat([scores[4:], scores[:4]]))


@torch.no_grad()
def test_pairs_of_one_ranking_are_not_given_each_other(model: PersonalModel) -> None:
    """The third pair is of the second's row, so it is given the first alone."""
    first, second, third = (pair(i, row) for i, row in enumerate((0, 1, 1)))
    (together,) = pack_users([UserTrees((first, second, third))], 1000)
    scores = model.outputs_given_earlier(together).unflatten(0, (3, 2))
    torch.testing.assert_close(scores[2], alone(model, UserTrees((first, third)), 1))


@torch.no_grad()
def test_without_choices_it_is_the_plain_model(model: PersonalModel) -> None:
    plain = model.outputs(Trees.of(TREES)).unflatten(0, (-1, 2))
    firsts = pack_users(USERS, 1000)[0].firsts
    labels = model.outputs_given_earlier(pack_users(USERS, 1000)[0]).unflatten(0, (-1, 2))
    torch.testing.assert_close(labels[firsts], plain[firsts])
    assert (labels - plain).abs()[1:3].min() > 1e-4  # and with choices it is another


@torch.no_grad()
def test_what_an_untrained_reader_adds_by_hand() -> None:
    """t begins at 0; with A = 1 each choice adds the product of the states (d = 16), and the mean is over both."""
    model = untrained(0)
    model.reader.alike.weight.copy_(torch.eye(16))
    states = model.states(Trees.of(USERS[2].trees)).unflatten(0, (-1, 2))
    apart = ((states[0, 0] - states[0, 1]) + (states[1, 0] - states[1, 1])) / 2
    found = model.outputs_given(states[None, 2], states[None, :2], torch.ones(1, 2, 2, dtype=torch.bool))[0]
    plain = model.network.score(states[2])  # type: ignore[operator]
    torch.testing.assert_close(found[:, 0], plain[:, 0] + states[2] @ apart / 4)


@pytest.mark.parametrize("planes", PLANES)
def test_what_an_untrained_reader_adds_is_a_step_of_fitting_the_head(planes: int) -> None:
    """With A = 1: the gradient of the choices' mean log-odds by the head's weights, over sqrt(16), times the state."""
    model = untrained(planes)
    model.reader.alike.weight.data.copy_(torch.eye(16))
    states = model.states(Trees.of(USERS[2].trees)).unflatten(0, (-1, 2)).detach()
    head = model.network.score.weight  # type: ignore[union-attr]
    odds = general_preference(states[:3, 0] @ head.T, states[:3, 1] @ head.T)
    (step,) = torch.autograd.grad(odds.mean() / 4, head)
    found = model.outputs_given(states[None, 3], states[None, :3], torch.ones(1, 2, 3, dtype=torch.bool))[0]
    torch.testing.assert_close(found, states[3] @ (head + step).T)


@torch.no_grad()
def test_answers_that_change_places_turn_the_sign() -> None:
    """Of any two answers, and of any two choices where one was the other way round, t being 0."""
    model = untrained(2)
    states = model.states(Trees.of(USERS[2].trees)).unflatten(0, (-1, 2))
    sees = torch.ones(1, 2, 3, dtype=torch.bool)

    def odds(asked: Tensor, choices: Tensor) -> Tensor:
        return general_preference(*model.outputs_given(asked[None], choices[None], sees)[0])

    def added(choices: Tensor) -> Tensor:
        return model.outputs_given(states[3:], choices[None], sees) - model.network.score(states[3:])  # type: ignore[operator]

    torch.testing.assert_close(added(states[:3].flip(1)), -added(states[:3]))
    randomize(model.reader, 3)
    there, back = odds(states[3], states[:3]), odds(states[3].flip(0), states[:3])
    torch.testing.assert_close(there, -back)
    assert there.abs() > 1e-3
    assert odds(states[3, [0, 0]], states[:3]).abs() < 1e-12


@torch.no_grad()
def test_users_whose_preferences_run_in_opposite_circles() -> None:
    """Of three answers at 120 degrees of each other, 0 beats 1 beats 2 beats 0, or the other way round.

    Two planes, the second the mirror of the first: without choices they cancel. With A = 1, d = 16 and all three
    choices the points of one are longer by k = sqrt(3) / 8 of their length and those of the other shorter:
    sin(120) ((1 + k)^2 - (1 - k)^2) = 3/4 for every pair, -3/4 for a user of the other circle. Of rewards the log-odds
    of 0 over 1, 1 over 2 and 2 over 0 add up to 0, whatever the choices.
    """
    around = torch.arange(3, dtype=torch.float64) * 2 * torch.pi / 3
    answers = torch.zeros(3, 16, dtype=torch.float64)
    answers[:, 0], answers[:, 1] = around.cos(), around.sin()
    circle = torch.stack([answers, answers.roll(-1, 0)], 1)  # (3, 2, d): the first of each two beats the second
    for planes in PLANES:
        model = untrained(planes)
        model.reader.alike.weight.copy_(torch.eye(16))
        if planes:
            weight = torch.zeros(5, 16, dtype=torch.float64)
            weight[1, 0] = weight[2, 1] = weight[3, 0] = 1.0
            weight[4, 1] = -1.0
            model.network.score.weight.copy_(weight)  # type: ignore[operator, union-attr]
        for choices, expected in ((circle[:0], 0.0), (circle, 0.75), (circle.flip(1), -0.75)):
            sees = torch.ones(1, 6, len(choices), dtype=torch.bool)
            labels = model.outputs_given(circle.flatten(0, 1)[None], choices[None], sees)[0].unflatten(0, (3, 2))
            odds = general_preference(labels[:, 0], labels[:, 1])
            if planes:
                torch.testing.assert_close(odds, torch.full((3,), expected, dtype=torch.float64))
            assert planes or odds.sum().abs() < 1e-12


def test_the_gradient_is_a_plain_forwards(model: PersonalModel, tmp_path: Path) -> None:
    """Of every weight: two users of three and one comparisons, answer by answer in transformers, by the formula."""
    users, reader = USERS[:2], dict(model.reader.named_parameters())
    (pack_,) = pack_users(users, 1000)
    ours = general_preference(*model.outputs_given_earlier(pack_).unflatten(0, (-1, 2)).unbind(1))
    trained = dict(model.network.named_parameters())
    found = dict(zip(trained, torch.autograd.grad(logsigmoid(ours).sum(), list(trained.values())), strict=True))

    plain = AutoModelForSequenceClassification.from_pretrained(model.save(tmp_path / "model"), dtype=torch.float64)
    odds = []
    for user in users:
        states = [
            [plain.model(input_ids=torch.tensor([[*t.prompt, *b.tokens]])).last_hidden_state[0, -1] for b in t.branches]
            for t in user.trees
        ]
        for i, pair_ in enumerate(states):
            odds.append(general_preference(*(by_hand(model.reader, plain.score, h, states[:i]) for h in pair_)))
    torch.testing.assert_close(ours, torch.stack(odds))
    weights = {**dict(plain.named_parameters()), **{f"reader.{name}": weight for name, weight in reader.items()}}
    assert weights.keys() == found.keys()
    expected = torch.autograd.grad(logsigmoid(torch.stack(odds)).sum(), list(weights.values()))
    for name, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def by_hand(reader: Reader, head: nn.Module, h: Tensor, choices: list[list[Tensor]]) -> Tensor:
    """The labels of one answer's state (d,) given some choices, without a mask: each sees what it may see."""
    labels: Tensor = head(h)
    if not choices:
        return labels
    pairs, x = [torch.stack(pair) + reader.mark.weight[:2] for pair in choices], (h + reader.mark.weight[2])[None]
    for block in reader.blocks:
        x = seeing(block, x, torch.cat([*pairs, x]))
        pairs = [seeing(block, pair, pair) for pair in pairs]
    likeness = []
    for chosen, rejected in choices:
        a, b = ((reader.alike(h) @ reader.alike(side)) / 4 for side in (chosen, rejected))
        first, second = head(chosen), head(rejected)
        terms = [a - b]
        for i in range(1, len(labels), 2):
            terms += [a * second[i + 1] - b * first[i + 1], b * first[i] - a * second[i]]
        likeness.append(torch.stack(terms))
    return labels + torch.stack(likeness).mean(0) + reader.head(reader.norm(x[0]))


def seeing(block: Any, x: Tensor, seen: Tensor) -> Tensor:
    """A block on states (n, d) that all see the same states (m, d)."""
    q, k, v = (
        block.qkv(block.before_attention(s)).unflatten(-1, (3, block.heads, -1))[:, i]
        for i, s in enumerate((x, seen, seen))
    )
    weights = (torch.einsum("nhc,mhc->hnm", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    x = x + block.out(torch.einsum("hnm,mhc->nhc", weights, v).flatten(1))
    return x + block.down(gelu(block.up(block.before_mlp(x))))


@torch.no_grad()
def test_the_order_of_choices_is_nothing_and_who_won_is_much(model: PersonalModel) -> None:
    states = model.states(Trees.of(USERS[2].trees)).unflatten(0, (-1, 2))
    sees = torch.ones(1, 2, 3, dtype=torch.bool)
    given, asked = states[None, :3], states[None, 3]
    found = model.outputs_given(asked, given, sees)
    torch.testing.assert_close(model.outputs_given(asked, given[:, [2, 0, 1]], sees), found)
    assert (model.outputs_given(asked, given.flip(2), sees) - found).abs().min() > 1e-4
    # Candidates do not see each other: each is labeled as it is by itself, so that scores are rewards.
    one = torch.cat([model.outputs_given(asked[:, [i]], given, sees[:, :1]) for i in range(2)], 1)
    torch.testing.assert_close(one, found)


def test_the_folder_is_a_plain_models_too(model: PersonalModel, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    loaded = load_classifier(str(folder))
    assert type(loaded) is type(model) and isinstance(loaded, PersonalModel)
    (together,) = pack_users(USERS, 1000)
    with torch.no_grad():
        expected = model.outputs_given_earlier(together)
        torch.testing.assert_close(loaded.outputs_given_earlier(together), expected.float(), rtol=1e-4, atol=1e-4)
        plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
        tokens = torch.tensor([[*TREES[0].prompt, *TREES[0].branches[0].tokens]])
        labels = model.outputs(pack(TREES[:1], 100)[0])[0]
        hidden = plain.model(input_ids=tokens).last_hidden_state[0, -1]
        torch.testing.assert_close(plain.score(hidden), labels)


def test_what_is_no_reader_or_lacks_one(model: PersonalModel, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    (folder / SUMS).unlink()
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if name != "reader.head.weight"}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks the weight reader.head.weight of its reader: copy it anew"):
        load_classifier(str(folder))
    config = json.loads((folder / "config.json").read_text())
    del config["choices_reader"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_classifier(str(folder))) is (Scorer if isinstance(model, PersonalScorer) else PreferenceNetwork)
