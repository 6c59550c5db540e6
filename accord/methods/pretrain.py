"""Pretraining: maximum likelihood of plain text, from random weights or from a model's own.

The loss is that of supervised fine-tuning without prompts. Texts end with the end-of-turn token; those longer than
`max_length`, or than the model's context, are cut into pieces, each with the preceding token as its prompt, so that
every token is learned once. The files the text comes from, and their shares, are printed before training.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import data, engine
from accord.errors import InputError, LeftOut
from accord.methods.method import Per, maximum_likelihood
from accord.methods.offline import OfflineMethod
from accord.records import Demonstration, Row, Tokenization
from accord.train.composition import composition
from accord.train.options import StreamOptions

if TYPE_CHECKING:
    from accord.engine import Model, Objective, Policy, Tree
    from accord.train.held_out import RunData
    from accord.train.run import Run


@dataclass(kw_only=True)
class Pretrain(OfflineMethod):
    """Teach a model to continue text."""

    command: ClassVar[str] = "pretrain"
    reads: ClassVar[tuple[type, ...]] = (Demonstration, Tokenization)
    per: ClassVar[Per] = "token"
    options: ClassVar[type[StreamOptions]] = StreamOptions
    on_ranks: ClassVar[bool] = True

    learning_rate: float = 1e-3
    batch_size: int = 64
    """Texts per optimizer step."""
    weight_decay: float = 0.1
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    from_scratch: bool = False
    """Start from new random weights instead of the model's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_scratch and self.lora_rank:
            raise InputError("from_scratch draws new weights, which adapters would leave untrained: leave one out.")
        if self.max_length < 2:
            raise InputError(
                f"max_length must be at least 2, a token and the one that follows it, not {self.max_length}."
            )

    def start(self, policy: Policy) -> Model:
        if not self.from_scratch:
            return policy
        import torch
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = AutoModelForCausalLM.from_config(copy.deepcopy(policy.network.config))
        return policy.with_network(engine.models.prepare_network(network.to(policy.device).eval()))

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        longest = self.max_length if model.context is None else min(self.max_length, model.context)
        trees = [data.encoding.to_tree(model.tokenizer, row, left_out.index(i)) for i, row in enumerate(rows)]
        return [piece for tree in trees for piece in pieces(tree, longest)]

    def announce(self, run: Run, rows: RunData[Row], trees: Sequence[Tree]) -> None:
        """Print the files that the text comes from and their shares, and record them in the run."""
        order = data.Order(len(trees), self.batch_size, self.seed)
        steps = self.max_steps or order.steps(self.epochs)
        run.compose(composition(rows, trees, order.epoch(steps)))

    def objective(self, model: Policy) -> Objective:
        return maximum_likelihood(model)


def pieces(tree: Tree, longest: int) -> list[Tree]:
    """The tree's tokens as trees of at most `longest` tokens, each starting with the last token of the previous one."""
    tokens = tree.prompt + tree.branches[0].tokens
    room = longest - 1
    return [
        engine.Tree(tokens[i : i + 1], (engine.Branch(tokens[i + 1 : i + 1 + room]),), row=tree.row)
        for i in range(0, len(tokens) - 1, room)
    ]
