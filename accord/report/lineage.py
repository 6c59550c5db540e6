"""The lineage of a run: the runs that made its model, data and reward, from the base model on, as a drawn pipeline.

For a run in a pipeline's folder, the pipeline lists the stages before it; for any other run, config.yaml names its
inputs, and folders named there are followed as far as they exist.

The drawing is a small Sugiyama layout: every stage is one layer after the last of its inputs, an arrow across layers
gets a slot in each, and barycenters order each layer so that arrows seldom cross.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import networkx as nx

from accord.errors import InputError
from accord.feedback.formula import AI, names_in
from accord.files import real
from accord.report.folder import RunFiles, StageRecord, read_pipeline, read_stage

SOURCES = ("model", "data", "reward", "judge", "teacher", "reference", "pretraining_data", "watch", "eval_data")
"""Options that name a run's inputs."""

FORMULAS = ("data", "reward", "judge", "watch")
"""Those that may hold several names: `runs/rm/model + 0.5 * mean(runs/a/model, runs/b/model)`."""

WIDTH, HEIGHT = 148.0, 60.0
_GAP = 26.0
_HEAD = 7.0

Node = str | tuple[str, str, int]
"""A stage's name, or the slot in one layer of an arrow between two stages."""


@dataclass(frozen=True)
class Box:
    """A stage, the corner of its box, and its share of the pipeline's time."""

    stage: StageRecord
    share: float
    x: float
    y: float


@dataclass(frozen=True)
class FlowChart:
    """Boxes, arrows (SVG path data of the shaft and of the head), and the size of the whole."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[tuple[str, str], ...]
    upright: bool
    box: ClassVar = (WIDTH, HEIGHT)


def lineage(folder: Path) -> list[StageRecord]:
    """The runs that a run depends on, in order, the run itself last.

    A model not made by a run, such as one from a hub, is a stage without a command. The lineage is empty where a file
    of an earlier run cannot be read: a run's page must not depend on others' files.
    """
    stages: dict[Path, StageRecord] = {}
    try:
        _visit(real(folder), stages)
    except InputError:
        return []
    names = dict(zip(stages, distinct_names(list(stages)), strict=True))
    return [
        replace(_renamed(stage, lambda value: names.get(Path(value), value)), name=names[path])
        for path, stage in stages.items()
    ]


def _renamed(stage: StageRecord, rename: Callable[[str], str]) -> StageRecord:
    """The stage with renamed inputs."""
    return replace(stage, inputs={option: tuple(map(rename, values)) for option, values in stage.inputs.items()})


def distinct_names(folders: list[Path]) -> list[str]:
    """The folders' names, with as many parent folders as needed to distinguish them."""
    whole = [folder.resolve().parts for folder in folders]
    names = []
    for parts in whole:
        depths = range(1, len(parts) + 1)
        alone = (d for d in depths if sum(other[-d:] == parts[-d:] for other in whole) == 1)
        names.append("/".join(parts[-next(alone, len(parts)) :]))
    return names


def _visit(folder: Path, stages: dict[Path, StageRecord]) -> None:
    """Append the inputs of a run, then the run, to `stages`; inputs are full paths for now."""
    if folder in stages:
        return
    if (noted := _in_pipeline(folder)) is not None:
        stages |= {path: stage for path, stage in noted.items() if path not in stages}
        return
    stage = read_stage(folder)
    stages[folder] = stage  # ends cycles
    inputs: dict[str, tuple[str, ...]] = {}
    for option in SOURCES:
        values = []
        for value in _names(option, stage.run.settings.get(option), folder):
            origin = origin_of(value, folder)
            if origin is not None and origin != folder:
                _visit(origin, stages)
            elif option == "model" and origin is None:
                origin = Path("/", value.removesuffix("/").removesuffix("/model"))
                stages.setdefault(origin, StageRecord(origin.name, "", RunFiles(), status="given"))
            values.append(str(origin or value))
        if values:
            inputs[option] = tuple(values)
    del stages[folder]
    stages[folder] = replace(stage, inputs=inputs, seconds=stage.run.seconds)


def _in_pipeline(folder: Path) -> dict[Path, StageRecord] | None:
    """The stages that a stage of a pipeline depends on, and itself, in order; None for other runs."""
    if not (folder.parent / "pipeline.json").is_file():
        return None
    stages = read_pipeline(folder.parent).stages
    graph = stage_graph(stages)
    if folder.name not in graph:
        return None
    wanted = nx.ancestors(graph, folder.name) | {folder.name}

    def whole(value: str) -> str:
        name = value.split("/")[0]
        return str(folder.parent / name) if name in wanted else value

    return {folder.parent / stage.name: _renamed(stage, whole) for stage in stages if stage.name in wanted}


def _names(option: str, value: Any, folder: Path) -> Iterator[str]:
    """The names and paths in a setting: one, several, or a mapping; for a formula, those in it."""
    if isinstance(value, str):
        is_formula = option in FORMULAS and not any(os.path.exists(base / value) for base in (Path.cwd(), folder))
        yield from names_in(value) if is_formula else [value]
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _names(option, inner, folder)


def origin_of(value: str, folder: Path) -> Path | None:
    """The folder of the run that wrote what a setting names, relative to here or to the run's own folder."""
    for base in (Path.cwd(), folder, *folder.parents):
        path = base / value.removeprefix(AI)
        if os.path.exists(path):
            path = path.resolve()
            near = (path, path.parent, path.parent.parent)
            return next((one for one in near if _is_run(one) or _in_pipeline(one)), None)
    return None


def _is_run(folder: Path) -> bool:
    """Whether a training run wrote the folder (other projects may have a config.yaml)."""
    return (folder / "config.yaml").is_file() and (folder / "environment.json").is_file()


def stage_graph(stages: Sequence[StageRecord]) -> nx.DiGraph:
    """A graph with an arrow to each stage from the earlier ones that it reads."""
    graph = nx.DiGraph()
    for stage in stages:
        values = chain.from_iterable(stage.inputs.values())
        named = dict.fromkeys(value if value in graph else value.split("/")[0] for value in values)
        parents = [name for name in named if name in graph]
        graph.add_node(stage.name)
        graph.add_edges_from((parent, stage.name) for parent in parents)
    return graph


def draw(stages: Sequence[StageRecord], *, upright: bool) -> FlowChart:
    """The pipeline drawn from left to right, or from top to bottom (`upright`) for a narrow page.

    Redundant arrows are left out: the transitive reduction is drawn.
    """
    layers, routes, arrows = _layers(stage_graph(stages))
    layers = _ordered(layers, routes)
    along, across = (HEIGHT, WIDTH) if upright else (WIDTH, HEIGHT)
    most = max(map(len, layers))
    position = {
        node: (depth * (along + _GAP), (slot + (most - len(layer)) / 2) * (across + _GAP / 2))
        for depth, layer in enumerate(layers)
        for slot, node in enumerate(layer)
    }
    corner = {node: (v, u) if upright else (u, v) for node, (u, v) in position.items()}
    size = (len(layers) * (along + _GAP) - _GAP, most * (across + _GAP / 2) - _GAP / 2)
    width, height = size[::-1] if upright else size
    total = sum(stage.seconds or 0.0 for stage in stages) or 1.0
    return FlowChart(
        width,
        height,
        boxes=tuple(Box(stage, (stage.seconds or 0.0) / total, *corner[stage.name]) for stage in stages),
        arrows=tuple(_arrow([position[stop] for stop in stops], along, across, upright) for stops in arrows),
        upright=upright,
    )


def _layers(graph: nx.DiGraph) -> tuple[list[list[Node]], nx.DiGraph, list[list[Node]]]:
    """Stages by the longest path to them, with slots for passing arrows; the graph of both; each arrow's nodes."""
    generations = list(nx.topological_generations(graph))
    depths = {name: depth for depth, generation in enumerate(generations) for name in generation}
    layers: list[list[Node]] = [[] for _ in generations]
    kept, routes = nx.transitive_reduction(graph), nx.DiGraph()
    routes.add_nodes_from(graph)
    arrows = []
    for child in graph:
        layers[depths[child]].append(child)
        for parent in graph.predecessors(child):
            if kept.has_edge(parent, child):
                between = [(parent, child, depth) for depth in range(depths[parent] + 1, depths[child])]
                for slot in between:
                    layers[slot[2]].append(slot)
                arrows.append([parent, *between, child])
                nx.add_path(routes, arrows[-1])
    return layers, routes, arrows


def _ordered(layers: list[list[Node]], routes: nx.DiGraph) -> list[list[Node]]:
    """Each layer sorted by the mean slot of its neighbors in the layer before, then after."""
    forth = [(depth, depth - 1, routes.pred) for depth in range(1, len(layers))]
    back = [(depth, depth + 1, routes.succ) for depth in reversed(range(len(layers) - 1))]
    for depth, beside, neighbors in 4 * (forth + back):
        layers[depth] = _sorted_by(layers[depth], layers[beside], neighbors)
    return layers


def _sorted_by(layer: list[Node], neighboring: list[Node], neighbors: Any) -> list[Node]:
    """The layer in the order of its neighbors' mean slots, measured from the middle; ties keep their order."""
    slots = {node: slot - (len(neighboring) - 1) / 2 for slot, node in enumerate(neighboring)}
    means = {node: slot - (len(layer) - 1) / 2 for slot, node in enumerate(layer)}
    means |= {node: fmean(slots[other] for other in neighbors[node]) for node in layer if neighbors[node]}
    return sorted(layer, key=means.__getitem__)


def _arrow(stops: list[tuple[float, float]], along: float, across: float, upright: bool) -> tuple[str, str]:
    """Path data of a shaft through the stops' middles and of a head at the last; `along` runs with the pipeline."""

    def point(u: float, v: float) -> str:
        return f"{v:.1f} {u:.1f}" if upright else f"{u:.1f} {v:.1f}"

    u, v = stops[0][0] + along, stops[0][1] + across / 2
    shaft = f"M{point(u, v)}"
    for index, (next_u, corner) in enumerate(stops[1:], start=1):
        is_last = index == len(stops) - 1
        tip, next_v = next_u - (_HEAD if is_last else 0), corner + across / 2
        middle = (u + tip) / 2
        shaft += f"C{point(middle, v)} {point(middle, next_v)} {point(tip, next_v)}"
        if not is_last:
            shaft += f"L{point(next_u + along, next_v)}"
        u, v = next_u + along, next_v
    end = stops[-1][0]
    head = f"M{point(end, v)}L{point(end - _HEAD, v - 4)}L{point(end - _HEAD, v + 4)}Z"
    return shaft, head
