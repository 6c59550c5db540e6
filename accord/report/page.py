"""One self-contained page about a run or a pipeline: read the folder, draw what it holds, fill in the template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accord.files import write_text
from accord.report import families, flow, html, overoptimization, results, tasks, trial
from accord.report.chapters import chapter
from accord.report.figures import Figure
from accord.report.flow import Drawing
from accord.report.folder import Stage, Story, read_story
from accord.report.frontier import frontiers
from accord.report.lineage import key_settings, lineage


@dataclass(frozen=True)
class Origins:
    """What was run: the stages behind what the page is about, drawn level and upright, and told one by one."""

    stages: tuple[Stage, ...]
    drawings: tuple[Drawing, ...]
    settings: tuple[list[tuple[str, object]], ...]


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page about a run or a pipeline, `report.html` in its folder unless `out` names another place; its path.

    The page needs no other file, no network and no script. It shows whatever the folder holds: what was run, alarms,
    results with their intervals, curves, answers, settings and environment. Raises `InputError` when the folder is
    neither a run nor a pipeline, when one of its files cannot be read as what it should be, or when nothing can be
    written at `out`: a file that ends in .html, or a folder.
    """
    story = read_story(Path(folder))
    path = html.page_file(folder if out is None else out, "report.html")
    write_text(path, render(story))
    return path


def render(story: Story) -> str:
    """The page as HTML."""
    tables = results.model_tables(story)
    shared = html.shared([stage.run.environment for stage in story.stages])
    return html.fill(
        "page.html",
        story=story,
        origins=_origins(story),
        tables=tables,
        trials=trial.trials(story),
        agreements=trial.agreements(story),
        task_tables=tasks.task_tables(story),
        frontiers=_frontiers(story, tables),
        turnings=[
            overoptimization.turning(stage.run.evaluation)
            for stage in story.stages
            if stage.run.kind == "overoptimization"
        ],
        chapters=[chapter(stage, shared) for stage in story.stages],
        environment=html.facts(shared),
    )


def _origins(story: Story) -> Origins | None:
    stages = list(story.stages) if story.is_pipeline else lineage(story.folder)
    if not stages or (not story.is_pipeline and not any(stage.command for stage in stages)):
        return None
    is_drawn = story.is_pipeline or len(stages) > 1
    drawings = [flow.draw(stages, upright=upright) for upright in (False, True)] if is_drawn else []
    return Origins(tuple(stages), tuple(drawings), tuple(map(key_settings, stages)))


def _frontiers(story: Story, tables: list[results.ModelTable]) -> list[Figure]:
    """The measured frontiers, then what training and the finished models show."""
    measured = [families.draw(stage.run.evaluation) for stage in story.stages if stage.run.kind == "frontier"]
    return [figure for figure in measured if figure] + frontiers(story, tables)
