"""A table of inputs that cannot be used, a line each: told in a sentence, with status 2, nothing left half-written."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

from accord.limits import within
from tests.commands.small import accord
from tests.trust.inputs import write_all

LINES = (Path(__file__).parent / "bad_inputs.txt").read_text(encoding="utf-8").splitlines()[1:]
SHORT = dict(line.split(" := ") for line in LINES if " := " in line)
TABLE = [line.split("  =>  ") for line in LINES if "  =>  " in line]
LEAVES = ("rewards_here", "judges_here")
"""Functions that fail when samples are there: by then a run has begun, and its folder says so."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, here = tmp_path_factory.mktemp("bad"), Path.cwd()
    write_all(folder)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accord.parsing.PATIENCE", 0.1)
        patch.setattr("accord.feedback.imports.IMPORT_SECONDS", 1.0)
        yield folder
    sys.path.remove(str(folder))
    os.chdir(here)


@pytest.mark.parametrize(
    ("command", "message"),
    [pytest.param(*row, marks=() if i % 12 == 0 else pytest.mark.slow) for i, row in enumerate(TABLE)],
)
def test_what_cannot_be_used_is_told(
    command: str, message: str, inputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = inputs / "in" / "out"
    for name, value in SHORT.items():
        command = command.replace(name, value)
    known = {"B": inputs, "M": inputs / "m", "RM": inputs / "rm", "O": out, "A300": "a" * 300}
    with within(30):
        status = accord(*shlex.split(Template(command).safe_substitute(known)))
    left = list((inputs / "in").iterdir())
    shutil.rmtree(inputs / "in")
    (inputs / "in").mkdir()
    assert status == 2
    first, *more = capfd.readouterr().err.strip().splitlines()
    assert first.startswith("accord: ") and Template(message).safe_substitute(known) in first
    of_users = [line for line in more if "_here" in command or "_at_import" in command]
    assert more == of_users and "Traceback" not in "".join(more)
    assert not left or any(name in command for name in LEAVES)


def test_the_table_is_long() -> None:
    assert len(TABLE) > 280 and len({command for command, _ in TABLE}) == len(TABLE)
