"""Runs on several ranks: which settings they do not support yet, and the run's folder, written by one rank alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord import engine
from accord.console import status
from accord.engine.config import TrainingConfig
from accord.errors import InputError, LeftOut
from accord.train.inputs import redacted
from accord.train.options import RunOptions
from accord.train.run import Run

if TYPE_CHECKING:
    from torch import nn

    from accord.engine import Model

HOLDS_LESS = "more ranks hold less each, as do --optimizer-states 8bit and --weight-dtype bfloat16"
ALONE = {
    "offload_optimizer": HOLDS_LESS,
    "offload_reference": HOLDS_LESS,
}
"""Settings that are not supported on several ranks yet, and the alternative."""


def require_alone(method: TrainingConfig, options: RunOptions) -> None:
    """Raise InputError where there are several ranks and the method or a setting does not support them yet, or where
    this process is one of several that it has not joined: each would train by itself."""
    if engine.Team.here().size == 1:
        if (size := engine.torchrun.asked_size()) > 1:
            raise InputError(
                f"this process was started as one of {size} ranks, and has not joined them: train within "
                "accord.engine.team.joined(), or unset WORLD_SIZE for a run by itself."
            )
        return
    if not getattr(method, "on_ranks", False):
        command = getattr(method, "command", "") or type(method).__name__
        raise InputError(f"{command} does not train on several ranks yet: start it without torchrun.")
    for settings in (method, options):
        for field in fields(settings):
            if field.name in ALONE and getattr(settings, field.name) != field.default:
                raise InputError(
                    f"{field.name} is not supported on several ranks yet: start without torchrun, or leave it out; "
                    f"{ALONE[field.name]}."
                )


def require_one_precision(model: Model) -> None:
    """Raise InputError, on every rank, where ranks would compute in different precisions, since `auto` depends on the
    processor: they could not gather each other's weights."""
    first, *others = (str(dtype).removeprefix("torch.") for dtype in engine.Team.here().all_gather(model.dtype))
    for rank, other in enumerate(others, start=1):
        if other != first:
            raise InputError(
                f"dtype auto is {first} on rank 0 and {other} on rank {rank}, whose processors differ: give all ranks "
                "--dtype float32, or bfloat16."
            )


def report_unsharded(network: nn.Module) -> None:
    """Print what every rank holds whole instead of sharing it, where there are several: a quantized base."""
    layers = engine.quantize.few_bits(network)
    if layers and engine.Team.here().size > 1:
        size = sum(layer.nbytes for layer in layers) / 1e9
        status(f"every rank holds the whole base in {layers[0].kind}, {size:.2f} GB, and its share of all else.")


def open_run(out: str | Path, settings: Mapping[str, Any], options: RunOptions) -> Run:
    """The run in the folder `out`, on the rank that leads; on other ranks a `Follower`.

    Raises InputError on every rank where the folder cannot be used, or ranks were given different settings.
    """
    team = engine.Team.here()
    team.require_same("the options", {**settings, "out": str(out), "resume": options.resume})
    opened: list[Run] = []

    def open_it() -> tuple[bool, bool]:
        opened.append(Run(out, settings, resume=options.resume, track=options.track, name=options.run_name))
        return opened[0].finished, opened[0].resumed

    finished, resumed = team.lead(open_it)
    return opened[0] if opened else Follower(out, settings, finished=finished, resumed=resumed)


class Follower(Run):
    """A run on a rank that does not lead: it is told the leading rank's decisions and writes nothing."""

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], *, finished: bool, resumed: bool) -> None:
        self.folder, self.stopping, self.resumed = Path(folder), None, resumed
        self.settings = redacted(json.loads(json.dumps(settings, default=str)))
        self._was_finished = finished

    @property
    def finished(self) -> bool:
        return self._was_finished

    def leave_out(self, left_out: LeftOut, most: float, data: str = "") -> None:
        left_out.require_few(most)

    def compose(self, rows: list[dict[str, Any]]) -> None:
        pass

    def expect(self, total: int) -> None:
        self.total = total

    def sample(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        pass

    def print(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass
