"""Forty people at once, and servers that are killed: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.request import urlopen

import pytest
from scipy.stats import binomtest
from sqlmodel import col, select

from accord.annotate import Project
from accord.annotate.database import Answer, Slot
from tests.annotate.conftest import free_port
from tests.commands.small import write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


THINK = 3.0
"""Seconds that an annotator thinks, half as long or half as long again at most; people take longer."""


@contextmanager
def served(database: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The pages of a project in a process of their own."""
    words = [sys.executable, "-m", "accord", "annotate", "serve", "--database", database, "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    urlopen(f"http://127.0.0.1:{port}/static/style.css").close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()


def crowd(port: int, think: float, links: dict[str, str]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.annotate.crowd", f"http://127.0.0.1:{port}", str(think), *links.values()]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def made(database: str, tmp_path: Path, items: int, overlap: int) -> Project:
    rows = [{"id": i, "prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(items)]
    project = Project.open(database, overlap=overlap)
    project.add(write_jsonl(tmp_path / "rows.jsonl", rows))
    return project


def check(project: Project, stored: list[list[Any]], overlap: int) -> None:
    """Every acknowledged answer is there, none is doubled, and no item was answered by more people than asked."""
    with project.database.reading() as session:
        kept = session.exec(select(Answer).where(col(Answer.replaced_by).is_(None))).all()
        slots = {slot.id: slot for slot in session.exec(select(Slot)).all()}
    answers = Counter(answer.slot_id for answer in kept)
    assert set(answers.values()) == {1}
    said = {answer.slot_id: answer.content for answer in kept}
    for slot, choice in stored:
        place = slots[slot].shown[0 if choice.startswith("first") else 1]
        assert said[slot] is not None and said[slot]["better"] == place, (slot, choice)  # type: ignore[index]
    by_item = Counter((slots[slot].item_id, slots[slot].annotator_id) for slot in answers)
    assert set(by_item.values()) == {1}  # nobody twice
    assert max(Counter(slots[slot].item_id for slot in answers).values()) <= overlap


def test_forty_at_once(database: str, tmp_path: Path) -> None:
    project, port = made(database, tmp_path, items=400, overlap=10), free_port()
    links = project.add_people([f"person-{i}" for i in range(40)])
    with served(database, port):
        told = json.loads(crowd(port, THINK, links).communicate(timeout=800)[0])
    assert len(told["stored"]) == 4000
    check(project, told["stored"], 10)
    with project.database.reading() as session:
        first = [slot.shown[0] for slot in session.exec(select(Slot)).all()]
    assert len(first) == 4000 and binomtest(sum(first), 4000).pvalue > 0.001
    for kind in ("GET", "POST"):
        centiles = quantiles(told[kind], n=100)
        print(f"{kind}: p50 {1e3 * centiles[49]:.0f} ms, p95 {1e3 * centiles[94]:.0f}, p99 {1e3 * centiles[98]:.0f}")
    print(f"{len(told['GET'] + told['POST']) / told['seconds']:.0f} requests a second, {told['seconds']:.0f} s")
    project.database.close()


def test_a_server_that_is_killed_ten_times_loses_nothing(database: str, tmp_path: Path) -> None:
    project, port = made(database, tmp_path, items=150, overlap=4), free_port()
    people = crowd(port, 0.2, project.add_people([f"person-{i}" for i in range(10)]))
    for _ in range(10):
        with served(database, port) as process:
            time.sleep(1.5)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert people.poll() is None, "all was answered before the last kill"
    with served(database, port):
        told = json.loads(people.communicate(timeout=300)[0])
    check(project, told["stored"], 4)
    assert project.progress().left == 0
    project.database.close()
