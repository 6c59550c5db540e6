"""One process at a time: who is told, what is left, and two at once in one folder, again and again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from accord.errors import InputError
from accord.locks import alone_in, alone_with, locked

ROOT = Path(__file__).parents[1]


def test_the_second_is_told_who_holds_it_and_since_when(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a" / "run"):
        told = (
            rf"{tmp_path}/a/run is in use by process {os.getpid()} on {re.escape(socket.gethostname())} since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait for it to end, or choose another --out\."
        )
        for _ in range(2):
            with pytest.raises(InputError, match=told), alone_in(tmp_path / "a" / "run"):
                pass
    assert list(tmp_path.iterdir()) == []  # nothing came of it


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "x").write_text("")
    assert [p.name for p in (tmp_path / "a" / "run").iterdir()] == ["x"]
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path / "b"):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from accord.locks import alone_in\n"
    script += "with alone_in(Path(sys.argv[1])): print('there', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    with pytest.raises(InputError, match=f"is in use by process {process.pid} on "), alone_in(tmp_path / "run"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "run" / ".lock").exists()  # and no lock
    with alone_in(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / ".lock").exists()


def test_where_nothing_can_be_written_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    told = r"file/run cannot be made \(Not a directory\); choose another --out"
    with pytest.raises(InputError, match=told), alone_in(tmp_path / "file" / "run"):
        pass
    told = r"^/proc/self/mem cannot be written \(No such file or directory\)\.$"  # no file can be made there
    with pytest.raises(InputError, match=told), alone_with(Path("/proc/self/mem")):
        pass
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\)"), alone_in(tmp_path):
        pass


def test_where_there_are_no_locks_work_goes_on_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuses)
    with locked(tmp_path / ".lock", "the file", "wait"):
        pass
    assert "the file cannot be locked here (Function not implemented): make sure that no" in capsys.readouterr().err


# Each counts up to the number of its turns, and reads what it wrote before it adds to it: two at once would lose some.
COUNTS = """
import sys
from pathlib import Path
from accord.errors import InputError
from accord.locks import alone_in

folder, turns = Path(sys.argv[1]), int(sys.argv[2])
while turns:
    try:
        with alone_in(folder / "run"):
            count = int((folder / "count").read_text())
            (folder / "count").write_text(str(count + 1))
            turns -= 1
    except InputError:
        pass
"""


def test_no_turn_is_lost_where_folders_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    words = [sys.executable, "-c", COUNTS, str(tmp_path), "100"]
    processes = [subprocess.Popen(words, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "300"
