"""Names on the Hub, by the real clients against one on this machine: what is there is read, what fails is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError

from accord.engine.hub import failure
from tests.commands.small import QUICK, save_model
from tests.data.hub import TOKEN, Hub, serving_hub
from tests.engine.wrapped import save_wrapper

PAIRS = b'{"prompt": "the cat", "chosen": "sat", "rejected": "ran"}\n'
TEXTS = b'{"prompt": "the cat", "completion": "sat"}\n'
CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.jsonl
  - split: test
    path: data/test.jsonl
- config_name: hard
  data_files:
  - split: train
    path: hard/train.jsonl
---
"""
SEVERAL = CARD.replace(b"config_name: default", b"config_name: easy")
RUNS = """
import contextlib, io, json, os, sys, time
from accord.cli.main import main
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.02))  # the Hub's client waits ever longer before it asks again
for line in sys.stdin:
    given = json.loads(line)
    os.environ.update(given["environment"])
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(given["words"])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    for name in given["environment"]:
        del os.environ[name]
    print(json.dumps([status, out.getvalue()]), flush=True)
"""
"""Commands one after another in one process, whose clients know the Hub's address from its environment."""


class Shell:
    """What runs commands against a Hub."""

    def __init__(self, folder: Path, address: str, **environment: str) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        given |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNS], env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *words: object, **environment: str) -> tuple[int, str]:
        """The status, and the last line on standard error."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"words": [str(w) for w in words], "environment": environment}) + "\n")
        self.process.stdin.flush()
        status, told = json.loads(self.process.stdout.readline())
        return status, (told.strip().splitlines() or [""])[-1].removeprefix("accord: ")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("of-hub")
    save_model(folder)
    model = {file.name: file.read_bytes() for file in folder.iterdir()}
    pairs = {"README.md": CARD, "data/train.jsonl": PAIRS * 8, "data/test.jsonl": PAIRS * 3, "hard/train.jsonl": PAIRS}
    with serving_hub() as made:
        for name in ("own", "secret", "gated", "broken"):
            made.files[f"datasets/me/{name}"] = {"main": {"train.jsonl": TEXTS * 8}}
        made.files["datasets/me/pairs"] = {"main": pairs}
        made.files["datasets/me/several"] = {"main": {**pairs, "README.md": SEVERAL}}
        without = {
            "mine": "", "secret": "", "gated": "", "nothing": "config", "mute": "tok", "pickled": "model.",
        }  # fmt: skip
        for name, lacks in without.items():
            held = {path: content for path, content in model.items() if not lacks or not path.startswith(lacks)}
            made.files[f"models/me/{name}"] = {"main": held}
        made.files["models/me/pickled"]["main"]["pytorch_model.bin"] = b"anything"
        save_wrapper(folder / "sees", "gemma3")
        sees = {file.name: file.read_bytes() for file in (folder / "sees").iterdir()}
        made.files["models/me/sees"] = {"main": {**sees, "preprocessor_config.json": b'{"image_processor_type": "X"}'}}
        made.private |= {f"{kind}/me/{name}" for kind in ("models", "datasets") for name in ("secret", "mine", "own")}
        made.gated |= {"models/me/gated", "datasets/me/gated"}
        yield made


@pytest.fixture(scope="module")
def shell(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("shell"), hub.address)
    yield made
    made.end()


@pytest.mark.parametrize("words", ["me/pairs:hard", "me/pairs --split test", "me/pairs --split train[:3]"])
def test_data_that_is_there_is_read(words: str, shell: Shell) -> None:
    assert shell("data", *words.split())[0] == 0


def test_models_and_data_that_are_there_train_at_once_and_row_by_row(shell: Shell, tmp_path: Path) -> None:
    known = {"HF_TOKEN": TOKEN}
    for run, more in (("whole", []), ("streamed", ["--stream"])):
        asked = ("--model", "me/mine", "--data", "me/own", "--split", "train[:4]", *more, "--out", tmp_path / run)
        assert shell("sft", *asked, *QUICK, **known)[0] == 0
    last = [(tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1] for run in ("whole", "streamed")]
    losses = [json.loads(line)["loss"] for line in last]
    assert losses[0] == losses[1]


def test_a_model_s_revision_is_read_where_its_name_has_one(hub: Hub, shell: Shell, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(TEXTS)
    hub.files["models/me/two"] = {"main": {}, "v2": hub.files["models/me/mine"]["main"]}
    assert shell("score", "--model", "me/two@v2", "--data", rows, "--out", tmp_path / "of.jsonl")[0] == 0
    assert shell("score", "--model", "me/two", "--data", rows, "--out", tmp_path / "main.jsonl") == (
        2,
        "me/two on the Hub is not a model: it has no config.json.",
    )


def test_a_language_model_goes_back_into_a_whole_on_the_hub(shell: Shell, tmp_path: Path) -> None:
    assert shell("merge", "me/sees", "--into", "me/sees", "--out", tmp_path / "whole") == (0, ANY)
    assert json.loads((tmp_path / "whole/config.json").read_text())["model_type"] == "gemma3"
    assert json.loads((tmp_path / "whole/preprocessor_config.json").read_text()) == {"image_processor_type": "X"}


LOG_IN = "set HF_TOKEN, or log in by `hf auth login`."
NONE = f"of that name on the Hub: check the name; for a private one {LOG_IN}"
ASK = "is gated: ask for access on its page, https://huggingface.co"
REFUSED = {
    "data me/none": f"there is no file me/none, and no readable data set {NONE}",
    "data me/secret": f"there is no file me/secret, and no readable data set {NONE}",
    "data me/gated": f"me/gated {ASK}/datasets/me/gated, and {LOG_IN}",
    "data me/pairs --split dev": "me/pairs on the Hub has no split 'dev': there are train, test",
    "data me/pairs:soft": "me/pairs on the Hub has no configuration soft: there are default, hard",
    "data me/several": (
        "me/several on the Hub has several configurations: name one, as me/several:CONFIG, of easy, hard"
    ),
    "chat me/none": f"there is no folder me/none, and no readable model {NONE}",
    "chat me/secret": f"there is no folder me/secret, and no readable model {NONE}",
    "chat me/gated": f"me/gated {ASK}/me/gated, and {LOG_IN}",
    "chat me/nothing": "me/nothing on the Hub is not a model: it has no config.json.",
    "chat me/mute": "me/mute on the Hub has no tokenizer (tokenizer.json and others): name a model that has one.",
    "chat me/pickled": (
        "me/pickled on the Hub holds its weights as a pickle (pytorch_model.bin), which could run any code and is not "
        "read: name one that has safetensors."
    ),
    "merge me/sees --into me/none --out never-made": (f"there is no folder me/none, and no readable model {NONE}"),
    "inspect me/pairs@v2 the": f"there is no folder me/pairs, and no readable model {NONE}",
    "inspect me/sees@v2 the": "me/sees on the Hub has no revision v2: name a branch, a tag or a commit.",
}


@pytest.mark.parametrize(("command", "told"), REFUSED.items())
def test_what_is_not_to_be_had_is_said(command: str, told: str, shell: Shell) -> None:
    assert shell(*command.split()) == (2, told)


def test_a_download_that_breaks_off_is_said(hub: Hub, shell: Shell) -> None:
    hub.broken["me/broken"] = 100
    told = shell("data", "me/broken")
    assert told[0] == 2 and told[1].startswith("the download of me/broken from the Hub broke off (peer closed")
    assert told[1].endswith("expected 344)): try again, it resumes.")


def test_without_the_hub_it_is_said(tmp_path: Path) -> None:
    alone = Shell(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    told = "me/none is not on this machine, and HF_HUB_OFFLINE keeps the Hub from being asked: unset it."
    try:
        assert alone("data", "me/none") == alone("chat", "me/none") == (2, told)
    finally:
        alone.end()


def test_a_hub_that_is_not_there_or_refuses_is_said() -> None:
    """What its client raises after a minute of trying."""
    asked = httpx.Request("GET", "http://127.0.0.1:9/x")
    busy = HfHubHTTPError("429", response=httpx.Response(429, request=asked))
    gone = httpx.ConnectError("refused")
    for cause, told in (
        (busy, "the Hub refused me/x (status 429): try again later."),
        (gone, "the Hub cannot be reached, and me/x is not on this machine: try again, or give a folder."),
    ):
        error = OSError("We couldn't connect")
        error.__cause__ = cause
        assert str(failure("me/x", "model", error)) == told
    assert failure("me/x", "model", ValueError("of another kind")) is None
