"""Ranks read a model in shares: what each has is what one process reads, and none ever has the whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DiffLlamaConfig, LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig

from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.load import for_leader, load_classifier, load_model, reload
from accord.engine.lora import adapt
from accord.engine.models import Model, Policy
from accord.engine.offload import shared_copy
from accord.engine.shard import gathered, is_sharded, shard
from accord.engine.team import Team
from accord.engine.unread import unread
from accord.errors import InputError
from accord.files import SUMS
from accord.methods import DPO, PPO, SFT
from accord.records import Preference, Prompt
from accord.train.inputs import digest_of_model
from tests.data.conftest import WORDS, word_tokenizer
from tests.engine import ranked_methods
from tests.engine.tiny import CONFIGS, END, SIZES, VOCABULARY, policy_of, random_model
from tests.trust.forked import in_team

OTHERS: dict[str, Callable[[], Any]] = {
    "diffllama": lambda: DiffLlamaConfig(**SIZES, vocab_size=VOCABULARY, eos_token_id=END),
    "mixtral": ranked_methods.ARCHITECTURES["mixtral"],
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SIZES, vocab_size=VOCABULARY, eos_token_id=END, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8,
        head_dim=4, mlp_only_layers=[0],
    ),
}  # fmt: skip
"""One draws weights by an operation that knows no device; two have experts, three of them, which two ranks share."""
KINDS = [("llama", 0), ("llama", 1), ("gemma2", 1), ("gpt2", 1), ("mamba", 0), *((name, 0) for name in OTHERS)]
MADE: dict[str, Callable[[Policy], Model]] = {
    "policy": lambda policy: policy,
    "scorer": lambda policy: Scorer.on(policy, 3),
    "preference": lambda policy: PreferenceNetwork.on(policy, 2, 3),
    "lora": lambda policy: adapt(policy, SFT(lora_rank=2)),
    "dora": lambda policy: adapt(policy, SFT(lora_rank=2, lora_dora=True)),
    "scorer with lora": lambda policy: Scorer.on(adapt(policy, SFT(lora_rank=2)), 3),
    "half": lambda policy: adapt(policy.in_dtype("bfloat16"), SFT(lora_rank=2)),
    "copy": lambda policy: policy.in_dtype("bfloat16").frozen_copy(),
}
"""What is made of a policy before ranks share it out."""
SAID = WORDS[6:]
PAIRS = [Preference(f"{a} {b}", f" {a} {b}", f" {b} bye") for a in SAID[:3] for b in SAID[:4] if a != b]
PROMPTS = [Prompt(text) for text in ("hi", "bye", "good day", "hi")]
SETTINGS: dict[str, Any] = {"batch_size": 3, "max_steps": 2, "learning_rate": 1e-3, "dtype": "float32"}
SAMPLED: dict[str, Any] = {**SETTINGS, "group_size": 3, "max_new_tokens": 4}


def written(folder: Path, kind: str = "llama", tied: int = 0, files: int = 1) -> str:
    """A random model in a folder, its weights in so many files or a few more."""
    config = (CONFIGS | OTHERS)[kind]()
    config.tie_word_embeddings = bool(tied)
    policy = policy_of(random_model(config, dtype=torch.float32))
    policy.tokenizer = word_tokenizer()
    policy.save(folder)
    if files > 1:
        policy.network.save_pretrained(folder, max_shard_size=policy.network.num_parameters() * 4 // files)
        (folder / "model.safetensors").unlink()
        (folder / SUMS).unlink()
    return str(folder)


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Every weight, whole, and every buffer."""
    whole = {name: gathered(p.detach()).clone().contiguous() for name, p in network.named_parameters()}
    return whole | {f"buffer {name}": buffer.clone().contiguous() for name, buffer in network.named_buffers()}


RUNS: dict[str, Callable[[Path, Path], Any]] = {
    "dpo": lambda home, out: DPO(**SETTINGS).fit(doubled(home / "llama-1"), PAIRS, out=out, track="none"),
    "ppo": lambda home, out: PPO(**SAMPLED).fit(
        str(home / "llama-1"), PROMPTS, reward=str(home / "scorer"), out=out, track="none"
    ),
    "experts": lambda home, out: DPO(**SETTINGS, router_aux_loss_coefficient=0.0).fit(
        str(home / "mixtral-0"), PAIRS, out=out, track="none"
    ),
    "lora": lambda home, out: DPO(**SETTINGS, lora_rank=2).fit(str(home / "files"), PAIRS, out=out, track="none"),
}  # fmt: skip
"""Whole runs of models in folders, the first in float64."""


def doubled(folder: Path) -> Policy:
    policy = load_model(str(folder), in_shares=True)
    policy.network.double()
    return policy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in folders."""
    home = tmp_path_factory.mktemp("models")
    for kind, tied in KINDS:
        written(home / f"{kind}-{tied}", kind, tied)
    written(home / "files", files=3)
    MADE["scorer"](load_model(str(home / "llama-0"))).save(home / "scorer")
    return home


def ways_of(network: Any) -> dict[str, Any]:
    """Which fast ways it takes."""
    fused = [name for name, module in network.named_modules() if "forward" in vars(module)]
    attention = network.config.get_text_config()._attn_implementation
    return {"fused": fused, "attention": attention, "recomputes": network._accord_recomputes}


def everything(home: Path, out: Path) -> None:
    """What one process makes of the models, or each of several ranks."""
    leads = Team.here().leads
    for name in [f"{kind}-{tied}" for kind, tied in KINDS] + ["files"]:
        policy = load_model(str(home / name), in_shares=True)
        assert (unread(policy.network) is not None) == (Team.here().size > 1)
        digest = digest_of_model(policy)
        tensors = tensors_of(shard(policy.network))
        if leads:
            save_file(tensors, out / f"{name}.safetensors")
            (out / f"{name}.txt").write_text(digest)
    for name, make in MADE.items():
        model = make(load_model(str(home / "llama-1"), in_shares=True))
        digest, tensors = digest_of_model(model), tensors_of(shared_copy(model).network)
        tensors |= {f"itself {key}": tensor for key, tensor in tensors_of(shard(model.network)).items()}
        if leads:
            save_file(tensors, out / f"made {name}.safetensors")
            (out / f"made {name}.txt").write_text(digest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(out / "cache"))  # nothing is known of how it computes
        (out / f"ways-{Team.here().rank}.json").write_text(
            json.dumps(ways_of(load_model(str(home / "gpt2-1"), in_shares=True).network))
        )
    judge = for_leader(load_classifier, str(home / "scorer"))
    assert {p.is_meta for p in judge.network.parameters()} == {not leads}
    loaded: list[Model] = []  # by a reward, say, which the rank that leads asks alone
    Team.here().lead(lambda: loaded.append(for_leader(load_classifier, str(home / "scorer"))))
    assert len(loaded) == leads and not any(p.is_meta for model in loaded for p in model.network.parameters())
    for name, run in RUNS.items():
        result = run(home, out / name)
        again = reload(result.model, out / name / "model")
        assert is_sharded(again.network) == (Team.here().size > 1 and name != "lora")


def spoilt(folder: Path, how: str) -> str:
    """A folder with something wrong with its weights."""
    name = written(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    norm = "model.layers.1.mlp.up_proj.weight"
    if how == "missing":
        del tensors[norm]
    elif how == "shape":
        tensors[norm] = tensors[norm][:-1].clone()
    elif how == "left over":
        tensors["model.layers.1.mlp.sideways_proj.weight"] = tensors[norm].clone()
    elif how == "not finite":
        tensors[norm][-1, -1] = float("nan")  # the last row, which the last rank has
    save_file(tensors, file, {"format": "pt"})
    if how != "damaged":
        (folder / SUMS).unlink()
    else:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return name


WRONGS = ("missing", "shape", "left over", "not finite", "damaged")


def refused(home: Path) -> list[str]:
    """What is said of each."""
    said = []
    for how in WRONGS:
        with pytest.raises(InputError) as wrong:
            load_model(str(home / how), in_shares=True)
        said.append(str(wrong.value))
    return said


def test_ranks_refuse_what_one_process_does_by_the_same_sentence(tmp_path: Path) -> None:
    for how in WRONGS:
        spoilt(tmp_path / how, how)

    def told(team: Team) -> None:
        (tmp_path / f"said-{team.rank}.json").write_text(json.dumps(refused(tmp_path)))

    in_team(2, told)
    expected = refused(tmp_path)
    assert [json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in range(2)] == [expected] * 2
    words = ("lacks", "another shape", "no place", "not finite", "damaged")
    assert all(word in line for word, line in zip(words, expected, strict=True))


def test_an_expert_that_is_missing_or_cut_is_refused(tmp_path: Path) -> None:
    """One process and ranks both refuse an expert that is not there, or of another shape; of a part ranks say which."""
    said = {"part": "cannot be loaded", "expert": "another shape", "shape": "another shape"}
    for how in said:
        file = Path(written(tmp_path / how, "mixtral")) / "model.safetensors"
        tensors = load_file(file)
        parts = [key for key in tensors if "layers.1" in key and ".experts.3." in key]
        if how == "shape":
            tensors[parts[0]] = tensors[parts[0]][:-1].clone()
        for key in {"part": parts[:1], "expert": parts, "shape": []}[how]:
            del tensors[key]
        save_file(tensors, file, {"format": "pt"})
        (tmp_path / how / SUMS).unlink()

    def told(team: Team) -> None:
        for how, words in said.items():
            with pytest.raises(InputError, match=words):
                load_model(str(tmp_path / how), in_shares=True)

    in_team(2, told)
    for how in said:
        with pytest.raises(InputError, match="another shape|cannot be loaded"):
            load_model(str(tmp_path / how))


def peak(do: Callable[[], object]) -> int:
    """Bytes by which a process has more memory meanwhile than before, at most."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    before = _status("VmRSS")
    do()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    [found] = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) * 1024


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are Linux's")
def test_no_rank_has_more_than_its_share_and_the_largest_group(tmp_path: Path) -> None:
    """Of 8 layers of 5 MB and an embedding of 3: a rank has half of the model, and at most a group beside it."""
    config = LlamaConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=4, vocab_size=3000
    )

    def write(_: Team) -> None:
        policy = policy_of(LlamaForCausalLM(config))
        policy.tokenizer = word_tokenizer()
        policy.save(tmp_path / "model")

    in_team(1, write)  # in another process, whose memory no rank finds ready for it
    with torch.device("meta"):
        network = LlamaForCausalLM(config)
    whole = 4 * network.num_parameters()
    group = 4 * max(sum(p.numel() for p in network.model.layers[0].parameters()), 2 * 3000 * 256)

    def measure(team: Team) -> None:
        shard(load_model(str(tmp_path / "model"), in_shares=True).network)  # once, for what else is made once
        held: list[Any] = []
        one = peak(lambda: held.append(shard(load_model(str(tmp_path / "model"), in_shares=True).network)))
        two = peak(lambda: held.append(shared_copy(load_model(str(tmp_path / "model"), in_shares=True)).network))
        (tmp_path / f"peak-{team.rank}.json").write_text(json.dumps([one, two]))

    in_team(2, measure)
    for rank in range(2):
        for found in json.loads((tmp_path / f"peak-{rank}.json").read_text()):
            assert found <= whole / 2 + group < whole


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory, blank_reports: None) -> Path:
    out = tmp_path_factory.mktemp("alone")
    everything(home, out)
    return out


@pytest.fixture(scope="module")
def ranks(home: Path, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two."""
    out = tmp_path_factory.mktemp("ranks")
    in_team(2, lambda team: everything(home, out))
    return out


@pytest.mark.parametrize("name", [*(f"{k}-{t}" for k, t in KINDS), "files", *(f"made {name}" for name in MADE)])
def test_what_is_read_in_shares_is_what_one_process_reads(name: str, ranks: Path, alone: Path) -> None:
    found, expected = (load_file(folder / f"{name}.safetensors") for folder in (ranks, alone))
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in expected.items()}
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert (ranks / f"{name}.txt").read_text() == (alone / f"{name}.txt").read_text()


def test_ranks_try_how_a_model_computes_without_having_it(ranks: Path, alone: Path) -> None:
    expected = (alone / "ways-0.json").read_text()
    assert [(ranks / f"ways-{rank}.json").read_text() for rank in range(2)] == [expected] * 2


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_one_process(name: str, ranks: Path, alone: Path) -> None:
    file = "adapter_model.safetensors" if name == "lora" else "model.safetensors"
    found, expected = (load_file(folder / name / "model" / file) for folder in (ranks, alone))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        share = 1e-10 if tensor.dtype == torch.float64 else 1e-6
        assert float((found[key] - tensor).abs().max()) <= share * max(1.0, float(tensor.abs().max())), key
    logged = [[json.loads(line) for line in (out / name / "metrics.jsonl").open()] for out in (ranks, alone)]
    for row, like in zip(*logged, strict=True):
        timed = {"seconds", "tokens_per_second"}
        assert {k: v for k, v in row.items() if k not in timed} == pytest.approx(
            {k: v for k, v in like.items() if k not in timed}, rel=1e-4, abs=1e-5
        )
