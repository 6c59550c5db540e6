"""One bit flipped in a file of a run or a model: what uses it next tells it, or comes to the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from accord.engine.fit import Optimizer
from accord.engine.load import load_model, load_reward_model
from accord.files import SUMS, read_sums
from tests.commands.small import accord
from tests.trust.commands import SAMPLED, Command

DECIDED = ("run/model/model.safetensors", "run/metrics.jsonl", "run/alarms.jsonl", "run/best.json")
"""What a run comes to. Its config.yaml may say otherwise of what decides nothing, as how many tokens a pass has."""


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def bits_of(file: Path, count: int) -> list[int]:
    """Bits evenly spread over a file, and another one of the eight in each byte."""
    size = file.stat().st_size
    return [8 * int((i + 0.5) * size / count) + (3 * i + 1) % 8 for i in range(count)] if size else []


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["sft", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reward", "ppo", "star"))])
def stopped(request: pytest.FixtureRequest, home: Path) -> Command:
    """A run that was stopped in its last update, in the folder `stopped`, and a whole one."""
    command = Command(request.param, home)
    update, updates = Optimizer.update, [0]

    def stop(optimizer: Optimizer, *given: Any) -> dict[str, float]:
        updates[0] -= 1
        if updates[0] == 0:
            raise KeyboardInterrupt
        return update(optimizer, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "update", stop)
        command.clear()
        assert accord(*command.words) == 0
        command.whole = command.left()
        command.clear()
        updates[0] = -updates[0]
        assert accord(*command.words) == 130
    shutil.rmtree(home / "stopped", ignore_errors=True)
    shutil.copytree(command.out, home / "stopped")
    return command


def resumed(command: Command, file: Path, bit: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What became of a damaged run: told, the same, or what is wrong."""
    shutil.rmtree(command.out)
    shutil.copytree(command.home / "stopped", command.out)
    flip(file, bit)
    capsys.readouterr()
    status = accord(*command.words, "--resume")
    said = capsys.readouterr().err
    if status == 2:
        return "told" if "accord: " in said and "Traceback" not in said else f"status 2: {said}"
    left = command.left()
    differ = [name for name in DECIDED if left.get(name) != command.whole.get(name)]
    if status or differ:
        return f"status {status}, other {differ}: {said[-300:]}"
    if left["run/samples.jsonl"] != command.whole["run/samples.jsonl"] and "samples.jsonl is not as" not in said:
        return "other samples"
    folder = command.out / "run" / "best"
    best = folder.exists() and load_or_told(folder, command)
    return "told" if best or "stepped over" in said or " is not as " in said else "the same"


def load_or_told(folder: Path, command: Command) -> str:
    """What is said of a model that cannot be used."""
    try:
        (load_reward_model if command.name == "reward" else load_model)(str(folder))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [pytest.param(1, id="few"), pytest.param(12, id="all", marks=pytest.mark.slow)])
def test_in_a_run_that_goes_on(count: int, stopped: Command, capsys: pytest.CaptureFixture[str]) -> None:
    files = [stopped.out / path.relative_to(stopped.home / "stopped") for path in files_of(stopped.home / "stopped")]
    plans = [
        (file, bit)
        for file in files
        for bit in bits_of(stopped.home / "stopped" / file.relative_to(stopped.out), count)
    ]
    if count == 1:
        plans = plans[::3]
    came = {plan: resumed(stopped, *plan, capsys) for plan in plans}
    print(f"{len(files)} files, {len(plans)} bits: {tally(came)}")
    assert {plan: found for plan, found in came.items() if found not in ("told", "the same")} == {}


def test_what_is_lost_or_edited_in_a_run_is_told(stopped: Command, capsys: pytest.CaptureFixture[str]) -> None:
    run, kept = stopped.out / "run", stopped.home / "stopped" / "run"

    def told() -> str:
        capsys.readouterr()
        assert accord(*stopped.words, "--resume") == 2
        [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("accord: ")]
        assert str(run) in said
        return said

    settings = (kept / "config.yaml").read_text()
    for line in ("history: 3", "history: [3]", "history: [{from: 1}]", "3: x", "seed: 1"):
        (run / "config.yaml").write_text(settings.replace("seed: 0\n", f"{line}\n"))
        told()
    (run / "config.yaml").write_text(settings)
    if (run / "best").exists():  # without a better one later best.json would speak of a model that is not there
        lost = "accord: the best model so far is lost: "
        shutil.rmtree(run / "best")
        assert told().startswith(f"{lost}there is no model folder {run / 'best'}; restore it, or delete ")
        shutil.copytree(kept / "best", run / "best")
        (run / "best" / "model.safetensors").unlink()
        assert told().startswith(lost)
        shutil.copy(kept / "best" / "model.safetensors", run / "best")
    assert accord(*stopped.words, "--resume") == 0
    left = stopped.left()
    assert [name for name in DECIDED if left.get(name) != stopped.whole.get(name)] == []


def tally(came: dict[Any, str]) -> str:
    kinds = list(came.values())
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


@pytest.mark.parametrize("count", [pytest.param(1, id="few"), pytest.param(40, id="all", marks=pytest.mark.slow)])
def test_in_a_model(count: int, stopped: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command reads models through the same door: no damaged one is used."""
    accord(*stopped.words, "--resume")
    model, copy = stopped.out / "run" / "model", tmp_path / "model"
    prompts = stopped.home / "in" / "prompts.jsonl"
    words: tuple[object, ...] = (
        "sample",
        "--data",
        prompts,
        *SAMPLED,
        "--out",
        tmp_path / "out.jsonl",
        "--model",
        copy,
    )
    if stopped.name == "reward":
        pairs = stopped.home / "in" / "pairs.jsonl"
        words = ("evaluate", "comparisons", "--data", pairs, "--out", tmp_path / "trial", "--reward", copy)
    shutil.copytree(model, copy)
    assert accord(*words) == 0
    came: dict[Any, str] = {}
    for file in files_of(model):
        if file.name == "README.md":  # people write there too, and nothing reads it
            continue
        for bit in bits_of(file, count):
            flip(copy / file.name, bit)
            (tmp_path / "out.jsonl").unlink(missing_ok=True)
            capsys.readouterr()
            status, said = accord(*words), capsys.readouterr().err
            told = status == 2 and said.startswith("accord: ") and str(copy) in said and "Traceback" not in said
            came[file.name, bit] = "told" if told else f"status {status}: {said}"
            flip(copy / file.name, bit)
    print(tally(came))
    assert set(came.values()) == {"told"} and len(came) >= 6 * count
    assert accord(*words) == 0


def test_who_changes_a_model_by_hand_deletes_the_digests(stopped: Command, capsys: pytest.CaptureFixture[str]) -> None:
    accord(*stopped.words, "--resume")
    model = stopped.out / "run" / "model"
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("good", "bad"))
    told = (
        f"the model {model} has a damaged file, chat_template.jinja, which is not as SHA256SUMS says: copy it anew, or "
        "delete SHA256SUMS where you changed it yourself."
    )
    assert load_or_told(model, stopped) == told
    (model / SUMS).unlink()
    assert load_or_told(model, stopped) == ""


def test_in_the_rows_of_a_finished_run(
    stopped: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    accord(*stopped.words, "--resume")
    run = stopped.out / "run"
    monkeypatch.undo()
    names = [name for name in read_sums(run) if (run / name).stat().st_size and name != "config.yaml"]
    assert {"metrics.jsonl", "environment.json"} <= {*names}
    for name in names:
        flip(run / name, bits_of(run / name, 1)[0])
        capsys.readouterr()
        accord("report", run)
        assert f"{run / name} has changed since the run ended" in " ".join(capsys.readouterr().err.split())
        accord(*stopped.words, "--resume")
        assert f"{run / name} has changed since the run ended" in " ".join(capsys.readouterr().err.split())
        flip(run / name, bits_of(run / name, 1)[0])
    capsys.readouterr()
    assert accord("report", run) == 0 and "has changed" not in capsys.readouterr().err
