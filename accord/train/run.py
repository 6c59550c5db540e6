"""A run's folder: what was asked, every step as it happened, samples, checkpoints, the model, the report.

config.yaml         every setting, resolved
metrics.jsonl       a row a step
left_out.jsonl      rows that were not trained on, and why
samples.jsonl       prompts and completions as training went on
alarms.jsonl        what was wrong with the numbers, as it was seen
environment.json    versions, seed, command, git commit
checkpoints/        to go on from
model/              the result, in Hugging Face format, and its card
best/, best.json    the model that was best on rows held out, or by an independent measure, where there are such
tensorboard/        the same numbers for TensorBoard
tracking.json       by what the services that track the run know it
report.html         all of it for people
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from accord import engine
from accord.errors import InputError, LeftOut, RowNumber
from accord.files import write_rows, write_text
from accord.train.alarms import Alarms, chosen
from accord.train.track import DEFAULT, Tracking, services

if TYPE_CHECKING:
    import torch

PACKAGES = ("accord", "torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy")
MAY_CHANGE = {"tokens_per_pass", "activation_checkpointing", "return_freed_memory", "offload_reference"}
"""Settings that need less memory and change no number but by rounding: a run may go on with others."""
SHOWN = ("loss", "eval_loss", "accuracy", "eval_accuracy", "reward", "kl", "eval_teacher_kl")


class Run:
    """One run and its folder.

    `stopping` says why the run ends before its last step, once something does end it: an alarm that `stop_when` names,
    or what is measured on rows held out.

    Raises InputError where the folder holds another run, or, resuming, one with other settings; or no alarm is called
    so.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        track: str = DEFAULT,
        name: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.name = name or self.folder.resolve().name
        self.console = Console(stderr=True)
        settings = json.loads(json.dumps(settings, default=str))
        config = self.folder / "config.yaml"
        self.resumed = resume and config.exists()
        if self.resumed:
            _same(config, settings)
        elif self.folder.exists() and any(self.folder.iterdir()):
            remedy = "another run; choose another --out, or go on with that run by --resume"
            raise InputError(
                f"{self.folder} holds {remedy if config.exists() else 'other files; choose another --out'}."
            )
        self.settings = settings
        self.stop_when = chosen(settings.get("stop_when"))
        self.stopping: str | None = None
        self._left_out: list[dict[str, Any]] = []
        self._taken: list[str] = []
        self._held_out: dict[str, float] = {}
        self._open = ExitStack()
        self._tracking = Tracking(services(track), self.print)

    @property
    def save_dtype(self) -> torch.dtype | None:
        """What weights are saved in, where that is not what they are held in."""
        return engine.precision.DTYPES.get(self.settings.get("save_dtype", ""))

    @property
    def finished(self) -> bool:
        """Whether an earlier session brought the run to its end."""
        return (self.folder / "model").is_dir()

    def leave_out(self, left_out: LeftOut, most: float, data: str = "") -> None:
        """Say which rows are left out, and keep the list; InputError where more than a share of `most` are bad.

        `data` is what other rows than those trained on are called.
        """
        left_out.require_few(most)
        for line in (*left_out.taken, *left_out.lines()):
            self.print(f"{data}: {line}" if data else line)
        self._taken += [f"{data}: {line}" if data else line for line in left_out.taken]
        of = {"data": data} if data else {}
        for r in left_out.reasons:
            row = str(r.row) if isinstance(r.row, RowNumber) else r.row
            self._left_out.append({"row": row, "why": r.why, **of})

    def begin(self, step: int, total: int) -> None:
        """Open the folder for steps after `step`, dropping rows that an earlier session wrote past its checkpoint."""
        before = read_metrics(self.folder)
        self._tracking.begin(self.folder, self.name, self.settings, step, int(before[-1]["step"]) if before else -1)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.resumed:
            write_text(self.folder / "config.yaml", yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True))
        taken = {"rows": "; ".join(self._taken)} if self._taken else {}
        write_text(self.folder / "environment.json", json.dumps(environment(self.settings) | taken, indent=1))
        if self._left_out:
            write_rows(self.folder / "left_out.jsonl", self._left_out)
        self._files = {}
        for name in ("metrics", "samples", "alarms"):
            _keep_until(file := self.folder / f"{name}.jsonl", step)
            self._files[name] = self._open.enter_context(file.open("a", encoding="utf-8"))
        self._alarms = Alarms()
        for row in (kept := read_metrics(self.folder)):
            self._alarms.see(row)
        self._tracking.keep(self.folder, kept)
        self._clock = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"))
        progress = Progress(*columns, *left, console=self.console, disable=not self.console.is_terminal)
        self._task = progress.add_task(str(self.settings.get("command", "run")), completed=step, numbers="")
        self._progress = self._open.enter_context(progress)
        self.expect(total)

    def expect(self, total: int) -> None:
        """There will be so many steps, as far as is known by now."""
        self._every, self.total = max(1, total // 10), total
        self._progress.update(self._task, total=total)

    def log(self, step: int, row: Mapping[str, float], tokens: int) -> None:
        """Write the row of a step, counted from 1, with its seconds and tokens a second, or of 0, before the first."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        timed = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
        full = {"step": step, **row, **(timed if step else {})}
        self._write("metrics", full)
        self._tracking.log(step, full)
        self._held_out |= {name: value for name, value in row.items() if name.startswith("eval_")}
        shown = {**self._held_out, **row}
        numbers = "  ".join(f"{name} {shown[name]:.3f}" for name in SHOWN if name in shown)
        numbers += f"  {tokens / seconds:,.0f} tokens/s" if step else ""
        self._progress.update(self._task, completed=step, numbers=numbers)
        if not self.console.is_terminal and (step % self._every == 0 or step == self.total):
            left, title = seconds * (self.total - step), self._progress.tasks[0].description
            self.print(f"{title} {step}/{self.total}  {numbers}" + (f"  ~{left:.0f} s left" if step else ""))
        for alarm in self._alarms.see(full):
            if alarm.name in self.stop_when and self.stopping is None:
                self.stopping = f"The alarm {alarm.name} ended the run, as --stop-when asks."
            self._write("alarms", alarm.as_row())
            self._tracking.alarm(alarm.step, alarm.name, f"{alarm.saw}. To try: {alarm.advice}.")
            self.print(f"step {alarm.step}, {alarm.name}: {alarm.saw}. To try: {alarm.advice}.")

    def sample(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append samples taken at a step."""
        self._write("samples", *({"step": step, **row} for row in rows))

    def _write(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Append rows to one of the folder's files."""
        self._files[name].writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._files[name].flush()

    def print(self, line: str) -> None:
        """One line for the person watching."""
        self.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """End the progress bar and close the files."""
        self._open.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._tracking.close("finished" if kind is None else "interrupted" if interrupted else "failed")


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, without a last line that a kill cut short."""
    file = Path(folder) / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def environment(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader needs to repeat the run: versions, seed, command line, git commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "versions": versions,
        "seed": settings.get("seed"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _commit(),
    }


def _commit() -> str | None:
    """The commit of the working folder's git repository, where there are such."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return git.stdout.strip() if git.returncode == 0 else None


def _same(config: Path, settings: Mapping[str, Any]) -> None:
    before = yaml.safe_load(config.read_text(encoding="utf-8"))
    for key in sorted({**before, **settings}.keys() - MAY_CHANGE):
        if before.get(key) != settings.get(key):
            remedy = "resume it with the same settings, or choose another --out"
            if key in ("epochs", "max_steps") and (config.parent / "model").is_dir():
                remedy = f"it is finished: train on from --model {config.parent / 'model'} in another --out"
            raise InputError(
                f"{config.parent} was run with {key} = {before.get(key)}, not {settings.get(key)}; {remedy}."
            )


def _keep_until(file: Path, step: int) -> None:
    """Drop rows of later steps, and a last line cut short by a kill."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    write_text(file, "".join(kept))
