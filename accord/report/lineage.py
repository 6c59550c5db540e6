"""Where a run's model, data and reward come from: the runs behind it, from the base model on.

A run in a pipeline's folder has the stages before it as the pipeline noted them; any other run says in its config.yaml
what it read, and the folders named there are followed as far as they exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from accord.errors import InputError
from accord.report.flow import parents_of
from accord.report.folder import Run, Stage, read_pipeline, read_stage

SOURCES = ("model", "data", "reward", "judge", "teacher", "reference", "pretraining_data", "watch")
"""Options that say what a run reads."""

KEY = (
    "learning_rate", "batch_size", "epochs", "max_steps", "beta", "tau", "kl_coefficient", "kl_target", "group_size",
    "inner_epochs", "rounds", "temperature", "seed",
)  # fmt: skip
"""Settings worth a word in the summary of a run, where it has them."""


def lineage(folder: Path) -> list[Stage]:
    """The runs that the run in a folder rests on, each before what reads it, the run itself last.

    A model that no run made, such as one from a hub, is a stage without a command. Where a file of the runs behind it
    cannot be read, the lineage is empty: the run's own page does not depend on others' files.
    """
    found: dict[Path, Stage] = {}
    try:
        _visit(folder.resolve(), found)
    except InputError:
        return []
    folders = list(found)
    names = dict(zip(folders, distinct_names(folders), strict=True))
    return [_renamed(found[folder], names, found) for folder in folders]


def key_settings(stage: Stage) -> list[tuple[str, Any]]:
    """The few settings by which people know a run; those left open (null) are not among them."""
    settings = stage.run.settings
    return [(name, settings[name]) for name in KEY if settings.get(name) is not None]


def distinct_names(folders: list[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as tell them apart."""
    names = []
    for folder in folders:
        parts = folder.resolve().parts
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[-depth:])
            if sum(_ends_with(other.resolve(), parts[-depth:]) for other in folders) == 1:
                break
        names.append(name)
    return names


def _ends_with(folder: Path, tail: tuple[str, ...]) -> bool:
    return folder.parts[-len(tail) :] == tail


def _visit(folder: Path, found: dict[Path, Stage]) -> None:
    """Put what the run in a folder reads, and then the run, at the end of `found`; inputs are whole paths for now."""
    if folder in found:
        return
    noted = _in_pipeline(folder)
    if noted is not None:
        found |= {path: stage for path, stage in noted.items() if path not in found}
        return
    stage = read_stage(folder)
    found[folder] = stage  # a chain that leads back to itself ends here
    inputs: dict[str, tuple[str, ...]] = {}
    for option in SOURCES:
        values = []
        for value in _texts(stage.run.settings.get(option)):
            origin = _origin(value, folder)
            if origin is not None and origin != folder:
                _visit(origin, found)
            elif option == "model" and origin is None:
                origin = Path("/", value.removesuffix("/").removesuffix("/model"))
                found.setdefault(origin, Stage(origin.name, "", Run(), status="given"))
            values.append(str(origin or value))
        if values:
            inputs[option] = tuple(values)
    del found[folder]
    found[folder] = replace(stage, inputs=inputs, seconds=stage.run.seconds)


def _in_pipeline(folder: Path) -> dict[Path, Stage] | None:
    """The stages that one stage of a pipeline rests on, and itself, in the pipeline's order; None for other runs."""
    if not (folder.parent / "pipeline.json").is_file():
        return None
    stages = read_pipeline(folder.parent).stages
    own = [stage for stage in stages if stage.name == folder.name]
    if not own:
        return None
    parents = parents_of(stages)
    wanted, queue = {own[0].name}, [own[0].name]
    while queue:
        for parent in parents[queue.pop()]:
            if parent not in wanted:
                wanted.add(parent)
                queue.append(parent)
    found = {}
    for stage in stages:
        if stage.name in wanted:
            inputs = {
                option: tuple(str(folder.parent / v.split("/")[0]) if v.split("/")[0] in wanted else v for v in values)
                for option, values in stage.inputs.items()
            }
            found[folder.parent / stage.name] = replace(stage, inputs=inputs)
    return found


def _origin(value: str, folder: Path) -> Path | None:
    """The folder of the run that wrote what a setting names, looked for from here and from the run's own folder."""
    for base in (Path.cwd(), folder, *folder.parents):
        path = (base / value).resolve()
        if path.exists():
            near = (path, path.parent, path.parent.parent)
            return next((place for place in near if _is_run(place) or _in_pipeline(place)), None)
    return None


def _is_run(folder: Path) -> bool:
    """Whether a training run wrote the folder, and not a project that happens to have a config.yaml."""
    return (folder / "config.yaml").is_file() and (folder / "environment.json").is_file()


def _texts(value: Any) -> Iterator[str]:
    """The names and paths in a setting: one, several, or by name."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _renamed(stage: Stage, names: dict[Path, str], found: dict[Path, Stage]) -> Stage:
    """The stage with its inputs by name; names and paths of what no run made stay."""
    own = next(path for path, one in found.items() if one is stage)
    inputs = {
        option: tuple(names.get(Path(value), value) for value in values) for option, values in stage.inputs.items()
    }
    return replace(stage, name=names[own], inputs=inputs)
