"""Personalized reward and preference models, which read what the user chose and rejected before.

Reward model, with h the hidden state (d,) at which the ordinary reward r(h) is read:

    r(x, y | choices) = r(h) + mean over the choices of (A h) . A(h_i chosen - h_i rejected) / sqrt(d)  + t(h, choices)

Preference model of two answers, with L = 1 + 2k labels l(h) = W h: a score s and points (a, b) in k planes:

    log-odds(y_1 beats y_2 | x, choices) = s_1 - s_2 + sum over the planes j of (a_1j b_2j - b_1j a_2j)
    l(x, y | choices) = l(h) + t(h, choices)  + mean over the choices of
                        ((A h) . (A h_i chosen) g(l_i rejected) - (A h) . (A h_i rejected) g(l_i chosen)) / sqrt(d)
    g(s, a_1, b_1, ...) = (1, b_1, -a_1, ...)

Every answer is encoded once, independently, and serves both as a choice and as a candidate. The mean is the change of
the labels after one gradient step of the head on the choices, as g is the gradient of a choice's log-odds, with a
learned A for the features compared: through it the trunk also learns what users differ in where their tastes cancel out
on average and the head alone has nothing to learn. With a score only, g is 1 and the two formulas are one. The term t,
a small transformer over the states, corrects the rest. Neither has positions, so the order of the choices has no
effect, and a candidate attends only to the choices and itself, so that a score is a reward, and log-odds change sign
when two answers are swapped. Without choices both are 0. The folder of such a model is that of an ordinary reward or
preference model, which other software reads as one without choices; the reader's weights are stored beside the head's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.utils import cached_file

from accord.engine.adapters import adapted
from accord.engine.classifiers import Classifier, PreferenceNetwork, Scorer
from accord.engine.folders import locate
from accord.engine.models import Model
from accord.engine.shard import with_gathered_weights
from accord.engine.team import Team
from accord.engine.trees import Tree, Trees, balanced_bins
from accord.errors import InputError

CONFIG, WEIGHTS = "choices_reader", "reader."
"""The key of the reader's layers and heads in the configuration, and the prefix of its weights' names."""

CHOSEN, REJECTED, CANDIDATE = range(3)


@dataclass(frozen=True, slots=True)
class UserTrees:
    """The pairs of one user, each a tree of a chosen and a rejected branch."""

    trees: tuple[Tree, ...]

    @property
    def row(self) -> int:
        """The data row of the first pair."""
        return self.trees[0].row

    @property
    def size(self) -> int:
        """Number of tokens the engine computes for them."""
        return sum(tree.size for tree in self.trees)


@dataclass(frozen=True)
class Choices(Trees):
    """Packed pairs, user after user; `counts` is the number of pairs of each of the U users."""

    counts: tuple[int, ...] = ()

    @property
    def firsts(self) -> Tensor:
        """The index of every user's first tree, (U,)."""
        counts = torch.tensor(self.counts, device=self.group.device)
        return counts.cumsum(0) - counts


def pack_users(users: Sequence[UserTrees], budget: int, device: torch.device | str = "cpu") -> list[Choices]:
    """Like `pack`, with all pairs of a user in the same batch."""
    packs = []
    for indices in balanced_bins([user.size for user in users], budget, Team.here().size):
        trees = Trees.of([tree for i in indices for tree in users[i].trees], device)
        flat = {field.name: getattr(trees, field.name) for field in fields(Trees)}
        packs.append(Choices(**flat, counts=tuple(len(users[i].trees) for i in indices)))
    return packs


class Block(nn.Module):
    """A pre-norm transformer block: attention and a two-layer MLP, each with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """States (U, L, d) -> (U, L, d); `allowed` (U, 1, L, L) is True where a state may attend to another."""
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (U, heads, L, d / heads)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class Reader(nn.Module):
    """What a user's choices add to the labels of a candidate."""

    def __init__(self, width: int, labels: int, layers: int, heads: int) -> None:
        super().__init__()
        self.mark = nn.Embedding(3, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, labels, bias=False)
        nn.init.zeros_(self.head.weight)
        self.alike = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.alike.weight, std=width**-0.5)

    def forward(self, choices: Tensor, gradients: Tensor, candidates: Tensor, sees: Tensor) -> Tensor:
        """The labels added to candidates (U, n, d) given choices (U, m, 2, d), chosen and rejected each: (U, n, L).

        `gradients` (U, m, 2, L) are those of each choice's log-odds by the labels of its two answers; `sees` (U, n, m)
        is True where a candidate is given a choice.
        """
        m, n, mark = choices.shape[1], candidates.shape[1], self.mark.weight
        x = torch.cat([(choices + mark[[CHOSEN, REJECTED]]).flatten(1, 2), candidates + mark[CANDIDATE]], 1)
        pairs = torch.eye(m, dtype=torch.bool, device=x.device).repeat_interleave(2, 0).repeat_interleave(2, 1)
        alone = torch.eye(n, dtype=torch.bool, device=x.device)
        of_choices = torch.cat([pairs, pairs.new_zeros(2 * m, n)], 1)  # an answer sees the two of its own pair
        of_candidates = torch.cat([sees.repeat_interleave(2, 2), alone.expand(len(sees), n, n)], 2)
        allowed = torch.cat([of_choices.expand(len(sees), 2 * m, 2 * m + n), of_candidates], 1)[:, None]
        for block in self.blocks:
            x = block(x, allowed)
        added: Tensor = self.head(self.norm(x[:, 2 * m :]))
        # the module docstring's mean over choices: sum over both answers of gradient (L,) x state (d,), then the kernel
        step = self.alike((gradients[..., None] * choices[..., None, :]).sum(2)).flatten(1, 2)  # (U, m L, d)
        kernel = self.alike(candidates) @ step.transpose(1, 2) / x.shape[-1] ** 0.5
        each = kernel.unflatten(2, (m, gradients.shape[-1])) * sees[..., None]  # (U, n, m, L)
        mean = each.sum(2) / sees.sum(2, keepdim=True).clamp(min=1)
        return (added + mean) * sees.any(2, keepdim=True)


class PersonalModel(Classifier):
    """A classifier with a reader; its plain `outputs` are those without choices."""

    @property
    def reader(self) -> Reader:
        """The module that reads choices."""
        return self.network.reader  # type: ignore[return-value]

    def outputs_given(self, candidates: Tensor, choices: Tensor, sees: Tensor) -> Tensor:
        """The labels of candidates (U, n, d) given their user's choices (U, m, 2, d): (U, n, L); `sees` as in `Reader`.

        Computed in the precision of the weights, as labels are compared by small differences.
        """
        with torch.autocast(candidates.device.type, enabled=False):
            head: nn.Module = self.network.score  # type: ignore[assignment]
            alone: Tensor = head(candidates)
            return alone + self.reader(choices, log_odds_gradient(head(choices)), candidates, sees)

    @with_gathered_weights
    def outputs_given_earlier(self, pack: Choices) -> Tensor:
        """The labels of every branch given its user's earlier pairs, (C, L), for all numbers of choices in one pass.

        Pairs of one data row (one ranking) are not given to each other, as they share answers.
        """
        states = self.states(pack)
        each = states.unflatten(0, (-1, 2)).split(list(pack.counts))
        padded = pad_sequence(list(each), batch_first=True)  # (U, m, 2, d); padding comes last and is never seen
        rows = torch.tensor([tree.row for tree in pack.trees], device=states.device)
        row = pad_sequence(list(rows.split(list(pack.counts))), batch_first=True, padding_value=-1)  # (U, m)
        m = padded.shape[1]
        before = torch.ones(m, m, dtype=torch.bool, device=states.device).tril(-1)
        sees = before & (row[:, :, None] != row[:, None, :])  # (U, m, m)
        labels = self.outputs_given(padded.flatten(1, 2), padded, sees.repeat_interleave(2, 1)).unflatten(1, (m, 2))
        counts = torch.tensor(pack.counts, device=states.device)
        return labels[torch.arange(m, device=states.device) < counts[:, None]].flatten(0, 1)


class PersonalScorer(PersonalModel, Scorer):
    """A reward model with a reader."""


class PersonalPreference(PersonalModel, PreferenceNetwork):
    """A preference model of two answers with a reader."""


def log_odds_gradient(labels: Tensor) -> Tensor:
    """The gradient of a pair's log-odds by the labels of both answers, (..., 2, L) -> (..., 2, L): (1, b_2, -a_2, ...)
    for the first and -(1, b_1, -a_1, ...) for the second."""
    other = labels.flip(-2)
    planes = torch.stack([other[..., 2::2], -other[..., 1::2]], -1).flatten(-2)  # (b_1, -a_1, b_2, -a_2, ...)
    both = torch.cat([torch.ones_like(other[..., :1]), planes], -1)
    return both * both.new_tensor([1.0, -1.0])[:, None]


def with_reader(model: Model, layers: int, planes: int = 0, seed: int = 0) -> PersonalModel:
    """A personalized model on the trunk of another, with a new head and a new reader of `layers` layers.

    Without planes it is a reward model with the head of `Scorer.on`, with planes a preference model with that of
    `PreferenceNetwork.on`.

    Raises InputError where the trunk has adapters: the files of an adapter cannot hold a reader.
    """
    if adapted(model.network):
        raise InputError(f"{model.name} has adapters, and a model that reads choices is trained in full: merge them.")
    plain: Classifier = PreferenceNetwork.on(model, planes, seed) if planes else Scorer.on(model, seed)
    network = plain.network
    config = network.config.get_text_config()
    setattr(network.config, CONFIG, {"layers": layers, "heads": config.num_attention_heads})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _attach(network)
    kind: type[PersonalModel] = PersonalPreference if planes else PersonalScorer
    return kind(network, plain.tokenizer, plain.name, plain.dtype)


def _attach(network: PreTrainedModel) -> Reader:
    """Add the reader that the network's configuration describes, with newly drawn weights."""
    weight: Tensor = network.score.weight  # type: ignore[assignment, union-attr]
    labels, width = weight.shape
    with torch.device("cpu"):
        reader = Reader(width, labels, **getattr(network.config, CONFIG))
    network.reader = reader.to(device=weight.device, dtype=weight.dtype)
    return reader


def read_reader(network: PreTrainedModel, name: str) -> None:
    """Load a network's reader, if its configuration has one, from the files that `name` was read from.

    Raises InputError where a weight of it is missing.
    """
    if not isinstance(getattr(network.config, CONFIG, None), dict) or not hasattr(network, "score"):
        return
    source = Path(locate(name).name)
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [cached_file(name, "model.safetensors")]
    weights: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            own = [key for key in tensors.keys() if key.startswith(WEIGHTS)]  # noqa: SIM118  # not a mapping
            weights |= {key.removeprefix(WEIGHTS): tensors.get_tensor(key) for key in own}
    reader = _attach(network)
    absent = sorted(reader.state_dict().keys() - weights.keys())
    if absent:
        raise InputError(f"the model {name} lacks the weight {WEIGHTS}{absent[0]} of its reader: copy it anew.")
    reader.load_state_dict(weights)
