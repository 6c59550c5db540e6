"""The base class of all methods, and what they share: loading models, checking rows, and maximum likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from accord import data, engine, objectives
from accord.engine.config import TrainingConfig
from accord.errors import InputError, LeftOut, row_called
from accord.records import Demonstration, Labeled, Preference, Prompt, Row
from accord.train.loop import Result
from accord.train.options import RunOptions, named

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.load import Source
    from accord.engine import Measures, Objective, Policy, Trees

Per = Literal["tree", "branch", "token"]
"""The element that a loss has one value for."""


class Method(ABC):
    """A method's settings, and `fit`, which trains with them."""

    command: ClassVar[str]
    options: ClassVar[type[RunOptions]]
    """The further options of `fit`."""
    on_ranks: ClassVar[bool] = False
    """Whether it runs on several ranks; tests compare the results with those of one process."""

    @abstractmethod
    def fit(self, model: Policy | str | Path, data: Source, *more: Any, **options: Any) -> Result:
        """Train on the rows and leave a finished run in the folder `out`.

        Args:
            model: a folder, a name on the Hugging Face Hub, or smollm2; in Python also a loaded model.
            data: a file or a name on the Hugging Face Hub, or several, each with :WEIGHT for a mix; in Python also a
                `datasets.Dataset`, a list of rows, or a mapping of files to weights.
            out: the run's folder: a new one, or with --resume that of the run to continue.
            on_step: in Python, called after every step with its number, from 1, and its `StepResult`.
            options: the fields of the method's `options` (`accord.train.options`).

        Raises:
            InputError: the data, a model, what scores samples, an option or the folder cannot be used.
            TrainingStopped: a loss, a reward or the watched measure was not finite, or there was nothing to learn from.
        """


def maximum_likelihood(model: Policy, temperature: float = 1.0) -> Objective:
    """The maximum-likelihood loss: -log pi of every trained token, (N,)."""

    def loss(trees: Trees) -> tuple[Tensor, Measures]:
        return objectives.policy.negative_log_likelihood(model.log_probs(trees, temperature)), {}

    return loss


def as_policy(model: Policy | str | Path, config: TrainingConfig, *, trained: bool = True) -> Policy:
    """The language model given to `fit`, by name or loaded, with the configured precision and chat template.

    Raises InputError where it is to be trained but its quantization does not allow that.
    """
    settings = config if trained else None
    loaded = model if isinstance(model, engine.Policy) else None
    loaded = loaded or engine.load.load_model(str(model), trained=settings, in_shares=True)
    if trained:
        engine.kinds.check_trainable(loaded.name, loaded.network.config, config.lora_rank)
    return config.templated(loaded.in_dtype(config.dtype))


def reference_for(policy: Policy, config: Any) -> Policy:
    """The frozen reference that a method's settings name, in the policy's precision; by default a copy of the policy.

    Raises InputError where its vocabulary differs from the policy's.
    """
    name = config.reference
    if name is None:
        return engine.offload.reference_copy(policy, config)
    reference = engine.load.load_model(name, in_shares=True)
    if not policy.same_vocabulary(reference):
        raise InputError(f"{policy.name} and --reference {name} have different vocabularies; choose another reference.")
    reference.dtype = policy.dtype
    return engine.offload.reference_copy(reference, config)


def of_kind(
    source: Source,
    split: str,
    kinds: tuple[type, ...],
    command: str,
    left_out: LeftOut | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows of a source. Raises InputError, naming the row and the command, where one is of another kind than
    these."""
    rows = data.load_data(source, split=split, columns=columns, left_out=left_out)
    for i, row in enumerate(rows):
        require_kind(
            row, kinds, command, f"{named(source)}, {row_called(i if left_out is None else left_out.index(i))}"
        )
    return rows


def require_kind(row: Row, kinds: tuple[type, ...], command: str, where: str) -> None:
    """Raise InputError where a row is not of the kinds that a command reads."""
    if not isinstance(row, kinds):
        wanted = " or ".join(f"{_called(kind)}s" for kind in kinds)
        why = _unnamed(row, kinds) if isinstance(row, Prompt) else ""
        if isinstance(row, Demonstration) and Labeled in kinds:
            why = "it has no 'label', or one without a value: give it one, or leave the row out"
        raise InputError(
            f"{where}: `{command}` learns from {wanted}, and this is a {_called(type(row))}{f'; {why}' if why else ''}."
        )


def _called(kind: type) -> str:
    return "labeled completion" if kind is Labeled else kind.__name__.lower()


def _unnamed(row: Prompt, kinds: tuple[type, ...]) -> str:
    """Advice where a prompt's other columns may hold answers under unknown names; "" where there are none."""
    texts = [str(name) for name, value in row.columns.items() if isinstance(value, str) and value.strip()]
    if why := data.verdicts.missing_verdict(row.columns):
        return why
    if len(texts) > 1 and Preference in kinds and Demonstration not in kinds:
        return f"where its answers are in other columns, name them by --columns chosen={texts[0]},rejected={texts[1]}"
    if texts and Demonstration in kinds:
        return f"where its answer is in another column, name it by --columns completion={texts[0]}"
    return ""
