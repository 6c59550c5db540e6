"""The preference model through the real engine: a cycle to its exact probabilities, ties, and its command line."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from accord.engine.classifiers import Classifier, PreferenceNetwork, Scorer
from accord.engine.load import load_preference_model
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.feedback.learned import LearnedJudge
from accord.feedback.named import judge_named
from accord.methods import PreferenceModel, RewardModel
from accord.objectives.preference import general_preference
from accord.records import Comparison, Ranking
from examples.worlds.enumerable import Enumerable
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl
from tests.engine.tiny import CONFIGS, policy_of, random_model
from tests.methods.enumerated import mean_of, minimize
from tests.objectives.worlds import CYCLIC, vector

WORLD = Enumerable(vocabulary=4, length=1)
COMPLETIONS = [(1,), (2,), (3,)]


def compared(*pairs: tuple[int, int, int], ranks: tuple[int, int] = (0, 1)) -> list[Tree]:
    """A tree for each of so many comparisons of two of the three completions, the first of them preferred."""
    return [
        Tree(WORLD.prompt, (Branch(COMPLETIONS[i]), Branch(COMPLETIONS[j])), ranks=ranks)
        for i, j, times in pairs
        for _ in range(times)
    ]


CIRCLE = Trees.of(compared((0, 1, 9), (1, 0, 1), (1, 2, 8), (2, 1, 2), (2, 0, 8), (0, 2, 2)))
"""Ten comparisons of every pair, won as often as CYCLIC says."""


def labels_of(model: Classifier) -> Tensor:
    """What the model's head says of the three completions, as branches of one tree."""
    with torch.no_grad():
        return model.outputs(Trees.of([Tree(WORLD.prompt, tuple(map(Branch, COMPLETIONS)))]))


def chances(model: Classifier) -> Tensor:
    """P(i beats j), (3, 3), from one forward pass of one tree."""
    labels = labels_of(model)
    return torch.sigmoid(general_preference(labels[:, None], labels))


def comparer(planes: int = 1) -> PreferenceNetwork:
    return PreferenceNetwork.on(policy_of(WORLD.new_model(1)), planes)


@pytest.mark.parametrize("planes", [1, 3])
def test_it_reaches_the_probabilities_of_a_cycle(planes: int) -> None:
    # The least loss is the entropy of the labels, reached only at their frequencies.
    model = comparer(planes)
    least = minimize(model.network, mean_of(PreferenceModel(planes=planes).objective(model), CIRCLE))
    entropy = (torch.special.entr(vector(0.9, 0.1)) + 2 * torch.special.entr(vector(0.8, 0.2))).sum() / 3
    assert least == pytest.approx(float(entropy), abs=1e-8) == pytest.approx(0.441962607, abs=1e-8)
    torch.testing.assert_close(chances(model), CYCLIC, rtol=0, atol=1e-3)


def test_no_reward_model_comes_near_it() -> None:
    # Scores give gaps a, b, c around the circle with a + b + c = 0. The loss, convex in them, is least where its slopes
    # agree: sigmoid(a) - .9 = sigmoid(b) - .8 = sigmoid(c) - .8, so b = c = log x and a = -2 log x, where
    # 1 / (1 + x^2) - x / (1 + x) = .1, or 11 x^3 + x^2 + x - 9 = 0.
    model = Scorer.on(policy_of(WORLD.new_model(1)))
    least = minimize(model.network, mean_of(RewardModel().objective(model), CIRCLE))
    x = 0.8746512925
    assert 11 * x**3 + x**2 + x - 9 == pytest.approx(0, abs=1e-8)
    scores = labels_of(model).squeeze(1)
    assert (scores - scores.roll(-1)).tolist() == pytest.approx([-2 * log(x), log(x), log(x)], abs=1e-3)
    gaps, wins = vector(-2 * log(x), log(x), log(x)), vector(0.9, 0.8, 0.8)
    optimum = torch.nn.functional.binary_cross_entropy_with_logits(gaps, wins)
    assert least == pytest.approx(float(optimum), abs=1e-8)
    assert least == pytest.approx(0.688692814, abs=1e-8)  # a coin's is .693147, the preference model's .441963


def test_ties_are_even_odds_and_count_half_beside_wins() -> None:
    # 0 and 1 only tie: 1/2. 1 beats 2 in three of four: 3/4. 0 beats 2 once and ties once: (1 + 1/2) / 2 = 3/4.
    model = comparer()
    ties = compared((0, 1, 4), (0, 2, 1), ranks=(0, 0))
    trees = Trees.of([*ties, *compared((1, 2, 3), (2, 1, 1), (0, 2, 1))])
    minimize(model.network, mean_of(PreferenceModel(planes=1).objective(model), trees))
    expected = torch.stack([vector(0.5, 0.5, 0.75), vector(0.5, 0.5, 0.75), vector(0.25, 0.25, 0.5)])
    torch.testing.assert_close(chances(model), expected, rtol=0, atol=1e-3)


def test_a_ranking_s_loss_is_the_mean_over_all_its_pairs_and_its_measures_are_of_the_strict_ones() -> None:
    model = comparer(2)
    branches = tuple(map(Branch, COMPLETIONS))
    values, measures = PreferenceModel().objective(model)(Trees.of([Tree(WORLD.prompt, branches, ranks=(1, 0, 1))]))
    p = chances(model)
    expected = -(p[1, 0].log() + p[1, 2].log() + 0.5 * (p[0, 2].log() + p[2, 0].log())) / 3
    assert values.tolist() == pytest.approx([float(expected)], abs=1e-12)
    assert measures["margin"].tolist() == pytest.approx([float(p[1, j].logit()) for j in (0, 2)], abs=1e-9)
    assert measures["accuracy"].tolist() == [float(p[1, j] > 0.5) for j in (0, 2)]


def test_the_gradient_through_the_engine_is_that_of_finite_differences() -> None:
    model = PreferenceNetwork.on(policy_of(random_model(CONFIGS["gpt2"]())), 2)  # float64 throughout
    loss = mean_of(PreferenceModel().objective(model), CIRCLE)
    weights = list(model.network.parameters())
    generator = torch.Generator().manual_seed(0)
    way = [torch.randn(w.shape, dtype=torch.float64, generator=generator) for w in weights]
    slope = sum(float((g * d).sum()) for g, d in zip(torch.autograd.grad(loss(), weights), way, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for w, d in zip(weights, way, strict=True):
                w.add_(d, alpha=step)
            value = float(loss())
            for w, d in zip(weights, way, strict=True):
                w.add_(d, alpha=-step)
        return value

    assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-6)


def test_planes_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="planes must be at least 1, not 0; without any it is `accord reward`."):
        PreferenceModel(planes=0)


# The command line

ROWS = [
    Ranking("hi", ("good", "bad"), (0, 1)),
    Ranking("bye", ("hi", "day"), (0, 0)),
    Ranking("day", ("good bye", "hello", "bad"), (0, 1, 1)),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a preference model fitted to a few rankings with ties."""
    folder = tmp_path_factory.mktemp("home")
    base, data = save_model(folder / "base"), write_jsonl(folder / "rows.jsonl", ROWS)
    options = ("--model", base, "--data", data, "--planes", "2", "--learning-rate", "1e-2")
    assert accord("preference", *options, "--out", folder / "run", *QUICK) == 0
    return folder


def test_its_run_leaves_a_classifier_that_transformers_reads(home: Path) -> None:
    rows = read_jsonl(home / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all({"loss", "accuracy", "margin"} <= row.keys() and 0 <= row["accuracy"] <= 1 for row in rows)
    plain = AutoModelForSequenceClassification.from_pretrained(home / "run" / "model").eval()
    tokens = torch.tensor([[6, 8, 2]])
    with torch.no_grad():
        ours = load_preference_model(str(home / "run" / "model")).network(input_ids=tokens).logits
        torch.testing.assert_close(plain(input_ids=tokens).logits, ours, rtol=0, atol=1e-5)
    assert ours.shape == (1, 5)


def test_a_finished_run_gives_its_model_again(home: Path) -> None:
    method = PreferenceModel(planes=2, learning_rate=1e-2, batch_size=2, max_steps=2, dtype="float32")
    again = method.fit(str(home / "base"), str(home / "rows.jsonl"), out=home / "run", resume=True)
    saved = load_preference_model(str(home / "run" / "model"))
    assert type(again.model) is PreferenceNetwork
    for mine, theirs in zip(again.model.network.parameters(), saved.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_labels_and_is_measured_by_its_own_labels(home: Path, tmp_path: Path) -> None:
    model = home / "run" / "model"
    rows = [{"prompt": p, "completion": c} for p in ("hi", "bye") for c in ("good day", "bad", "hello", "bye bye")]
    data, labels = write_jsonl(tmp_path / "samples.jsonl", rows), tmp_path / "labels.jsonl"
    assert accord("label", "--data", data, "--out", labels, "--judge", model) == 0
    found = read_jsonl(labels)
    asked = [Comparison(row["prompt"], row["chosen"], row["rejected"]) for row in found]
    verdicts = LearnedJudge(load_preference_model(str(model)))(asked)
    assert len(found) == 12 and all(v.first_wins is not None and v.first_wins > 0.5 for v in verdicts)
    assert [v.first_wins for v in judge_named(str(model))(asked)] == [v.first_wins for v in verdicts]
    options = ("--data", labels, "--out", tmp_path, "--reward", model, "--dtype", "float32")
    assert accord("evaluate", "comparisons", *options) == 0
    measured = json.loads((tmp_path / "evaluation.json").read_text())
    assert (measured["name"], measured["accuracy"]["estimate"], measured["ties"]) == ("preference model", 1.0, 0)


def test_it_judges_models_without_scoring_them(home: Path, tmp_path: Path) -> None:
    # The same model with the same seed says the same, and a completion against itself is a tie.
    models = ("--models.one", home / "base", "--models.twin", home / "base", "--against", "one")
    options = ("--judge", home / "run" / "model", "--max-new-tokens", "4", "--dtype", "float32")
    assert accord("evaluate", "models", "--data", home / "rows.jsonl", "--out", tmp_path, *models, *options) == 0
    one, twin = json.loads((tmp_path / "evaluation.json").read_text())["models"]
    assert one["scores"] == twin["scores"] == {}
    assert (one["win_rate"], twin["win_rate"]["estimate"], twin["win_rate"]["ties"]) == (None, 0.5, 3)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("preference", ("--planes", "0"), "planes must be at least 1"),
        ("ppo", ("--reward", "MODEL", "--max-new-tokens", "4"), "is a preference model, which compares"),
    ],
)
def test_what_it_cannot_do(
    command: str,
    options: tuple[str, ...],
    message: str,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(home / "run" / "model") if o == "MODEL" else o for o in options]
    common = ("--model", home / "base", "--data", home / "rows.jsonl", "--out", tmp_path / "out")
    assert accord(command, *common, *given) == 2
    error = capsys.readouterr().err
    assert message in error and not (tmp_path / "out").exists()
