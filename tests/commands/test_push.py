"""`accord push`: what the Hub receives from the real client, byte for byte; what is refused, here and there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

import accord as library
from accord.engine.load import load_model
from tests.commands.hub import TOKEN, Hub, serving_hub
from tests.commands.small import accord, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(save_model(tmp_path_factory.mktemp("saved") / "model"))
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A model\n")
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A model's folder, in which other files may lie."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this process's client talks to, by LFS."""
    with serving_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_the_hub_receives(
    model: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent = contents(model)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= sent.keys()
    (model / "notes.txt").write_text("mine alone")
    (model / ".env").write_text(f"HF_TOKEN={TOKEN}")
    assert accord("push", model, "me/mine", "--private") == 0
    assert hub.files == {("me/mine", "main"): sent} and hub.private == {"me/mine": True}
    printed = capsys.readouterr()
    assert printed.out == f"push: {hub.address}/me/mine/commit/{'1' * 40}\n"
    assert f"model.safetensors  {len(sent['model.safetensors']):,} bytes" in printed.err
    assert "not uploaded: .env, notes.txt" in printed.err and TOKEN not in printed.out + printed.err
    # Again, in Python, into a branch of the repository that is there.
    assert library.push(str(model), "me/mine", revision="v1").startswith(hub.address)
    assert hub.files["me/mine", "v1"] == sent
    # And it is a model.
    back = tmp_path / "back"
    back.mkdir()
    for name, content in hub.files["me/mine", "v1"].items():
        (back / name).write_bytes(content)
    ours, theirs = (load_model(str(folder)).network.state_dict() for folder in (model, back))
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


@pytest.mark.skipif(huggingface_hub.__version__.startswith("1."), reason="it sends so few bytes by LFS")
def test_the_command_in_a_process_of_its_own_by_xet(model: Path, tmp_path: Path) -> None:
    with serving_hub() as hub:
        told = {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "0",
        }
        words = [sys.executable, "-m", "accord", "push", str(model), "me/mine"]
        done = subprocess.run(words, env={**os.environ, **told}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert hub.files["me/mine", "main"] == contents(model)
        assert any("/cas/v1/xorbs/" in asked for asked in hub.asked) and not any("/lfs" in asked for asked in hub.asked)


def test_a_dry_run_asks_nobody(model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("push", model, "me/mine", "--dry-run", "--revision", "v2") == 0
    printed = capsys.readouterr()
    assert printed.out == f"push: {len(contents(model))} files would go to me/mine, v2\n"
    assert "model.safetensors" in printed.err and hub.asked == []


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("repos/create", 401, r"the Hub does not know the token; set HF_TOKEN again, or log in with `hf auth login`"),
        ("preupload", 403, r"the token may not write to me/mine; take one with write access, or another name"),
        ("preupload", 404, r"the Hub has no me/mine, or hides it from this token"),
        ("lfs/objects", 403, r"the token may not write to me/mine"),
        ("commit", 409, r"the Hub answered 409 for me/mine; try again later (so it was decided)."),
    ],
)
def test_what_the_hub_refuses(
    where: str, code: int, message: str, model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = {where: code}
    assert accord("push", model, "me/mine") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"accord: push: {message}") and TOKEN not in last
    assert not hub.files.get(("me/mine", "main"))


def test_a_hub_that_is_not_there(
    model: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert accord("push", model, "me/mine") == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert (
        printed.startswith("accord: push: me/mine could not be uploaded to http://127.0.0.1:9 (")
        and "refused" in printed
    )


def test_no_token(model: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert accord("push", model, "me/mine") == 2
    assert "no token for the Hub is known; set HF_TOKEN, or log in with" in capsys.readouterr().err
    assert hub.asked == []


def test_private_is_never_made_of_what_is_public(model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("push", model, "me/mine") == 0
    hub.files["me/mine", "main"].clear()
    assert accord("push", model, "me/mine", "--private") == 2
    assert "me/mine is there, and public; make it private first" in capsys.readouterr().err
    assert hub.files == {("me/mine", "main"): {}}


def test_what_is_no_model_to_push(model: Path, hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        assert accord("push", *words) == 2 and hub.asked == []
        return capsys.readouterr().err

    assert f"there is no folder {tmp_path / 'none'}" in refused(tmp_path / "none", "me/mine")
    assert f"{tmp_path} is not a model's folder (it has no config.json); push {model}" in refused(tmp_path, "me/mine")
    for name in ("mine", "me/mine/x", "../mine", "https://huggingface.co/me/mine"):
        assert f"{name} is not a repository name; write OWNER/NAME" in refused(model, name)
    (model / "optimizer.safetensors").touch()
    assert "holds optimizer.safetensors, the state of an unfinished run" in refused(model, "me/mine")
    (model / "optimizer.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "lacks model-2.safetensors, which model.safetensors.index.json names" in refused(model, "me/mine")
    (model / "model.safetensors.index.json").unlink()
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1])
    assert "model.safetensors is not a complete safetensors file" in refused(model, "me/mine")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "has no weights in safetensors" in refused(model, "me/mine")
