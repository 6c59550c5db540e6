"""Running recipes: stages in order, each a command, run again only when its inputs or settings have changed.

A stage's results are in a folder of its name. A stage is skipped when its options, the contents of the files they name
and the stages they refer to are the same as when it last finished; an interrupted stage continues from its checkpoint.
In chats all stages have the date on which the folder was begun. The commands `demo` and `run` are here too.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import accord
from accord.cli.call import Call
from accord.cli.checks import call_of, checked, is_resumable
from accord.cli.parallel import Processes
from accord.cli.recipe import Stage, read_recipe
from accord.cli.state import MARK, before_in, begun_on, inputs_of, restore_state, save_state
from accord.cli.table import COMMANDS
from accord.console import status
from accord.dates import fixed
from accord.errors import InputError, TrainingStopped
from accord.files import others, write_text
from accord.locks import alone_in
from accord.outputs import changed_in, require_unchanged


def demo(*, out: str = "runs/demo", seed: int = 0, parallel: int = 1) -> Path:
    """From nothing to an aligned model: pretraining, fine-tuning, comparisons, reward model, PPO, DPO, evaluation.

    It uses a small world whose true reward is known, so the table at the end shows the true gain of each method. It
    runs the recipe recipes/cafe.yaml, takes a few minutes on two cores, and skips stages that are already done.

    Args:
        out: the folder for everything, including the report.
        seed: seed of everything drawn at random.
        parallel: how many stages may run at once; with more than one, each runs in its own process, and they share the
            cores.
    """
    return run_pipeline(packaged("cafe"), out, {"seed": seed}, parallel=parallel)


def run(recipe: str, *, out: str | None = None, parallel: int = 1, overrides: dict[str, str] | None = None) -> Path:
    """Run those stages of a recipe whose inputs or settings have changed, in order; then write the report.

    Every variable of the recipe and every option of a stage is an option here: --data pairs.jsonl sets the variable
    `data`, --sft.max-steps 10 the option of the stage `sft`.

    Args:
        recipe: the YAML file.
        out: the folder for the stages' results (default: runs/ and the recipe's name).
        parallel: how many stages may run at once; with more than one, each runs in its own process, and they share the
            cores.
        overrides: values for variables and for stages' options, by name.
    """
    return run_pipeline(recipe, out or f"runs/{Path(recipe).stem}", overrides, parallel=parallel)


def packaged(name: str) -> Path:
    """The path of a recipe that comes with accord: in the installed package, or next to it in a checkout."""
    home = Path(accord.__file__).parent
    files = [folder / "recipes" / f"{name}.yaml" for folder in (home, home.parent)]
    return next(file for file in files if file.exists())


def run_pipeline(
    recipe: str | Path, out: str | Path, overrides: Mapping[str, Any] | None = None, *, parallel: int = 1
) -> Path:
    """Run a recipe's stages in order, skipping those that are unchanged, and write the report.

    Args:
        recipe: the YAML file.
        out: the folder for the stages' folders.
        overrides: values for variables (`data`) and stages' options (`sft.max_steps`).
        parallel: how many stages may run at once; with more than one, each runs in its own process.

    Returns:
        the report's path.

    Raises:
        InputError: the recipe or an option cannot be used, or a file that a stage names neither exists nor will be
            written (nothing has run); or a stage's input cannot be used (the stages before it have run).
    """
    folder, begun = Path(out), time.perf_counter()
    contents = read_recipe(Path(recipe))
    with alone_in(folder):
        run_stages(contents, folder, parallel, overrides or {})
        from accord.report import refresh_report

        page = refresh_report(folder)
    status(f"{contents['name']} took {time.perf_counter() - begun:.0f} s; report: {page}")
    return page


def run_stages(
    recipe: Mapping[str, Any],
    folder: Path,
    parallel: int,
    overrides: Mapping[str, Any] | None = None,
    *,
    keeps_on: bool = False,
) -> list[Stage]:
    """Run a recipe's stages that have changed, in a folder that the caller has locked; returns all stages.

    With `keeps_on` a training that stops itself does not end the other stages.
    """
    if parallel < 1:
        raise InputError(f"parallel must be 1 or more stages at a time, not {parallel}.")
    stages = checked(recipe, folder, overrides or {})
    with fixed(begun_on(folder)):
        _Run(recipe, stages, folder, keeps_on).do(parallel)
    return stages


class _Run:
    """One run of a recipe's stages, in a folder that no other process uses."""

    def __init__(self, recipe: Mapping[str, Any], stages: list[Stage], folder: Path, keeps_on: bool) -> None:
        self.recipe, self.stages, self.folder, self.keeps_on = recipe, stages, folder, keeps_on
        self.former = before_in(folder)
        self.wanted = restore_state(stages, folder)
        _require_kept(stages, folder)
        self.anew = [stage for stage in stages if _starts_over(stage, self.wanted)]
        for stage in self.anew:
            _require_own(folder / stage.name)
        if not (folder / "pipeline.json").exists():  # it marks the folder as a recipe's, so it comes first
            self._save()
        self._noting = threading.Lock()

    def do(self, parallel: int) -> None:
        """Run the stages that have changed."""
        for stage in self.stages:
            if stage.status == "skipped":
                changed = [str(file) for file in changed_in(self.folder / stage.name)]
                but = f", but for {', '.join(changed)}, which somebody has changed since" if changed else ""
                status(f"{stage.name} is as it was{but}")
        processes = Processes(parallel)

        def elsewhere(stage: Stage) -> None:
            self._one(stage, partial(processes.run, stage.name, ranks=stage.ranks))

        if parallel > 1:
            processes.do(self.stages, self.folder, elsewhere)
        else:
            for stage in self.stages:
                if stage.ranks > 1:
                    processes.do([stage], self.folder, elsewhere)
                elif stage.status != "skipped":
                    self._one(stage, Call.run)
        self._save()

    def _one(self, stage: Stage, run_call: Callable[[Call], None]) -> None:
        """Run a stage, and record in pipeline.json that it is running and how it ended."""
        folder = self.folder / stage.name
        resume = stage.fingerprint == self.wanted[stage.name] and is_resumable(stage.command)
        if stage in self.anew and folder.exists():
            _require_own(folder)
            _remove(folder)
        _mark(folder)
        stage.fingerprint = self.wanted[stage.name]
        self._note(stage, "running")
        status(f"{stage.name} ({stage.command})")
        clock, ended = time.perf_counter(), stage.status
        try:
            run_call(call_of(stage, self.folder, resume=resume))
            _mark(folder)  # again, since the command may have replaced the folder
            ended, stage.stopped = "ran", ""
        except TrainingStopped as error:
            if not self.keeps_on:
                raise
            ended, stage.stopped = "ran", str(error)
            status(f"{stage.name}: {error}")
        finally:
            stage.seconds = time.perf_counter() - clock + (stage.seconds if resume else 0.0)
            self._note(stage, ended)

    def _note(self, stage: Stage, how: str) -> None:
        with self._noting:
            stage.status = how
            self._save()

    def _save(self) -> None:
        save_state(self.recipe, self.stages, self.folder, self.former)


def _mark(folder: Path) -> None:
    if not (folder / MARK).is_file():
        write_text(folder / MARK, "A stage of accord run, which removes this folder to run the stage again.\n")


def _require_kept(stages: list[Stage], folder: Path) -> None:
    """Raise InputError where a stage is to run on a file of a finished stage that somebody has removed."""
    done = {stage.name for stage in stages if stage.status == "skipped"}
    for stage in stages:
        for text in inputs_of(stage) if stage.name not in done else ():
            inside = Path(text).relative_to(folder).parts if folder in Path(text).parents else ()
            if len(inside) > 1 and inside[0] in done and not Path(text).exists():
                raise InputError(
                    f"stage {stage.name} needs {text}, which stage {inside[0]} wrote and somebody has removed: remove "
                    f"all of {folder / inside[0]}, so that it runs again."
                )


def _starts_over(stage: Stage, wanted: Mapping[str, str]) -> bool:
    """Whether a stage runs from the beginning, in a new folder."""
    is_same = stage.fingerprint == wanted[stage.name]
    continues_itself = stage.command in COMMANDS and COMMANDS[stage.command].continues
    return stage.status != "skipped" and not (is_same and (is_resumable(stage.command) or continues_itself))


def _require_own(folder: Path) -> None:
    """Raise InputError where a folder to be replaced does not belong to a stage, or somebody has changed it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file where a stage's folder should be: move it, or choose another --out.")
    if others(folder) and not (folder / MARK).is_file():
        raise InputError(f"{folder} was not made by `accord run`, and a stage needs its place: move it.")
    require_unchanged(folder)


def _remove(folder: Path) -> None:
    """Remove a stage's folder, its mark last, so that a folder half removed is still recognized."""
    for path in [*folder.iterdir()]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    shutil.rmtree(folder)
