"""Checkpoints of other trainers in shards are told with the command that merges them, of the last step."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from accord.engine.folders import locate
from accord.errors import InputError

COPY = ", copy config.json and the tokenizer's files of the model it began from to MERGED, and give MERGED."
FSDP = "a checkpoint of FSDP in shards: merge it by `accelerate merge-weights {}/pytorch_model_fsdp_0 MERGED`" + COPY
ZERO = "DeepSpeed in shards: merge it by `python -m deepspeed.utils.zero_to_fp32 {} MERGED --tag global_step20"
VERL = "a checkpoint of verl in shards: merge it by `python -m verl.model_merger merge --backend fsdp --local_dir {} "
MEGATRON = "convert_checkpoints.py export --hf-model MODEL --megatron-path {} --hf-path MERGED` of Megatron-Bridge"
STEPS = {
    "fsdp": ["checkpoint-9/pytorch_model_fsdp_0/__0_0.distcp", "checkpoint-10/pytorch_model_fsdp_0/__0_0.distcp"],
    "zero": [
        "ck pt/global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "ck pt/global_step20/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ],
    "verl": [
        "latest_checkpointed_iteration.txt",
        "global_step_9/actor/model_world_size_2_rank_0.pt",
        "global_step_10/actor/model_world_size_2_rank_0.pt",
        "global_step_10/actor/huggingface/config.json",
    ],
    "dist": ["step/actor/dist_ckpt/common.pt", "step/actor/dist_ckpt/__0_0.distcp"],
    "megatron": ["iter_50/common.pt", "iter_100/common.pt", "iter_100/__0_0.distcp"],
}


@pytest.mark.parametrize(
    ("given", "message", "merged"),
    [
        ("fsdp", FSDP, "fsdp/checkpoint-10"),
        ("fsdp/checkpoint-9", FSDP, "fsdp/checkpoint-9"),
        ("fsdp/checkpoint-9/pytorch_model_fsdp_0", FSDP, "fsdp/checkpoint-9"),
        ("zero", ZERO, "zero/ck pt"),
        ("zero/ck pt/global_step20", ZERO, "zero/ck pt"),
        ("verl", VERL, "verl/global_step_10/actor"),
        ("verl/global_step_10/actor", VERL, "verl/global_step_10/actor"),
        ("verl/global_step_10/actor/huggingface", VERL, "verl/global_step_10/actor"),
        ("dist/step/actor", VERL.replace("fsdp", "megatron"), "dist/step/actor"),
        ("dist/step/actor/dist_ckpt", VERL.replace("fsdp", "megatron"), "dist/step/actor"),
        ("megatron", MEGATRON, "megatron/iter_100"),
    ],
)
def test_shards_are_told_with_what_merges_them(given: str, message: str, merged: str, tmp_path: Path) -> None:
    for kind, files in STEPS.items():
        for file in files:
            path = tmp_path / kind / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"model_type": "llama"}')
    (tmp_path / "verl/global_step_10/actor/huggingface/tokenizer.json").write_text("{}")
    with pytest.raises(InputError) as refused:
        locate(str(tmp_path / given))
    assert message.format(shlex.quote(str(tmp_path / merged))) in str(refused.value)


def test_a_folder_with_weights_is_named_before_shards(tmp_path: Path) -> None:
    for name in ("global_step20/x_optim_states.pt", "checkpoint-7/model.safetensors", "checkpoint-7/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"has no config\.json; did you mean .*/checkpoint-7\?$"):
        locate(str(tmp_path))


def test_weights_without_a_configuration_need_that_of_their_model(tmp_path: Path) -> None:
    (tmp_path / "optimizer.bin").touch()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="copy that and the tokenizer's files of the model that it was trained from"):
        locate(str(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"and it holds its weights as a pickle \(pytorch_model\.bin\)"):
        locate(str(tmp_path))
