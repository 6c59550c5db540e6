"""Models that read whose preference it is: what a user chose before, and what was rejected for it.

A reward model: h is the hidden state (d,) at which an ordinary one, r, reads an answer,

    r(x, y | choices) = r(h) + mean over the choices of (A h) . A(h_i chosen - h_i rejected) / sqrt(d)  + t(h, choices)

and a preference model of two answers, which has L = 1 + 2k labels l(h) = W h, a score s and points (a, b) in k planes:

    log-odds(y_1 beats y_2 | x, choices) = s_1 - s_2 + sum over the planes j of (a_1j b_2j - b_1j a_2j)
    l(x, y | choices) = l(h) + t(h, choices)  + mean over the choices of
                        ((A h) . (A h_i chosen) g(l_i rejected) - (A h) . (A h_i rejected) g(l_i chosen)) / sqrt(d)
    g(s, a_1, b_1, ...) = (1, b_1, -a_1, ...)

Every answer is read by itself, once, and serves as a choice and as a candidate alike. The mean is what one step
of fitting the head to the choices adds, whose gradient of a choice's log-odds is g, with a learned A for what answers
are compared in: from it the trunk learns what users differ in also where their tastes cancel out, and the head has
nothing to learn. With a score alone g is 1, and the two are one. t, a small transformer over the states, makes
it exact. Neither has positions, so the order of the choices cannot matter, and a candidate sees the choices and itself
alone, so that a score is a reward, and log-odds turn their sign where two answers change places. Without choices both
are 0. The folder of such a model is an ordinary reward or preference model's, which others read as without choices; the
reader's weights are beside the head's in its files.
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
from accord.engine.shard import reads_whole
from accord.engine.team import Team
from accord.engine.trees import Tree, Trees, shared
from accord.errors import InputError

CONFIG, WEIGHTS = "choices_reader", "reader."
"""What the configuration has of the reader, its layers and heads, and how the names of its weights begin."""

CHOSEN, REJECTED, CANDIDATE = range(3)


@dataclass(frozen=True, slots=True)
class UserTrees:
    """The pairs of one user, each a tree of a chosen and a rejected branch."""

    trees: tuple[Tree, ...]

    @property
    def row(self) -> int:
        """The row of the data that the first is from."""
        return self.trees[0].row

    @property
    def size(self) -> int:
        """Tokens the engine computes for them."""
        return sum(tree.size for tree in self.trees)


@dataclass(frozen=True)
class Choices(Trees):
    """Packed pairs of users, user after user; `counts` has how many are each one's, (U,)."""

    counts: tuple[int, ...] = ()

    @property
    def firsts(self) -> Tensor:
        """The first tree of every user, (U,)."""
        counts = torch.tensor(self.counts, device=self.group.device)
        return counts.cumsum(0) - counts


def pack_users(users: Sequence[UserTrees], budget: int, device: torch.device | str = "cpu") -> list[Choices]:
    """As `pack`, but what is one user's stays together."""
    packs = []
    for held in shared([user.size for user in users], budget, Team.here().size):
        trees = Trees.of([tree for i in held for tree in users[i].trees], device)
        flat = {field.name: getattr(trees, field.name) for field in fields(Trees)}
        packs.append(Choices(**flat, counts=tuple(len(users[i].trees) for i in held)))
    return packs


class Block(nn.Module):
    """Attention and a two-layer network, each on the normed state and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """States (U, L, d), each of which sees those that are allowed, (U, 1, L, L)."""
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (U, heads, L, d / heads)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class Reader(nn.Module):
    """What the choices of a user add to the labels of a candidate."""

    def __init__(self, width: int, labels: int, layers: int, heads: int) -> None:
        super().__init__()
        self.mark = nn.Embedding(3, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, labels, bias=False)
        nn.init.zeros_(self.head.weight)
        self.alike = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.alike.weight, std=width**-0.5)

    def forward(self, choices: Tensor, pulls: Tensor, candidates: Tensor, sees: Tensor) -> Tensor:
        """What is added to candidates (U, n, d) given choices (U, m, 2, d), chosen and rejected each, (U, n, L).

        `pulls` (U, m, 2, L) is the gradient of each choice's log-odds by the labels of its two answers, and `sees` (U,
        n, m) says which choices each candidate is given.
        """
        m, n, mark = choices.shape[1], candidates.shape[1], self.mark.weight
        x = torch.cat([(choices + mark[[CHOSEN, REJECTED]]).flatten(1, 2), candidates + mark[CANDIDATE]], 1)
        pairs = torch.eye(m, dtype=torch.bool, device=x.device).repeat_interleave(2, 0).repeat_interleave(2, 1)
        alone = torch.eye(n, dtype=torch.bool, device=x.device)
        of_choices = torch.cat([pairs, pairs.new_zeros(2 * m, n)], 1)  # each sees the two answers of its own
        of_candidates = torch.cat([sees.repeat_interleave(2, 2), alone.expand(len(sees), n, n)], 2)
        allowed = torch.cat([of_choices.expand(len(sees), 2 * m, 2 * m + n), of_candidates], 1)[:, None]
        for block in self.blocks:
            x = block(x, allowed)
        added: Tensor = self.head(self.norm(x[:, 2 * m :]))
        moved = self.alike((pulls[..., None] * choices[..., None, :]).sum(2)).flatten(1, 2)  # (U, m L, d)
        kernel = self.alike(candidates) @ moved.transpose(1, 2) / x.shape[-1] ** 0.5
        each = kernel.unflatten(2, (m, pulls.shape[-1])) * sees[..., None]  # (U, n, m, L)
        likeness = each.sum(2) / sees.sum(2, keepdim=True).clamp(min=1)
        return (added + likeness) * sees.any(2, keepdim=True)


class PersonalModel(Classifier):
    """A classifier with a reader: its `outputs` are those without choices."""

    @property
    def reader(self) -> Reader:
        """What reads choices."""
        return self.network.reader  # type: ignore[return-value]

    def outputs_given(self, candidates: Tensor, choices: Tensor, sees: Tensor) -> Tensor:
        """The labels of candidates (U, n, d) given choices (U, m, 2, d) of their user, (U, n, L); `sees` as `Reader`'s.

        Computed in the precision of the weights, as labels are compared by their small differences.
        """
        with torch.autocast(candidates.device.type, enabled=False):
            head: nn.Module = self.network.score  # type: ignore[assignment]
            alone: Tensor = head(candidates)
            return alone + self.reader(choices, pulls(head(choices)), candidates, sees)

    @reads_whole
    def outputs_given_earlier(self, pack: Choices) -> Tensor:
        """The labels of every branch given the pairs of its user that stand before its own, (C, L): one pass, every k.

        Pairs of one row, which are of one ranking, are not given each other: they share their answers.
        """
        states = self.states(pack)
        each = states.unflatten(0, (-1, 2)).split(list(pack.counts))
        padded = pad_sequence(list(each), batch_first=True)  # (U, m, 2, d): what stands after a pair is never seen
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


def pulls(labels: Tensor) -> Tensor:
    """The gradient of the log-odds of pairs by the labels of both, (..., 2, L) -> (..., 2, L): (1, b_2, -a_2, ...) for
    the first and -(1, b_1, -a_1, ...) for the second."""
    other = labels.flip(-2)
    turned = torch.stack([other[..., 2::2], -other[..., 1::2]], -1).flatten(-2)
    both = torch.cat([torch.ones_like(other[..., :1]), turned], -1)
    return both * both.new_tensor([1.0, -1.0])[:, None]


def reading(model: Model, layers: int, planes: int = 0, seed: int = 0) -> PersonalModel:
    """A model that reads choices on the trunk of another, with a new head and a new reader.

    Without planes it is a reward model, and the head as `Scorer.on` makes it; with planes a preference model, as
    `PreferenceNetwork.on` does.
    Raises InputError where the trunk has adapters: what a folder of adapters holds has no place for a reader.
    """
    if adapted(model.network):
        raise InputError(f"{model.name} has adapters, and a model that reads choices is trained whole.")
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
    """Give the network a reader as its configuration has it, with weights that are drawn."""
    weight: Tensor = network.score.weight  # type: ignore[assignment, union-attr]
    labels, width = weight.shape
    with torch.device("cpu"):
        reader = Reader(width, labels, **getattr(network.config, CONFIG))
    network.reader = reader.to(device=weight.device, dtype=weight.dtype)
    return reader


def read_reader(network: PreTrainedModel, name: str) -> None:
    """Give a network that was read, by name, its reader where its configuration has one and its files hold it.

    Raises InputError where they lack a weight of it.
    """
    if not isinstance(getattr(network.config, CONFIG, None), dict) or not hasattr(network, "score"):
        return
    source = Path(locate(name).name)
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [cached_file(name, "model.safetensors")]
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            own = [key for key in tensors.keys() if key.startswith(WEIGHTS)]  # noqa: SIM118  # no dict, and not iterable
            found |= {key.removeprefix(WEIGHTS): tensors.get_tensor(key) for key in own}
    reader = _attach(network)
    absent = sorted(reader.state_dict().keys() - found.keys())
    if absent:
        raise InputError(f"the model {name} lacks the weight {WEIGHTS}{absent[0]} of its reader: copy it anew.")
    reader.load_state_dict(found)
