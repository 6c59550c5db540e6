"""Steps of one method in accord or trl, timed on a random model made in memory: what benchmarks/cuda.py runs."""

from __future__ import annotations

import importlib.util
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from reward import length
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}[END] {% endif %}{% endfor %}"


class Measured(Exception):
    """Ends a library's training loop once enough steps are measured, before it saves a model."""


def tokenizer_of(plan: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose words are numbers."""
    words = ["[PAD]", "[END]", *map(str, range(plan["vocabulary"] - 2))]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
    model.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="[END]", pad_token="[PAD]")
    made.chat_template = TEMPLATE
    return made


def network_of(plan: dict[str, Any], kind: Any = LlamaForCausalLM, **more: Any) -> Any:
    """A random Llama on the device: float32 weights, or bfloat16 where only adapters are trained."""
    shape = {("num_key_value_heads" if k == "kv" else k): v for k, v in plan["shape"].items()}
    longest = plan["prompt"] + 2 * max(plan["completion"], plan["new"]) + 8
    config = LlamaConfig(
        **shape, vocab_size=plan["vocabulary"], max_position_embeddings=longest, bos_token_id=None, **more
    )
    config.eos_token_id, config.pad_token_id = 1, 0
    dtype = torch.bfloat16 if plan["lora_rank"] else torch.float32
    torch.manual_seed(0)
    with torch.device(plan["device"]):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return kind(config)
        finally:
            torch.set_default_dtype(before)


def rows_of(work: str, plan: dict[str, Any], messages: bool) -> list[dict[str, Any]]:
    """Random rows of equal length, enough for all steps."""
    rng, steps = random.Random(0), plan["warmup"] + plan["steps"]

    def words(count: int) -> str:
        return " ".join(str(rng.randrange(plan["vocabulary"] - 2)) for _ in range(count))

    def said(role: str, count: int) -> Any:
        return [{"role": role, "content": words(count)}] if messages else words(count)

    size = {"sft": "batch_size", "grpo": "prompts"}.get(work, "pairs")
    names = {"sft": ("completion",), "grpo": ()}.get(work, ("chosen", "rejected"))
    return [
        {"prompt": said("user", plan["prompt"]), **{name: said("assistant", plan["completion"] - 1) for name in names}}
        for _ in range(steps * plan[size])
    ]


def tokens_of(work: str, plan: dict[str, Any]) -> int:
    """Tokens per step: each completion with its prompt, no matter how often a library computes them."""
    if work == "grpo":
        return int(plan["prompts"] * plan["group_size"] * (plan["prompt"] + plan["new"]))
    rows = plan["batch_size"] if work == "sft" else 2 * plan["pairs"]
    return int(rows * (plan["prompt"] + plan["completion"]))


def about(side: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The model's size, and the settings of trl that depend on what is installed."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in network_of({**plan, "device": "meta"}).parameters())
    return {"parameters": parameters, "lora_rank": plan["lora_rank"], "settings": best(plan) if side == "trl" else {}}


class Clock:
    """Seconds of every step, including the GPU's pending work."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan, self.seconds = plan, list[float]()
        self.began = time.perf_counter()

    def start(self) -> None:
        self.began = self.now()

    def step(self) -> None:
        now = self.now()
        self.seconds.append(now - self.began)
        self.began = now
        if len(self.seconds) == self.plan["warmup"] + self.plan["steps"]:
            raise Measured

    def now(self) -> float:
        if self.plan["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def with_accord(work: str, plan: dict[str, Any]) -> dict[str, list[float]]:
    """Train with accord; seconds and tokens of every step."""
    from accord.engine.models import Policy, prepare_network
    from accord.methods import DPO, GRPO, SFT, RewardModel

    network = network_of(plan).eval()
    network.generation_config.eos_token_id = 1
    policy = Policy(prepare_network(network), tokenizer_of(plan), "random")
    steps = plan["warmup"] + plan["steps"]
    settings: dict[str, Any] = {
        "max_steps": steps,
        "warmup": 0.0,
        "schedule": "constant",
        "lora_rank": plan["lora_rank"],
    }
    settings["max_length"] = plan["prompt"] + max(plan["completion"], plan["new"])
    clock = Clock(plan)
    more: dict[str, Any] = {}
    if work == "grpo":
        new = plan["new"]  # every sample has full length
        method: Any = GRPO(
            **settings,
            batch_size=plan["prompts"],
            group_size=plan["group_size"],
            max_new_tokens=new,
            min_new_tokens=new,
            kl="k3-corrected",
            kl_coefficient=0.04,
        )
        more = {"reward": length}
    else:
        size = plan["batch_size"] if work == "sft" else plan["pairs"]
        method = {"sft": SFT, "dpo": DPO, "reward": RewardModel}[work](**settings, batch_size=size)
    with tempfile.TemporaryDirectory() as folder, suppress(Measured):
        run = {"out": Path(folder) / "run", "on_step": lambda *_: clock.step()}
        method.fit(policy, rows_of(work, plan, True), **run, **more)
    return {"seconds": clock.seconds, "tokens": [tokens_of(work, plan)] * len(clock.seconds)}


def best(plan: dict[str, Any]) -> dict[str, Any]:
    """trl's fastest settings on this machine: FlashAttention without padding and Liger's kernels, if installed."""
    on_card = plan["device"] == "cuda"
    flash = on_card and importlib.util.find_spec("flash_attn") is not None
    return {
        "attention": "flash_attention_2" if flash else "sdpa",
        "padding_free": flash,
        "use_liger_kernel": on_card and importlib.util.find_spec("liger_kernel") is not None,
    }


def with_trl(work: str, plan: dict[str, Any]) -> dict[str, list[float]]:
    """Train with trl; seconds and tokens of every step."""
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    clock = Clock(plan)

    class Stopwatch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.start()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step()

    kind, more = (LlamaForSequenceClassification, {"num_labels": 1}) if work == "reward" else (LlamaForCausalLM, {})
    network = network_of(plan, kind, attn_implementation=best(plan)["attention"], **more)
    name = {"sft": "SFT", "dpo": "DPO", "reward": "Reward", "grpo": "GRPO"}[work]
    trainer_of, config_of = (getattr(trl, f"{name}{part}") for part in ("Trainer", "Config"))
    with tempfile.TemporaryDirectory() as folder:
        if work in ("dpo", "grpo") and not plan["lora_rank"]:  # trl loads the reference model from there
            network.save_pretrained(f"{folder}/start")
            network.config._name_or_path = f"{folder}/start"
        trainer = trainer_of(
            model=network,
            args=config_of(output_dir=folder, **trl_settings(work, plan)),
            train_dataset=Dataset.from_list(rows_of(work, plan, False)),
            processing_class=tokenizer_of(plan),
            callbacks=[Stopwatch()],
            peft_config=lora_config(work, plan["lora_rank"]),
            **({"reward_funcs": length} if work == "grpo" else {}),
        )
        with suppress(Measured):
            trainer.train()
    return {"seconds": clock.seconds, "tokens": [tokens_of(work, plan)] * len(clock.seconds)}


def trl_settings(work: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The options of trl's config."""
    chosen = best(plan)
    settings: dict[str, Any] = {
        "learning_rate": 1e-6,
        "max_steps": plan["warmup"] + plan["steps"],
        "bf16": plan["device"] == "cuda",
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "use_cpu": plan["device"] == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_liger_kernel": chosen["use_liger_kernel"],
    }
    if work == "grpo":
        settings |= {"per_device_train_batch_size": plan["prompts"] * plan["group_size"], "beta": 0.04}
        settings |= {"num_generations": plan["group_size"], "max_completion_length": plan["new"]}
        return settings | {"generation_kwargs": {"min_new_tokens": plan["new"]}}
    settings["per_device_train_batch_size"] = plan["batch_size"] if work == "sft" else plan["pairs"]
    settings["max_length"] = plan["prompt"] + plan["completion"]
    return settings | ({"padding_free": chosen["padding_free"]} if work in ("sft", "dpo") else {})


def lora_config(work: str, rank: int) -> Any:
    """accord's default adapters for peft; None if the rank is 0."""
    if not rank:
        return None
    from peft import LoraConfig

    task = "SEQ_CLS" if work == "reward" else "CAUSAL_LM"
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)


RUN = {"accord": with_accord, "trl": with_trl}
