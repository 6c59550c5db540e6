"""What services are told of a run, read back by their own readers; what is refused; what a failing one may not do."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from accord.errors import InputError
from accord.methods import SFT
from accord.records import Demonstration
from accord.train import track
from accord.train.rows import read_metrics
from accord.train.run import Run
from tests.commands.small import QUICK, accord, save_model, write_jsonl

SETTINGS = {"command": "sft", "seed": 3, "model": "m"}
ASKED = SETTINGS | {"reward": "2 * https://me:hunter2@host/score?key=abc + cafe"}
TOLD = SETTINGS | {"reward": "2 * https://host/score + cafe"}
"""Settings as the user gave them, and as others are told of them."""


def session(folder: Path, service: str, first: int, last: int, *, killed: bool = False, loss: float = 0.0) -> None:
    """The steps first ... last of a run; the alarm sampler-drift rings at step 3, its third row beyond 0.05."""
    try:
        with Run(folder, ASKED, resume=first > 1, track=service, name="mine") as run:
            run.begin(first - 1, 5)
            for step in range(first, last + 1):
                run.log(step, {"loss": loss + 1 / step, "sampler_drift": 0.125, "reward of a(b, c)": -step}, tokens=10)
            if killed:
                raise RuntimeError("killed")
    except RuntimeError:
        pass


def interrupted_and_resumed(folder: Path, service: str, *, lost: bool = True) -> None:
    """Four steps, a death, and, from a checkpoint after the second, three steps with losses that are 10 higher.

    Where one is `lost`, a fifth step came as far as the run's own file before the death, and not to the service.
    """
    session(folder, service, 1, 4, killed=True)
    if lost:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "loss": 7.0, "seconds": 1.0}\n')
    session(folder, service, 3, 5, loss=10.0)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3, 4, 5]


def test_tensorboard_drops_the_steps_that_are_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Numbers that end the names of the sessions' files: made in one second, .10 would be read before .9.
    monkeypatch.setattr(event_file_writer, "_global_uid", SimpleNamespace(get=iter((9, 10)).__next__))
    interrupted_and_resumed(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("loss")]
    assert losses == [(s, pytest.approx(10 * (s > 2) + 1 / s)) for s in range(1, 6)]
    assert "step" not in events.Tags()["scalars"] and "reward of a(b, c)" in events.Tags()["scalars"]
    assert [e.step for e in events.Tensors("alarms/sampler-drift/text_summary")] == [3]
    assert events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].startswith(b"    command: sft\n")


def records(file: Path) -> Iterator[Any]:
    """The records of an offline run of wandb: LevelDB's log format, 7 bytes of a head before it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, block = file.read_bytes(), 7, b"", 32768
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or the last part, of a record
            yield Record.FromString(whole)
            whole = b""


def of_wandb(file: Path) -> dict[str, Any]:
    """What is in an offline run's file, as far as it is asked about here."""
    found: dict[str, Any] = {"losses": [], "config": {}, "alerts": [], "summary": {}}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            found["losses"].append((row["_step"], row["loss"]))
        elif kind == "alert":
            found["alerts"].append((record.alert.title, record.alert.text))
        elif kind == "summary":
            items = ((item.key or item.nested_key[0], item.value_json) for item in record.summary.update)
            found["summary"] |= {key: json.loads(value) for key, value in items}
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def test_wandb_offline_goes_on_after_the_last_step_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    interrupted_and_resumed(tmp_path / "run", "wandb", lost=False)
    wandb.teardown()  # its process has then written all of its files
    known = json.loads((tmp_path / "run" / "tracking.json").read_text())["wandb"]
    first, second = map(of_wandb, sorted(tmp_path.glob("wandb/offline-*/*.wandb")))
    assert [(f["id"], f["project"], f["name"]) for f in (first, second)] == [(known["id"], "theirs", "mine")] * 2
    assert first["losses"] == [(s, pytest.approx(1 / s)) for s in range(1, 5)]
    assert second["losses"] == [(5, pytest.approx(10.2))]
    assert first["config"].items() >= TOLD.items()
    assert first["alerts"][0][0] == "sampler-drift" and first["alerts"][0][1].startswith("step 3: sampler and trainer")
    assert (first["exit"], second["exit"]) == (1, 0)
    assert (first["summary"]["ended"], second["summary"]["ended"]) == ("failed", "finished")


@pytest.fixture(scope="module")
def trackio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client with a folder of its own, which it asks for when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        pytest.importorskip("trackio")
        from trackio.sqlite_storage import SQLiteStorage

        yield SQLiteStorage


def losses_in(trackio: Any, folder: Path) -> list[tuple[int, float]]:
    known = json.loads((folder / "tracking.json").read_text())["trackio"]
    logs = trackio.get_logs("accord", known["name"], run_id=known["id"])
    return [(row["step"], row["loss"]) for row in logs]


def test_trackio_goes_on_where_another_run_has_the_same_name(trackio: Any, tmp_path: Path) -> None:
    session(tmp_path / "run", "trackio", 1, 4, killed=True)
    session(tmp_path / "other", "trackio", 1, 1)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 7.0}\n')  # it did not come to the service before the death
    session(tmp_path / "run", "trackio", 3, 5, loss=10.0)
    assert losses_in(trackio, tmp_path / "run") == [
        *((s, pytest.approx(1 / s)) for s in range(1, 5)),
        (5, pytest.approx(10.2)),
    ]
    assert losses_in(trackio, tmp_path / "other") == [(1, 1.0)]
    known = json.loads((tmp_path / "run" / "tracking.json").read_text())["trackio"]
    assert trackio.get_run_config("accord", "mine", run_id=known["id"]).items() >= TOLD.items()
    alerts = trackio.get_alerts("accord", run_id=known["id"])
    assert {(a["title"], a["step"]) for a in alerts} == {("sampler-drift", 3), ("the run failed", 4)}


def test_a_service_that_comes_later_gets_what_was_logged_before(trackio: Any, tmp_path: Path) -> None:
    session(tmp_path / "run", "none", 1, 4, killed=True)
    assert not (tmp_path / "run" / "tracking.json").exists() and not (tmp_path / "run" / "tensorboard").exists()
    session(tmp_path / "run", "trackio", 3, 5, loss=10.0)
    assert losses_in(trackio, tmp_path / "run") == [(s, pytest.approx(10 * (s > 2) + 1 / s)) for s in range(1, 6)]


@pytest.mark.parametrize("store", ["file", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_mlflow_goes_on_after_the_last_step_it_has(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{tmp_path / 'ml.db'}" if store == "sqlite" else (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.chdir(tmp_path)
    interrupted_and_resumed(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("theirs").experiment_id])
    assert found.info.run_id == json.loads((tmp_path / "run" / "tracking.json").read_text())["mlflow"]["run_id"]
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    history = sorted((m.step, m.value) for m in client.get_metric_history(found.info.run_id, "loss"))
    assert history == [*((s, pytest.approx(1 / s)) for s in range(1, 5)), (5, pytest.approx(10.2))]
    assert found.data.metrics["reward of a_b_ c_"] == -5
    assert found.data.params == {name: str(value) for name, value in TOLD.items()}
    assert found.data.tags["alarm.sampler-drift"].startswith("step 3: sampler and trainer differ by 0.125")


class Broken(track.TensorBoard):
    """A service that fails at step 2 and ever after."""

    told: list[Any]

    def begin(self, run: track.TrackedRun) -> track.Known:
        Broken.told = []
        return {}

    def log(self, step: int, row: Any) -> None:
        Broken.told.append(step)
        if step >= 2:
            raise ConnectionError("no answer from https://me:secret@host/api\nand more")

    def close(self, ended: track.Ended) -> None:
        Broken.told.append(ended)
        raise ConnectionError("gone")


def test_a_service_that_fails_is_named_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(track.SERVICES, "tensorboard", Broken)
    session(tmp_path / "run", "tensorboard", 1, 4)
    assert Broken.told == [1, 2, "finished"]
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]
    printed = " ".join(capfd.readouterr().err.split())
    assert printed.count("tensorboard failed") == 1 and "https://host/api" in printed
    assert "secret" not in printed and "gone" not in printed


def test_a_service_that_refuses_ends_the_run_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(self: Broken, run: track.TrackedRun) -> track.Known:
        raise ConnectionError("no answer")

    monkeypatch.setattr(Broken, "begin", begin)
    monkeypatch.setitem(track.SERVICES, "tensorboard", Broken)
    with pytest.raises(InputError, match=r"track: tensorboard cannot be used \(no answer\); fix it, or leave"):
        session(tmp_path / "run", "tensorboard", 1, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("tensorboard", ["tensorboard"]), ("none", []), ("", []), ("tensorboard, tensorboard", ["tensorboard"])],
)
def test_services_by_name(given: str, expected: list[str]) -> None:
    assert track.services(given) == expected


def test_services_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"track: there is no service 'wndb'; did you mean wandb\?$"):
        track.services("wndb")
    with pytest.raises(InputError, match="there is no service 'x'; there are wandb, trackio, mlflow, tensorboard, and"):
        track.services("x")
    # The folder that an offline run of some service leaves is no installed package.
    (tmp_path / "absent_service").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(track.SERVICES, "absent_service", track.MLflow)
    with pytest.raises(InputError, match="track: absent_service needs the mlflow extra: pip install mlflow-skinny"):
        track.services("tensorboard,absent_service")
    monkeypatch.setattr(track, "DEFAULT", "absent_service")
    assert track.services(track.DEFAULT) == []


def test_tracking_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = save_model(tmp_path / "base"), tmp_path / "run"
    rows = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "hello"), Demonstration("bye", "good bye")])
    words = ("sft", "--model", base, "--data", rows, "--out", out, *QUICK)
    assert accord(*words, "--track", "nothing") == 2
    assert "track: there is no service 'nothing'" in capsys.readouterr().err and not out.exists()
    assert accord(*words, "--track", "none", "--run-name", "a") == 0
    assert not (out / "tensorboard").exists() and not (out / "tracking.json").exists()
    assert not {"track", "run_name"} & yaml.safe_load((out / "config.yaml").read_text()).keys()
    assert accord(*words, "--resume") == 0  # with other tracking


def test_a_logger_of_the_users_gets_what_is_measured_beside_the_step(tmp_path: Path) -> None:
    def lengths(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    told: list[tuple[int, dict[str, float]]] = []
    rows = [Demonstration("hi", "hello"), Demonstration("bye", "good bye")]
    method = SFT(max_steps=2, batch_size=2, dtype="float32")
    watch = {"watch": lengths, "watch_data": [{"prompt": "hi"}], "watch_every": 1, "watch_tokens": 4}
    run = method.fit(
        save_model(tmp_path / "base"),
        rows,
        out=tmp_path / "run",
        on_step=lambda step, result: told.append((step, result.numbers)),
        **watch,
    )
    times = ("step", "seconds", "tokens", "tokens_per_second")
    assert told == [(r["step"], {k: v for k, v in r.items() if k not in times}) for r in run.metrics[1:]]
    assert all("watched" in numbers for _, numbers in told)
