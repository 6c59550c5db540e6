"""A run grows a pool without two that are alike, and one that was killed comes out as one that was not."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from accord.errors import InputError
from accord.prompting.requests import Reply, Request
from accord.synthesis.evolve import Evolve
from accord.synthesis.filters import Pool
from accord.synthesis.rounds import FILE, Growth, grow, reasons, resume
from accord.synthesis.self_instruct import SelfInstruct
from accord.synthesis.statistics import novelty, opening, openings, summarize
from accord.synthesis.tasks import Candidate, Instance, Task
from tests.synthesis.rouge import by_package
from tests.synthesis.scripted import SEEDS, asker, writer


def begun(folder: Path) -> Growth:
    return resume(Pool(SEEDS), folder / FILE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Growth:
    growth = begun(tmp_path_factory.mktemp("whole"))
    assert grow(SelfInstruct(asker(writer), SEEDS, requests=3), growth, 200, 20) == ""
    return growth


def test_no_two_are_alike_by_brute_force(whole: Growth) -> None:
    accepted = [task.instruction for task in whole.pool.accepted]
    assert 200 <= len(accepted) < 200 + 3 * 8
    assert all(by_package(a, b) < 0.7 for a, b in combinations(accepted, 2))
    assert all(by_package(a, seed.instruction) < 0.7 for a in accepted for seed in SEEDS)


def test_every_rejection_is_counted_once(whole: Growth) -> None:
    result = summarize(whole, "self-instruct", "scripted")
    assert result.proposed == len(whole.candidates) == result.accepted + sum(row.instructions for row in result.filters)
    counts = {row.name: row.instructions for row in result.filters if row.instructions}
    # What the script gets wrong, and nothing else; the keyword is music.
    wrong = {"length", "keyword", "similar", "duplicate", "unclear kind", "no instance", "echo"}
    assert wrong - {"duplicate"} <= set(counts) <= wrong
    assert result.instances == sum(len(task.instances) for task in whole.pool.accepted)
    assert result.classification == sum(bool(task.is_classification) for task in whole.pool.accepted) > 0
    assert sum(result.novelty) == result.accepted
    assert result.highest == max(c.nearest for c in whole.candidates if not c.rejected) < 0.7


@pytest.mark.parametrize("asked_before", [1, 4, 30, 90])
def test_killed_and_started_again_it_goes_on_bit_for_bit(tmp_path: Path, whole: Growth, asked_before: int) -> None:
    left = [asked_before]

    def killed(request: Request) -> Reply | str:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return writer(request)

    with pytest.raises(KeyboardInterrupt):
        grow(SelfInstruct(asker(killed), SEEDS, requests=3), begun(tmp_path), 200, 20)
    again = begun(tmp_path)
    assert grow(SelfInstruct(asker(writer), SEEDS, requests=3), again, 200, 20) == ""
    assert (tmp_path / FILE).read_bytes() == whole.path.read_bytes()
    assert again.pool.accepted == whole.pool.accepted


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_torn_anywhere_is_mended(tmp_path: Path, whole: Growth, share: float) -> None:
    content = whole.path.read_bytes()
    (tmp_path / FILE).write_bytes(content[: int(share * len(content))])
    growth = begun(tmp_path)
    assert len(growth.rounds) < len(whole.rounds)
    grow(SelfInstruct(asker(writer), SEEDS, requests=3), growth, 200, 20)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_greater_count_goes_on(tmp_path: Path, whole: Growth) -> None:
    for count in (20, 200):
        grow(SelfInstruct(asker(writer), SEEDS, requests=3), begun(tmp_path), count, 20)
    assert (tmp_path / FILE).read_bytes() == whole.path.read_bytes()


def test_a_line_that_is_no_candidate_is_named(tmp_path: Path, whole: Growth) -> None:
    lines = whole.path.read_text(encoding="utf-8").splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0], '{"a": 1}', *lines[1:]]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: it is no candidate"):
        begun(tmp_path)


def test_it_ends_where_nothing_is_accepted(tmp_path: Path) -> None:
    growth = begun(tmp_path)
    ended = grow(SelfInstruct(asker(lambda request: "Sure!", is_chat=True), SEEDS, requests=2), growth, 5, 3)
    assert ended == "3 rounds in a row accepted nothing" and len(growth.rounds) == 3
    assert reasons(growth) == "6 by unreadable"
    without = grow(Evolve(asker(lambda request: Reply(text=None, reason="too long")), SEEDS, 2), growth, 5, 4)
    assert without == "4 rounds in a row accepted nothing"
    assert reasons(growth) == "6 by unreadable, 2 by no reply (too long)"


def test_lines_of_progress(tmp_path: Path) -> None:
    lines: list[str] = []
    grow(SelfInstruct(asker(writer), SEEDS, requests=3), begun(tmp_path), 20, 20, lines.append)
    assert lines[0].startswith("round 1: ") and " of 20 accepted, 24 proposed, about " in lines[0]
    assert lines[-1].endswith(" proposed")


@pytest.mark.parametrize(
    ("instruction", "first", "about"),
    [
        ("Write a short story about the sea.", "write", "story"),
        ("Given the following list, sort it", "given", "list"),
        ("What is the capital of France?", "what", "capital"),
        ("Explain", "explain", ""),
        ("Add 2 and 3", "add", ""),
        ("Rewrite this, please", "rewrite", ""),
        ("3 words", "", ""),
    ],
)
def test_openings(instruction: str, first: str, about: str) -> None:
    assert opening(instruction) == (first, about)


def test_openings_are_counted() -> None:
    found = openings(["Write a poem", "Write the poem of it", "Write a list", "Tell it"])
    assert [(one.word, one.count, one.objects) for one in found] == [
        ("write", 3, {"poem": 2, "list": 1}),
        ("tell", 1, {}),
    ]


def test_novelty_and_lengths_by_hand(tmp_path: Path) -> None:
    seeds = [Task("the cat sat on the mat")]
    growth = Growth(Pool(seeds), tmp_path / FILE)
    made = [("the dog sat on a mat", "a b", "c"), ("nothing is like it here", "", "d e f")]
    growth.take([Candidate(text, instances=[Instance(put, out)]) for text, put, out in made])
    growth.take([Candidate("Other", rejected="length"), Candidate("More", rejected="length")])
    # "the sat on mat": 4 of 6 words in both.
    assert novelty(growth.pool.accepted, seeds) == pytest.approx([4 / 6, 0])
    result = summarize(growth, "evolve", "me", "it ran out")
    assert result.novelty == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert result.novelty_mean is not None and result.novelty_mean.estimate == pytest.approx(1 / 3)
    assert {name: one.mean for name, one in result.lengths.items()} == {"instruction": 5.5, "input": 2, "output": 2}
    assert (result.without_input, result.instances, result.proposed) == (1, 2, 4)
    assert next(row for row in result.filters if row.name == "length").share.estimate == 0.5  # type: ignore[union-attr]
    assert result.warnings == ["it ran out: 2 instructions are accepted, fewer than were asked for."]
