"""`accord evaluate seeds`: results of several runs of one recipe, as means over their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accord.errors import InputError
from accord.evaluate.options import checked_by
from accord.evaluate.statistics import over_seeds
from accord.files import real
from accord.outputs import require_folder
from accord.report.folder import StageRecord, Story, read_pipeline
from accord.results.base import FILE, Evaluation, called
from accord.results.seeds import NumberOverSeeds, SeedsResult, StageOverSeeds

_NAMED = ("model", "temperature", "settings", "label", "k")
"""Fields that together identify an element of a list without a name."""

_PASSED_OVER = ("side_by_side", "runs")
"""Parts left out: single answers, and single runs of a sweep."""


def _check(runs: Sequence[str]) -> None:
    if len(runs) < 2 or len({real(run) for run in runs}) < len(runs):
        raise InputError("a mean over seeds needs two runs or more, each given once.")


@checked_by(_check)
def evaluate_seeds(runs: Sequence[str], out: str) -> SeedsResult:
    """Average, over several runs of one recipe, every number that they measured with an interval.

    The runs may differ only in their seeds. Each mean has Student's 95% interval over the runs, which covers the
    variation between seeds; the interval within a run, over its prompts, does not.

    Args:
        runs: the folders of the runs, two or more, as `accord run` wrote them.
        out: the folder to write evaluation.json to.

    Raises:
        InputError: fewer than two runs; a folder that is no run of a recipe; runs whose stages or settings differ by
            more than seeds, which have the same seeds, or have not all measured what one has; no evaluations.
    """
    require_folder(out, *runs, leaves=(FILE,))
    _check(runs)
    stories = [_story(run) for run in runs]
    for run, story in zip(runs[1:], stories[1:], strict=True):
        _require_same(runs[0], stories[0], run, story)
    seeds = [_seeds(story) for story in stories]
    if any(seeds) and len(set(seeds)) < len(seeds):
        again = next(i for i, seed in enumerate(seeds) if seed in seeds[:i])
        raise InputError(f"{runs[seeds.index(seeds[again])]} and {runs[again]} have the same seed, {seeds[again]}.")
    measured = [
        stage_over_seeds(same[0].name, [stage.run.evaluation for stage in same if stage.run.evaluation])
        for same in zip(*(story.stages for story in stories), strict=True)
        if same[0].run.evaluation
    ]
    if not measured:
        raise InputError(f"{runs[0]} has no evaluation; its recipe needs a stage of `accord evaluate`.")
    return SeedsResult(runs=[str(run) for run in runs], seeds=seeds, stages=measured).publish(out)


def _story(run: str) -> Story:
    if not (Path(run) / "pipeline.json").is_file():
        raise InputError(
            f"{run} is no run of a recipe: it holds no pipeline.json; give the --out folder of `accord run`."
        )
    return read_pipeline(Path(run))


def _require_same(first: str, one: Story, second: str, other: Story) -> None:
    """Raise InputError where one run has a stage, a setting, or a result that the other lacks."""
    names, others = ([stage.name for stage in story.stages] for story in (one, other))
    if names != others:
        odd = next(name for name in [*names, *others, "the order"] if (name in names) != (name in others))
        raise InputError(f"{first} and {second} are not of one recipe: only one of them has the stage {odd}.")
    for stage, same in zip(one.stages, other.stages, strict=True):
        for story, at in ((first, stage), (second, same)):
            if at.status not in ("ran", "skipped"):
                raise InputError(f"the stage {at.name} of {story} has not ended; run the recipe to its end first.")
        settings, given = (_without_seeds(at) for at in (stage, same))
        for name in dict.fromkeys([*settings, *given]):
            if settings.get(name) != given.get(name):
                raise InputError(
                    f"{first} and {second} differ by more than their seeds: in the stage {stage.name} {name} is "
                    f"{settings.get(name)} in the first and {given.get(name)} in the second."
                )
        if bool(stage.run.evaluation) != bool(same.run.evaluation):
            raise InputError(f"only one of {first} and {second} has an evaluation of the stage {stage.name}.")


def _without_seeds(stage: StageRecord) -> dict[str, Any]:
    """A stage's settings without seeds and without digests of its inputs."""
    settings = stage.run.settings
    if stage.run.evaluation:
        settings = settings | stage.run.evaluation.model_dump(
            mode="json", include={"judge", "against", "reference", "verifier"}
        )
    settings = replace(stage, run=replace(stage.run, settings=settings)).settings
    return {name: value for name, value in settings.items() if name != "seed" and not name.endswith("_sha256")}


def _seeds(story: Story) -> str:
    """The seeds of the run's stages."""
    seeds = [stage.run.settings["seed"] for stage in story.stages if "seed" in stage.run.settings]
    return ", ".join(dict.fromkeys(str(seed) for seed in seeds))


def stage_over_seeds(name: str, evaluations: Sequence[Evaluation]) -> StageOverSeeds:
    """Every interval of an evaluation made by several runs: the mean of its estimates m_1..m_n over the runs.

    Student's interval over them (`over_seeds`) covers another seed; the intervals within runs, over prompts, do not
    enter.
    """
    parts = [dict(_parts(one)) for one in evaluations]
    numbers = []
    for path in dict.fromkeys(path for one in parts for path in one):
        values = [value for one in parts if (value := one.get(path)) is not None]
        if values:
            part, of, measure = path
            numbers.append(NumberOverSeeds(part=part, of=of, measure=measure, values=values, mean=over_seeds(values)))
    return StageOverSeeds(name=name, question=evaluations[0].kind, numbers=numbers)


def _parts(evaluation: Evaluation) -> Iterator[tuple[tuple[str, str, str], float | None]]:
    """Every interval's estimate by part, subject and measure."""
    for part, value in evaluation.model_dump(mode="json").items():
        if part not in _PASSED_OVER:
            for (of, measure), estimate in _estimates(value, "", ""):
                yield (part, of, measure), estimate


def _estimates(value: Any, of: str, measure: str) -> Iterator[tuple[tuple[str, str], float | None]]:
    if isinstance(value, list):
        for position, element in enumerate(value):
            if isinstance(element, dict):
                name = _name(element) or f"{position + 1}"
                yield from _estimates(element, f"{of}, {name}" if of else name, measure)
    elif isinstance(value, dict):
        if "estimate" in value and "low" in value:
            yield (of, measure or "rate"), value["estimate"]
        for key, inner in value.items():
            below = measure if isinstance(inner, list) else f"{measure}.{key}".lstrip(".")
            yield from _estimates(inner, of, below)


def _name(element: Mapping[str, Any]) -> str:
    """The name that identifies an element of a list."""
    if isinstance(element.get("name"), str):
        return str(element["name"])
    if element.get("model") and element.get("against"):
        return f"{element['model']} against {element['against']}"
    parts = []
    for field in _NAMED:
        given = element.get(field)
        if isinstance(given, Mapping):
            parts += [f"{name} {called(str(value))}" for name, value in given.items()]
        elif isinstance(given, str | int | float):
            parts.append(given if isinstance(given, str) else f"{field} {given:g}")
    return ", ".join(parts)
