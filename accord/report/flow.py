"""The drawn pipeline: stages in layers by what they wait for, arrows routed between them.

The layout is Sugiyama's in miniature: every stage lies one layer past the last of its inputs, an arrow that passes over
layers gets a place of its own in each, and barycentres order each layer so that arrows seldom cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from accord.report.folder import Stage

WIDTH, HEIGHT = 148.0, 60.0
_GAP = 26.0
_HEAD = 7.0

Parents = dict[str, list[str]]
Node = str | tuple[str, str, int]
"""A stage's name, or the place in one layer of the arrow between two stages."""


@dataclass(frozen=True)
class Box:
    """A stage, the corner of its box, and its share of the whole pipeline's time."""

    stage: Stage
    share: float
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """Boxes, arrows (SVG path data of the shaft and of the head), and the size of the whole."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[tuple[str, str], ...]
    upright: bool


def draw(stages: Sequence[Stage], *, upright: bool) -> Drawing:
    """The pipeline from left to right, or `upright` from top to bottom for a narrow page."""
    parents = reduce(parents_of(stages))
    layers = _order(_layers(parents), parents)
    along, across = (HEIGHT, WIDTH) if upright else (WIDTH, HEIGHT)
    most = max(map(len, layers))
    place = {
        node: (depth * (along + _GAP), (slot + (most - len(layer)) / 2) * (across + _GAP / 2))
        for depth, layer in enumerate(layers)
        for slot, node in enumerate(layer)
    }
    corner = {node: (v, u) if upright else (u, v) for node, (u, v) in place.items()}
    depths = {node: depth for depth, layer in enumerate(layers) for node in layer}
    arrows = []
    for child, sources in parents.items():
        for parent in sources:
            stops: list[Node] = [parent, *_between(parent, child, depths[parent], depths[child]), child]
            arrows.append(_arrow([place[stop] for stop in stops], along, across, upright))
    size = (len(layers) * (along + _GAP) - _GAP, most * (across + _GAP / 2) - _GAP / 2)
    width, height = size[::-1] if upright else size
    total = sum(stage.seconds or 0.0 for stage in stages) or 1.0
    boxes = tuple(Box(stage, (stage.seconds or 0.0) / total, *corner[stage.name]) for stage in stages)
    return Drawing(width, height, boxes, tuple(arrows), upright)


def parents_of(stages: Sequence[Stage]) -> Parents:
    """For each stage the earlier stages whose name, or a path inside whose folder, is one of its inputs."""
    parents: Parents = {}
    for stage in stages:
        values = [value for values in stage.inputs.values() for value in values]
        named = dict.fromkeys(value if value in parents else value.split("/")[0] for value in values)
        parents[stage.name] = [name for name in named if name in parents]
    return parents


def reduce(parents: Parents) -> Parents:
    """The transitive reduction: an arrow goes when a longer way between the same two stages remains."""
    ancestors: dict[str, set[str]] = {}
    for child, sources in parents.items():
        ancestors[child] = set(sources).union(*(ancestors[source] for source in sources))
    return {
        child: [s for s in sources if not any(s in ancestors[other] for other in sources)]
        for child, sources in parents.items()
    }


def _layers(parents: Parents) -> list[list[Node]]:
    """Stages by the length of the longest way to them, with a place in every layer that an arrow passes."""
    depths: dict[str, int] = {}
    for child, sources in parents.items():
        depths[child] = 1 + max((depths[source] for source in sources), default=-1)
    layers: list[list[Node]] = [[] for _ in range(1 + max(depths.values()))]
    for child, sources in parents.items():
        layers[depths[child]].append(child)
        for parent in sources:
            for stop in _between(parent, child, depths[parent], depths[child]):
                layers[stop[2]].append(stop)
    return layers


def _between(parent: str, child: str, start: int, end: int) -> list[tuple[str, str, int]]:
    """The places of an arrow in the layers strictly between its two stages."""
    return [(parent, child, depth) for depth in range(start + 1, end)]


def _order(layers: list[list[Node]], parents: Parents) -> list[list[Node]]:
    """Each layer sorted by the mean place of its neighbors in the layer before, then in the layer after."""
    links: list[tuple[Node, Node]] = []
    depths = {node: depth for depth, layer in enumerate(layers) for node in layer}
    for child, sources in parents.items():
        for parent in sources:
            stops: list[Node] = [parent, *_between(parent, child, depths[parent], depths[child]), child]
            links += pairwise(stops)
    before: dict[Node, list[Node]] = {}
    after: dict[Node, list[Node]] = {}
    for left, right in links:
        before.setdefault(right, []).append(left)
        after.setdefault(left, []).append(right)
    for _ in range(4):
        for depth in range(1, len(layers)):
            layers[depth] = _sorted_by(layers[depth], layers[depth - 1], before)
        for depth in range(len(layers) - 2, -1, -1):
            layers[depth] = _sorted_by(layers[depth], layers[depth + 1], after)
    return layers


def _sorted_by(layer: list[Node], beside: list[Node], neighbors: dict[Node, list[Node]]) -> list[Node]:
    """The layer in the order of its neighbors' mean places, measured from the middle; ties keep their order."""
    place = {node: slot - (len(beside) - 1) / 2 for slot, node in enumerate(beside)}
    own = {node: slot - (len(layer) - 1) / 2 for slot, node in enumerate(layer)}

    def mean(node: Node) -> float:
        places = [place[other] for other in neighbors.get(node, [])]
        return sum(places) / len(places) if places else own[node]

    return sorted(layer, key=mean)


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
