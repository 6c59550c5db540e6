"""The drawn pipeline: arrows that follow from others go, and boxes never lie on each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accord.report.folder import RunFiles, StageRecord
from accord.report.lineage import HEIGHT, WIDTH, _layers, draw, stage_graph


def stage(name: str, *inputs: str, seconds: float | None = None) -> StageRecord:
    return StageRecord(name, "sft", RunFiles(), seconds=seconds, inputs={"data": inputs})


def test_inputs_are_earlier_stages_or_paths_in_them() -> None:
    stages = [stage("a", "raw.jsonl"), stage("b", "a", "a/model"), stage("c", "b/model", "d"), stage("d", "../a")]
    graph = stage_graph(stages)
    assert {name: list(graph.pred[name]) for name in graph} == {"a": [], "b": ["a"], "c": ["b"], "d": []}


def test_an_arrow_that_follows_from_others_goes() -> None:
    stages = [stage("a"), stage("b", "a"), stage("c", "a", "b"), stage("d", "a", "c")]
    _, _, arrows = _layers(stage_graph(stages))
    assert arrows == [["a", "b"], ["b", "c"], ["c", "d"]]


def test_a_diamond_by_hand() -> None:
    # a opens, b and c share the second layer, d closes: three columns of 148 with gaps of 26 are 496 wide, two rows of
    # 60 with a gap of 13 are 133 high, and a and d lie midway: (133 - 60) / 2 = 36.5.
    drawing = draw(
        [stage("a", seconds=1), stage("b", "a", seconds=3), stage("c", "a"), stage("d", "b", "c")], upright=False
    )
    assert (drawing.width, drawing.height) == (496.0, 133.0)
    corners = {box.stage.name: (box.x, box.y, box.share) for box in drawing.boxes}
    assert corners == {"a": (0, 36.5, 0.25), "b": (174, 0, 0.75), "c": (174, 73, 0), "d": (348, 36.5, 0)}
    assert len(drawing.arrows) == 4
    # From the middle of a's right side, (148, 66.5), to the head before the middle of b's left, (174 - 7, 30).
    assert drawing.arrows[0] == ("M148.0 66.5C157.5 66.5 157.5 30.0 167.0 30.0", "M174.0 30.0L167.0 26.0L167.0 34.0Z")


@given(st.lists(st.sets(st.integers(0, 8)), min_size=1, max_size=9), st.booleans())
def test_boxes_lie_apart_inside_the_drawing(inputs: list[set[int]], upright: bool) -> None:
    drawing = draw([stage(str(i), *map(str, sorted(of))) for i, of in enumerate(inputs)], upright=upright)
    boxes = drawing.boxes
    for box in boxes:
        assert 0 <= box.x <= drawing.width - WIDTH and 0 <= box.y <= drawing.height - HEIGHT
    for i, one in enumerate(boxes):
        assert all(abs(one.x - two.x) >= WIDTH or abs(one.y - two.y) >= HEIGHT for two in boxes[i + 1 :])
