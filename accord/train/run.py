"""A run's folder: settings, metrics of every step, samples, checkpoints, model and report.

    config.yaml         every resolved setting, the date on which the run began, and settings changed by a resumption
    environment.json    versions, seed, command, git commit
    left_out.jsonl      rows that were not trained on, and why
    composition.jsonl   pretraining only: the source files of the text and their shares
    metrics.jsonl       one row per step
    samples.jsonl       prompts and completions drawn during training
    alarms.jsonl        alarms as they were raised
    checkpoints/        for --resume; deleted at the end
    best/, best.json    the best model by held-out rows or by an independent measure, if either is used
    model/              the result, in Hugging Face format, with its model card
    tensorboard/        the metrics for TensorBoard; tracking.json: the run's identifiers at tracking services
    report.html         the report

model/ marks a finished run, whose settings, rows and best.json must equal their digests in SHA256SUMS.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from accord import engine, report
from accord.console import StepProgress
from accord.dates import as_date, today
from accord.errors import InputError, LeftOut, RowNumber
from accord.files import SUMS, changed, others, real, sync, tidy, write_rows, write_sums, write_text
from accord.locks import alone_in
from accord.outputs import may_overwrite, require_outside
from accord.train.alarms import Alarms, chosen
from accord.train.composition import composition_table
from accord.train.inputs import URL_DIGEST, environment, redacted
from accord.train.resumed import DATE, DIGEST, HISTORY, STEPPED, changes, settings_of
from accord.train.rows import Rows, read_metrics
from accord.train.track import DEFAULT, Tracking, services

if TYPE_CHECKING:
    import torch

LAST_GOOD = "last-good"
"""The folder of the last finite model of a run that stopped itself."""
FILES = (
    "model", "best", "best.json", LAST_GOOD, "checkpoints", "metrics.jsonl", "samples.jsonl", "alarms.jsonl",
    "left_out.jsonl", "composition.jsonl", "round-*.jsonl", "environment.json", "report.html", "tensorboard",
    "tracking.json", "config.yaml",
)  # fmt: skip
"""Everything a run may have in its folder; config.yaml, which identifies it, comes last."""
SEALED = ("config.yaml", "environment.json", "best.json", "*.jsonl")
"""Files of a finished run that must not change any more."""
SHOWN = ("loss", "eval_loss", "accuracy", "eval_accuracy", "reward", "kl", "eval_teacher_kl", "watched")


class Run:
    """One run and its folder.

    `stopping` is None, or the reason why the run ends before its last step: an alarm named by `stop_when`, or
    `patience` on held-out rows.

    Raises InputError where the folder holds another run, or, when resuming, one with other settings, and where
    `stop_when` names an unknown alarm.
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
        self.name = name or real(self.folder).name
        self.console = Console(stderr=True)
        self.rows = Rows(self.folder, self.print)
        self.settings = redacted(json.loads(json.dumps(settings, default=str)))
        self.stop_when = chosen(settings.get("stop_when"))
        self.stopping: str | None = None
        self._left_out: list[dict[str, Any]] = []
        self._taken: list[str] = []
        self._composition: list[dict[str, Any]] = []
        self._measured: dict[str, float] = {}
        self._open = ExitStack()
        self._tracking = Tracking(services(track), self.print)
        with ExitStack() as lock:
            lock.enter_context(alone_in(self.folder))
            self._look(resume)
            self._lock = lock.pop_all()

    def _look(self, resume: bool) -> None:
        """Check that the folder can be used for this run, and clear what a killed process left behind."""
        for name in ("", "checkpoints", "model", "best"):
            tidy(self.folder / name)
        config = self.folder / "config.yaml"
        self.resumed = resume and config.exists()
        self._before = redacted(settings_of(self.folder)) if self.resumed else {}
        self._history = self._before.pop(HISTORY, [])
        self._changed: dict[str, Any] = {}
        if self.resumed:
            self._changed = changes(self.folder, self._before, self.settings)
        elif others(self.folder) and may_overwrite() and config.exists():
            self._clear()
        elif others(self.folder):
            remedy = "another run; choose another --out, or continue that run with --resume"
            raise InputError(
                f"{self.folder} holds {remedy if config.exists() else 'other files; choose another --out'}."
            )

    def _clear(self) -> None:
        """Delete the files of another run in this folder (--overwrite); other files stay."""
        if "command" not in settings_of(self.folder):
            raise InputError(f"{self.folder} holds a config.yaml that is not of a run; choose another --out.")
        require_outside(self.folder, self.settings)
        for pattern in FILES:
            for path in self.folder.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    @property
    def save_dtype(self) -> torch.dtype | None:
        """The dtype to save weights in, where it differs from the one they are held in."""
        return engine.precision.DTYPES.get(self.settings.get("save_dtype", ""))

    @property
    def finished(self) -> bool:
        """Whether an earlier session finished the run."""
        return (self.folder / "model").is_dir()

    @property
    def is_retuned(self) -> bool:
        """Whether a resumed run has other settings that affect its steps (`STEPPED`)."""
        return not self._changed.keys().isdisjoint(STEPPED)

    def record_date(self) -> date:
        """Record in config.yaml the date on which the run began, which is today unless it is resumed; returns it."""
        began = self._before.get(DATE)
        day = today() if began is None else as_date(began, f"the {DATE} in {self.folder}/config.yaml")
        self.settings[DATE] = day.isoformat()
        return day

    def record_digests(self, **digests: str) -> None:
        """Record digests of the run's inputs (model, data ...), by the setting that names each, in its config.yaml.

        Raises InputError where a resumed run began with other content under the same names, or the ranks' digests
        differ.
        """
        team = engine.Team.here()
        team.require_same("the run's inputs", digests)
        team.lead(lambda: self._note(digests))

    def _note(self, digests: Mapping[str, str]) -> None:
        for name, digest in digests.items():
            self.settings[name + DIGEST] = digest
            if self._before.get(name + DIGEST, digest) != digest:
                raise InputError(
                    f"{self.folder} began with other content in {name} ({self.settings.get(name)}): restore it, "
                    "or choose another --out."
                )

    def leave_out(self, left_out: LeftOut, most: float, data: str = "") -> None:
        """Print and keep the rows that are left out; InputError where their share exceeds `most`.

        `data` names the rows in messages where they are not the training rows.
        """
        left_out.require_few(most)
        for line in (*left_out.taken, *left_out.lines()):
            self.print(f"{data}: {line}" if data else line)
        self._taken += [f"{data}: {line}" if data else line for line in left_out.taken]
        of = {"data": data} if data else {}
        for r in left_out.reasons:
            row = str(r.row) if isinstance(r.row, RowNumber) else r.row
            self._left_out.append({"row": row, "why": r.why, **of})

    def compose(self, rows: list[dict[str, Any]]) -> None:
        """Print and keep the composition of the data: its files and their shares."""
        self._composition = rows
        self.console.print(composition_table(rows))

    def begin(self, step: int, total: int, read_as: str = "") -> None:
        """Open the folder for steps after `step`, dropping rows that an earlier session wrote past its checkpoint.

        `read_as` describes the training items, for the model card.
        """
        before = read_metrics(self.folder)  # including rows past the checkpoint
        public = {name: value for name, value in self.settings.items() if not name.endswith(URL_DIGEST)}
        self._tracking.begin(self.folder, self.name, public, step, int(before[-1]["step"]) if before else -1)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / SUMS).unlink(missing_ok=True)
        self._write_settings(step)
        ranks = engine.Team.here().size
        read = {"rows": "; ".join(self._taken), "read_as": read_as, "ranks": ranks if ranks > 1 else None}
        noted = environment(self.settings) | {name: value for name, value in read.items() if value}
        write_text(self.folder / "environment.json", json.dumps(noted, indent=1))
        for name, rows in (("left_out", self._left_out), ("composition", self._composition)):
            if rows:
                write_rows(self.folder / f"{name}.jsonl", rows)
        self._open.callback(self.rows.close)
        self.rows.open(step)
        self._alarms = Alarms()
        for row in (kept := read_metrics(self.folder)):
            self._alarms.see(row)
        self._tracking.keep(self.folder, kept)
        self._clock = time.perf_counter()
        self._progress = StepProgress(self.console, str(self.settings.get("command", "run")), step)
        self._open.enter_context(self._progress.bar)
        self.expect(total)

    def _write_settings(self, step: int) -> None:
        """Write config.yaml if it is new, or if settings change from `step` on."""
        history = [{**entry, "step": min(step, entry["step"])} for entry in self._history]  # later steps are redone
        if changed := self._changed:
            before = {name: self._before.get(name) for name in changed}
            history.append({"step": step, "from": before, "to": changed})
            described = ", ".join(f"{name} {changed[name]} (it was {before[name]})" for name in changed)
            self.print(f"From step {step + 1} on: {described}.")
        if not self.resumed or history != self._history:
            settings = {**self._before, **self.settings, **({HISTORY: history} if history else {})}
            write_text(self.folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))

    def expect(self, total: int) -> None:
        """Set the expected number of steps."""
        self.total = total
        self._progress.expect(total)

    def log(self, step: int, row: Mapping[str, float], tokens: int) -> None:
        """Write the row of a step (counted from 1; 0 is before the first) with its seconds and tokens per second.

        May set `stopping`, equally on all ranks.
        """
        self.stopping = engine.Team.here().lead(lambda: self._log(step, row, tokens))

    def _log(self, step: int, row: Mapping[str, float], tokens: int) -> str | None:
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        timed = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
        full = {"step": step, **row, **(timed if step else {})}
        self.rows.write("metrics", full)
        self._tracking.log(step, full)
        self._measured |= {name: value for name, value in row.items() if name.startswith(("eval_", "watched"))}
        shown = {**self._measured, **row}
        numbers = "  ".join(f"{name} {shown[name]:.3f}" for name in SHOWN if name in shown)
        numbers += f"  {tokens / seconds:,.0f} tokens/s" if step else ""
        self._progress.show(step, numbers, seconds)
        for alarm in self._alarms.see(full):
            if alarm.name in self.stop_when and self.stopping is None:
                self.stopping = f"The alarm {alarm.name} ended the run, as --stop-when asks."
            self.rows.write("alarms", alarm.as_row())
            self._tracking.alarm(alarm.step, alarm.name, f"{alarm.saw}. To try: {alarm.advice}.")
            self.print(f"step {alarm.step}, {alarm.name}: {alarm.saw}. To try: {alarm.advice}.")
        return self.stopping

    def sample(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append samples taken at a step."""
        self.rows.write("samples", *({"step": step, **row} for row in rows))

    def print(self, line: str) -> None:
        """Print one line to standard error."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End the progress bar and close the files."""
        self._open.close()

    def seal(self) -> None:
        """Write the rows and their digests to disk; for a run that was finished before, warn about changed files."""
        if not self.finished:
            write_sums(self.folder, *SEALED)
            sync(self.folder)  # before model/ exists, which marks the run as finished
        elif file := changed(self.folder):
            self.print(f"{self.folder / file} has changed since the run ended: its numbers may be wrong.")

    def conclude(self, method: str) -> tuple[list[dict[str, float]], Path]:
        """Delete checkpoints, then write the model card, which quotes `method`, and the report.

        Returns the rows of metrics and the path of the report.
        """
        for name in ("checkpoints", LAST_GOOD):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        report.write_card(self.folder, method=method)
        return read_metrics(self.folder), report.refresh_report(self.folder)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            self.close()
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._tracking.close("finished" if kind is None else "interrupted" if interrupted else "failed")
