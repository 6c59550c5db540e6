"""What leaves the house: folders and GGUF files for servers, and runs whose models are saved in bfloat16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import accord as library
from accord.engine import models, networks
from accord.engine.load import load_model
from accord.errors import InputError
from accord.methods import DPO, RewardModel
from accord.train.loop import Result
from tests.commands.small import accord, save_model
from tests.data.conftest import EOS
from tests.engine.byte_pairs import logits, policy
from tests.interrupted import interrupt_at

pytestmark = pytest.mark.usefixtures("blank_reports")

PAIRS = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")]
QUICK: dict[str, Any] = {"learning_rate": 1e-2, "dtype": "float32", "batch_size": 2, "max_steps": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("runs") / "lora"
    return str(DPO(**QUICK, lora_rank=2).fit(base, PAIRS, out=out).folder / "model")


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_folder_holds_the_merged_weights_rounded(
    adapter: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert accord("export", adapter, "--out", out, *(() if dtype == "bfloat16" else ("--dtype", dtype))) == 0
    assert capsys.readouterr().out == f"export: the model is {out}, in {dtype}\n"
    assert accord("merge", adapter, "--out", tmp_path / "whole") == 0
    kind = getattr(torch, dtype)
    whole, given = weights(tmp_path / "whole"), weights(out)
    assert given.keys() == whole.keys()
    assert all(given[name].dtype == kind and torch.equal(given[name], whole[name].to(kind)) for name in whole)
    theirs = AutoModelForCausalLM.from_pretrained(out)  # transformers reads the precision off config.json
    assert (theirs.dtype, theirs.config.dtype) == (kind, kind)
    assert EOS in torch.tensor(theirs.generation_config.eos_token_id)
    same = ("chat_template.jinja", "tokenizer.json", "generation_config.json")
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in same)


def test_the_short_name_is_a_model_like_any(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(networks, "smollm2", lambda: base)
    assert accord("export", "smollm2", "--out", tmp_path / "out", "--dtype", "float32") == 0
    whole, written = weights(base), weights(tmp_path / "out")
    assert whole.keys() == written.keys() and all(torch.equal(whole[name], written[name]) for name in whole)
    assert accord("doctor", "--model", "smollm2", "--method", "dpo") == 0
    assert accord("merge", "smollm2", "--out", tmp_path / "whole") == 2
    assert "merge: smollm2 holds no adapter, so it is a whole model already." in capsys.readouterr().err


def test_a_reward_model_keeps_its_kind(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RewardModel(**QUICK).fit(base, PAIRS, out=tmp_path / "run").folder / "model"
    assert library.export(str(folder), str(tmp_path / "out"), dtype="float16") == str(tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert theirs.score.weight.dtype == torch.float16
    assert torch.equal(theirs.score.weight, weights(folder)["score.weight"].half())
    assert accord("export", folder, "--out", tmp_path / "m.gguf") == 2
    assert f"export: {folder} scores text and does not generate it; only models" in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()


def test_tied_weights_stay_tied_and_large_models_have_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy(tie_word_embeddings=True)
    model.save(tmp_path / "tied")
    monkeypatch.setattr(models, "SHARD", "10KB")
    assert accord("export", tmp_path / "tied", "--out", tmp_path / "out") == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = {*index["weight_map"].values()}
    assert len(files) > 1 and "lm_head.weight" not in index["weight_map"]
    for file in files:
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.bfloat16}  # noqa: SIM118
    back = load_model(str(tmp_path / "out")).network
    assert back.lm_head.weight is back.model.embed_tokens.weight
    assert torch.equal(back.lm_head.weight, model.network.lm_head.weight.bfloat16().float())


def test_a_gguf_file_by_its_name_or_by_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = policy()
    model.save(tmp_path / "model")
    file = tmp_path / "new" / "small.gguf"
    assert accord("export", tmp_path / "model", "--out", file, "--dtype", "float32") == 0
    assert capsys.readouterr().out == f"export: the model is {file}, in float32, written by accord\n"
    assert accord("export", tmp_path / "model", "--out", tmp_path / "folder", "--format", "gguf") == 0
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["model.gguf"]
    assert torch.equal(logits(load_model(str(file))), logits(load_model(str(tmp_path / "model"))))
    capitals = tmp_path / "SMALL.GGUF"
    assert accord("export", file, "--out", capitals, "--dtype", "float32") == 0
    assert torch.equal(logits(load_model(str(capitals))), logits(load_model(str(file))))
    # And back: of the file a folder, which is the model that was.
    assert accord("export", file, "--out", tmp_path / "back", "--dtype", "float32") == 0
    ours, theirs = weights(tmp_path / "model"), weights(tmp_path / "back")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_cannot_be_exported_is_a_sentence(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: object) -> str:
        assert accord("export", *words) == 2
        return capsys.readouterr().err.strip()

    taken, out = tmp_path / "taken", tmp_path / "out"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    assert refused(base, "--out", taken) == f"accord: {taken} holds notes.txt; choose another --out."
    assert "there is no model folder" in refused(tmp_path / "none", "--out", out)
    assert "--dtype must be one of bfloat16, float16, float32, not int8" in refused(
        base, "--out", out, "--dtype", "int8"
    )
    assert "(WordLevel) is not a byte-level BPE" in refused(base, "--out", out, "--format", "gguf")
    large = shutil.copytree(base, tmp_path / "large")
    tensors = weights(large)
    tensors["lm_head.weight"][3, 1] = 65_520  # the first that float16 rounds to infinity
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    told = "lm_head.weight has a number of size 6.552e+04, which is out of float16's range: use bfloat16."
    assert refused(large, "--out", out, "--dtype", "float16") == f"accord: {told}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "taken"]


def run(base: str, out: Path, **rest: Any) -> Result:
    """Three steps, held out rows measured at each."""
    own = {name: rest.pop(name) for name in ("lora_rank",) if name in rest}
    return DPO(**QUICK, **own).fit(base, PAIRS, out=out, eval_data=PAIRS[:2], eval_every=1, **rest)


@pytest.mark.parametrize("own", [{}, {"lora_rank": 2}], ids=["whole", "adapters"])
def test_a_run_saves_in_bfloat16_what_it_would_save_in_float32(base: str, own: dict[str, Any], tmp_path: Path) -> None:
    full, half = run(base, tmp_path / "full", **own), run(base, tmp_path / "half", save_dtype="bfloat16", **own)
    steps = [[{k: v for k, v in row.items() if "sec" not in k} for row in result.metrics] for result in (full, half)]
    assert steps[0] == steps[1]
    name = "adapter_model.safetensors" if own else "model.safetensors"
    for folder in ("model", "best"):
        exact, rounded = (load_file(result.folder / folder / name) for result in (full, half))
        assert exact.keys() == rounded.keys()
        for key, weight in exact.items():
            assert rounded[key].dtype == torch.bfloat16 and torch.equal(rounded[key], weight.bfloat16()), key
    # The model in memory is the one that was saved, in float32, and so is the one that is read again.
    ours = half.model.network.state_dict()
    if own:
        rounded = {key.removeprefix("base_model.model."): weight for key, weight in rounded.items()}
        ours = {key.replace(".default", ""): weight for key, weight in ours.items()}
    assert all(ours[key].dtype == torch.float32 and torch.equal(ours[key], rounded[key].float()) for key in rounded)
    again = run(base, tmp_path / "half", save_dtype="bfloat16", resume=True, **own).model
    other = load_model(str(half.folder / "model"))
    assert all(
        torch.equal(again.network.state_dict()[key], weight) for key, weight in other.network.state_dict().items()
    )


def test_a_run_cut_in_two_ends_in_the_same_bfloat16_weights(base: str, tmp_path: Path) -> None:
    whole = run(base, tmp_path / "whole", save_dtype="bfloat16")
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "cut", save_dtype="bfloat16", save_every=1, on_step=interrupt_at(2))
    saved = [load_file(file) for file in (tmp_path / "cut" / "checkpoints").glob("*/*.safetensors")]
    assert saved and {tensor.dtype for tensors in saved for tensor in tensors.values()} == {torch.float32}
    with pytest.raises(InputError, match="was run with save_dtype = bfloat16, not None"):
        run(base, tmp_path / "cut", resume=True)
    cut = run(base, tmp_path / "cut", save_dtype="bfloat16", resume=True)
    for folder in ("model", "best"):
        first, second = (weights(result.folder / folder) for result in (whole, cut))
        assert all(torch.equal(first[name], second[name]) for name in first)
