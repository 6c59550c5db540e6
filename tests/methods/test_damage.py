"""What happened to a run while it was stopped: damage is stepped over or told, and its inputs must be the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from accord.engine.fit import Optimizer
from accord.locks import alone_in
from accord.records import Demonstration, Preference, Prompt
from accord.train.inputs import digest_of_rows, digests_of_files
from accord.train.rows import read_metrics
from tests.commands.small import accord, save_model, write_jsonl

ROWS = [Demonstration("hi", "bye"), Demonstration("bye", "hello good day"), Demonstration("good", "bad")]
PAIRS = [Preference("hi", "bye", "bad"), Preference("good", "day", "bye")]
REMEDY = ": restore it, or choose another --out."
RESULTS = ("model/model.safetensors", "samples.jsonl", "alarms.jsonl")


class Stopped:
    """A run of `sft` that was stopped after three of its four steps, with a checkpoint after each, and a whole one."""

    def __init__(self, home: Path, more: tuple[str, ...] = ()) -> None:
        self.home, self.base, self.data = home, save_model(home / "base"), write_jsonl(home / "rows.jsonl", ROWS)
        self.command = ["sft", "--model", self.base, "--data", self.data, "--batch-size", "2", "--max-steps", "4"]
        self.command += ["--dtype", "float32", "--save-every", "1", *more, "--out"]
        update = Optimizer.update

        def stopped(optimizer: Optimizer, step: int, *work: Any) -> dict[str, float]:
            if step == 3:
                raise KeyboardInterrupt
            return update(optimizer, step, *work)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Optimizer, "update", stopped)
            assert accord(*self.command, home / "stopped") == 130
        assert accord(*self.command, home / "whole") == 0
        kept = sorted(path.name for path in (home / "stopped" / "checkpoints").iterdir())
        assert kept == ["step-0000002", "step-0000003"]

    def copy(self, out: Path) -> Path:
        return Path(shutil.copytree(self.home / "stopped", out))

    def resume(self, out: Path) -> int:
        return accord(*self.command, out, "--resume")

    def require_whole(self, out: Path, first: int = 0) -> None:
        """The finished run has the results of the one that was never stopped."""
        for name in RESULTS:
            assert (out / name).read_bytes() == (self.home / "whole" / name).read_bytes(), name
        same = ("step", "loss", "gradient_norm", "learning_rate", "epoch", "tokens", "eval_loss")
        rows, expected = (
            [{k: row.get(k) for k in same} for row in read_metrics(f)] for f in (out, self.home / "whole")
        )
        assert rows == [row for row in expected if row["step"] >= first]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(tmp_path_factory.mktemp("sft"))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was said on standard error, on one line."""
    capsys.readouterr()
    yield lambda: " ".join(capsys.readouterr().err.split())


def flip(file: Path, place: float = 0.5) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "its end": lambda file: os.truncate(file, file.stat().st_size - 10),
    "all of it": lambda file: os.truncate(file, 0),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": Path.unlink,
}


@pytest.mark.parametrize(
    ("name", "how"),
    [("model.safetensors", how) for how in DAMAGE] + [("optimizer.safetensors", "a bit"), ("state.json", "a bit")],
)
def test_a_damaged_checkpoint_is_stepped_over(name: str, how: str, run: Stopped, tmp_path: Path, told: Any) -> None:
    out = run.copy(tmp_path / "run")
    DAMAGE[how](out / "checkpoints" / "step-0000003" / name)
    assert run.resume(out) == 0
    assert told().count("step-0000003 is skipped") == 1
    run.require_whole(out)


def test_where_no_checkpoint_is_whole_that_is_said_and_nothing_is_touched(
    run: Stopped, tmp_path: Path, told: Any
) -> None:
    out = run.copy(tmp_path / "run")
    for step in (2, 3):
        flip(out / "checkpoints" / f"step-000000{step}" / "model.safetensors")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run.resume(out) == 2
    file = out / "checkpoints" / "step-0000003" / "model.safetensors"
    assert (
        f"accord: the checkpoint file {file} is not as it was written, and there is no earlier checkpoint to continue "
        f"from: restore it, delete {out}/checkpoints to start over, or choose another --out."
    ) in told()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    shutil.rmtree(out / "checkpoints")  # as it says
    assert run.resume(out) == 0
    run.require_whole(out)


def test_strays_and_leftovers_are_in_nobody_s_way(run: Stopped, tmp_path: Path) -> None:
    out = run.copy(tmp_path / "run")
    shutil.copytree(out / "checkpoints" / "step-0000002", out / "checkpoints" / "step-old")
    shutil.copytree(out / "checkpoints" / "step-0000003", out / "checkpoints" / ".step-0000003.999999999.partial")
    (out / ".model.999999999.partial").mkdir()
    (out / ".config.yaml.999999999.partial").write_text("comm")
    (out / ".lock").write_text("process 1 on elsewhere since long ago")
    assert run.resume(out) == 0
    run.require_whole(out)
    assert [path.name for path in out.rglob("*") if path.name.startswith(".")] == [".accord-wrote"]


def test_a_run_that_was_killed_as_it_began_begins(run: Stopped, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.yaml.999999999.partial").write_text("comm")
    assert accord(*run.command, out) == 0
    run.require_whole(out)


@pytest.mark.parametrize("line", [1, 2, 3])
def test_damaged_metrics_are_stepped_over_or_told(line: int, run: Stopped, tmp_path: Path, told: Any) -> None:
    out = run.copy(tmp_path / "run")
    file = out / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    for damaged in ("\0" * (len(lines[line - 1]) - 1) + "\n", lines[line - 1].replace("loss", "lass"), ""):
        file.write_text("".join([*lines[: line - 1], damaged, *lines[line:]]))
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        again = Path(shutil.copytree(out, tmp_path / "again"))
        assert run.resume(again) == (0 if line == 3 else 2)
        said = f"{again}/metrics.jsonl is not as it was written up to step 3"
        assert said + (": step-0000003 is skipped" if line == 3 else ", and there is no earlier") in told()
        if line == 3:
            run.require_whole(again)


def test_what_a_power_cut_left_behind_the_checkpoint_is_dropped(run: Stopped, tmp_path: Path, told: Any) -> None:
    out = run.copy(tmp_path / "run")
    for name in ("metrics", "samples", "alarms"):
        with (out / f"{name}.jsonl").open("a") as file:
            file.write("\0" * 700 + '\n{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    assert run.resume(out) == 0
    run.require_whole(out)
    assert f"{out}/metrics.jsonl: lines that cannot be read are left out (1)" in told()


def test_metrics_that_were_taken_away_are_missed_in_a_line(run: Stopped, tmp_path: Path, told: Any) -> None:
    out = run.copy(tmp_path / "run")
    (out / "metrics.jsonl").unlink()
    assert run.resume(out) == 0
    assert f"{out}/metrics.jsonl is gone, and with it the rows up to step 3." in told()
    run.require_whole(out, first=4)


def test_where_the_best_model_is_chosen_by_metrics_they_must_be_there(tmp_path: Path, told: Any) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", ROWS[1:])
    run = Stopped(tmp_path, ("--eval-data", held, "--eval-every", "1"))
    out = run.copy(tmp_path / "run")
    assert run.resume(out) == 0
    run.require_whole(out)
    out = run.copy(tmp_path / "again")
    (out / "metrics.jsonl").unlink()
    told()
    assert run.resume(out) == 2
    assert "metrics.jsonl is not as it was written up to step 3, and there is no earlier" in told()
    write_jsonl(tmp_path / "held.jsonl", ROWS[:2])
    assert run.resume(run.copy(tmp_path / "other")) == 2
    assert f"began with other content in eval_data ({held}): restore it, or choose another --out." in told()


def test_config_yaml_must_be_there_whole(run: Stopped, tmp_path: Path, told: Any) -> None:
    out = run.copy(tmp_path / "run")
    (out / "config.yaml").write_text("")
    assert run.resume(out) == 2
    assert told() == f"accord: {out}/config.yaml holds no settings: restore it, or choose another --out."


def test_other_rows_in_the_same_file_are_refused(run: Stopped, tmp_path: Path, told: Any) -> None:
    out, rows = run.copy(tmp_path / "run"), Path(run.data).read_text()
    for other in (ROWS[::-1], ROWS[:2], [*ROWS, ROWS[0]]):
        write_jsonl(Path(run.data), other)
        assert run.resume(out) == 2
        said = f"accord: {out} began with other content in data ({run.data}): restore it, or choose another --out."
        assert told() == said
    Path(run.data).write_text(rows)
    assert run.resume(out) == 0
    run.require_whole(out)


def test_another_model_in_the_same_folder_is_refused(run: Stopped, tmp_path: Path, told: Any) -> None:
    out, file = run.copy(tmp_path / "run"), Path(run.base) / "model.safetensors"
    whole = file.read_bytes()
    weights = load_file(file)
    weights["model.norm.weight"] *= 1.001
    save_file(weights, file, metadata={"format": "pt"})
    assert run.resume(out) == 2
    assert (
        told() == f"accord: {out} began with other content in model ({run.base}): restore it, or choose another --out."
    )
    file.write_bytes(whole)


def test_a_run_of_before_there_were_digests_goes_on(run: Stopped, tmp_path: Path) -> None:
    out = run.copy(tmp_path / "run")
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert {name for name in settings if name.endswith("_sha256")} == {"data_sha256", "model_sha256"}
    kept = {name: value for name, value in settings.items() if not name.endswith("_sha256")}
    (out / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    assert run.resume(out) == 0


def test_another_reference_is_refused(tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, reference = save_model(tmp_path / "base"), Path(save_model(tmp_path / "reference"))
    command = ["dpo", "--model", base, "--reference", reference, "--data", write_jsonl(tmp_path / "pairs.jsonl", PAIRS)]
    command += ["--batch-size", "2", "--max-steps", "2", "--save-every", "1", "--out", tmp_path / "run"]
    update = Optimizer.update

    def stopped(optimizer: Optimizer, step: int, *work: Any) -> dict[str, float]:
        if step == 1:
            raise KeyboardInterrupt
        return update(optimizer, step, *work)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "update", stopped)
        assert accord(*command) == 130
    flip(reference / "model.safetensors", 0.99)
    told()
    assert accord(*command, "--resume") == 2
    assert f"began with other content in reference ({reference})" in told()
    flip(reference / "model.safetensors", 0.99)
    assert accord(*command, "--resume") == 0


def test_what_a_formula_names_has_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rm", "other", "sft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    settings = {"command": "sft", "reward": "0.5 * rm + min(other, rm) + number", "judge": "ai:m", "model": "sft"}
    first = digests_of_files(settings)
    assert first.keys() == {"reward", "model"}
    (tmp_path / "rm" / "README.md").write_text("a card")
    (tmp_path / "rm" / ".DS_Store").write_text("")
    assert digests_of_files(settings) == first
    (tmp_path / "other" / "model.safetensors").write_bytes(b"Other")
    assert (
        digests_of_files(settings)["reward"] != first["reward"]
        and digests_of_files(settings)["model"] == first["model"]
    )


def test_the_digest_of_rows_is_of_their_order_and_columns() -> None:
    rows = [Prompt("hi", {"answer": "4"}), Prompt("bye", {"answer": "5"})]
    assert digest_of_rows(rows) == digest_of_rows([Prompt("hi", {"answer": "4"}), Prompt("bye", {"answer": "5"})])
    others = [rows[::-1], rows[:1], [rows[0], Prompt("bye", {"answer": "6"})], [rows[0], Prompt("bye", {"gold": "5"})]]
    assert len({digest_of_rows(rows), *map(digest_of_rows, others)}) == 5
    assert digest_of_rows([Prompt("hi", {"o": object()})]) == digest_of_rows(
        [Prompt("hi", {"o": object()})]
    )  # no address in it


def test_a_run_that_is_running_is_not_gone_on_with(run: Stopped, tmp_path: Path, told: Any) -> None:
    out = run.copy(tmp_path / "run")
    with alone_in(out):
        for more in ((), ("--resume",)):
            assert accord(*run.command, out, *more) == 2
            assert f"accord: {out} is in use by process {os.getpid()} on " in told()
    assert run.resume(out) == 0


def race(run: Stopped, out: Path, trial: int) -> None:
    """Two of one command but for the seed, in one folder at once: one wins, and the other is told."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)

    def child(seed: int) -> None:
        with (out.parent / f"{trial}-{seed}").open("w") as said, redirect_stderr(said):
            start.wait()
            code = accord(*run.command, out, "--seed", seed)
        os._exit(code)

    both = [context.Process(target=child, args=(seed,)) for seed in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    codes, errors = ([p.exitcode for p in both], [(out.parent / f"{trial}-{seed}").read_text() for seed in (0, 1)])
    assert sorted(codes, key=str) == [0, 2], f"trial {trial}: {codes} {errors}"
    loser = codes.index(2)
    said = " ".join(errors[loser].split())
    assert f"in use by process {both[1 - loser].pid} on " in said or "holds another run" in said
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 1 - loser
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert (out / "model" / "model.safetensors").exists() and not (out / "checkpoints").exists()


def test_two_at_once_in_one_folder(run: Stopped, tmp_path: Path) -> None:
    for trial in range(2):
        race(run, tmp_path / f"run-{trial}", trial)


@pytest.mark.slow
def test_two_at_once_in_one_folder_twenty_times(run: Stopped, tmp_path: Path) -> None:
    for trial in range(20):
        race(run, tmp_path / f"run-{trial}", trial)
