"""Options of other trainers (trl, axolotl, LLaMA-Factory, ms-swift, OpenRLHF, unsloth) and ours that mean the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable

OURS = {
    "model": (
        "base_model", "model_name_or_path", "model_name", "model_id", "model_path", "pretrain", "pretrained_model",
    ),
    "data": ("datasets", "dataset", "dataset_name", "dataset_path", "train_file", "train_files", "train_dataset"),
    "columns": ("input_key", "field_messages", "dataset_text_field"),
    "split": ("dataset_split", "dataset_train_split"),
    "eval_split": ("val_size", "val_set_size", "test_size", "eval_split_ratio", "split_dataset_ratio"),
    "eval_every": ("eval_steps", "eval_strategy", "evaluation_strategy"),
    "patience": ("early_stopping_patience", "early_stopping"),
    "best_by": ("metric_for_best_model",),
    "eval_data": ("test_datasets", "eval_dataset", "val_dataset", "val_files"),
    "reference": ("ref_model", "ref_model_name_or_path"),
    "teacher": ("teacher_model", "teacher_model_name_or_path"),
    "reward": ("reward_model", "reward_model_path", "reward_model_name_or_path", "reward_funcs", "reward_fn"),
    "out": ("output_dir", "save_path", "save_dir"),
    "epochs": ("num_train_epochs", "num_epochs", "max_epochs", "total_epochs"),
    "batch_size": (
        "per_device_train_batch_size", "micro_batch_size", "train_batch_size", "global_batch_size",
        "gradient_accumulation_steps",
    ),
    "max_length": ("sequence_len", "cutoff_len", "max_seq_length", "max_seq_len", "max_len"),
    "max_new_tokens": ("max_completion_length", "response_length", "max_response_length", "generate_max_len"),
    "group_size": ("num_generations", "n_samples_per_prompt", "rollout_n"),
    "learning_rate": ("lr", "actor_learning_rate"),
    "schedule": ("lr_scheduler", "lr_scheduler_type"),
    "warmup": ("warmup_ratio", "lr_warmup_ratio"),
    "max_grad_norm": ("gradient_clipping", "grad_clip", "max_norm"),
    "beta": ("pref_beta", "dpo_beta"),
    "kl_coefficient": ("init_kl_coef", "kl_coef", "kl_loss_coef", "beta"),
    "lora_rank": ("lora_r", "peft_lora_r"),
    "lora_targets": ("lora_target", "lora_target_modules", "target_modules"),
    "quantize": ("load_in_4bit", "load_in_8bit", "quantization_bit"),
    "activation_checkpointing": ("gradient_checkpointing",),
    "dtype": ("bf16", "fp16", "torch_dtype"),
    "save_every": ("save_steps",),
    "resume": ("resume_from_checkpoint", "auto_resume_from_checkpoints"),
    "track": ("report_to", "log_with"),
    "optimizer": ("optim", "optimiser"),
    "seed": ("data_seed", "random_seed"),
    "run_name": ("wandb_name", "experiment_name"),
}  # fmt: skip
"""Other trainers' names of each option."""

METHODS = {
    **dict.fromkeys(("orpo", "simpo", "cpo", "bco", "apo", "rpo", "sppo", "exo", "nca", "slic"), "dpo, ipo or kto"),
    **dict.fromkeys(("prm", "rm", "reward-model", "reward-modeling"), "reward or preference"),
    **dict.fromkeys(("dapo", "gspo", "drgrpo", "remax", "reinforce++"), "grpo, rloo, reinforce or ppo"),
    **dict.fromkeys(("rft", "rejection-sampling", "best-of-n", "expert-iteration"), "raft or star"),
    **dict.fromkeys(("gkd", "minillm", "kd"), "distill"),
    **dict.fromkeys(("cpt", "clm", "pt"), "pretrain"),
}
"""Methods of other trainers that are no command here, and the commands that are nearest to them."""


def nearest_methods(name: str) -> str:
    """Which commands are nearest to another trainer's method, to be added to an error message; "" for other names."""
    commands = METHODS.get(name.lower().replace("_", "-"))
    return f", a method of other trainers; the nearest here: {commands}" if commands else ""


NOT_OFFERED = {
    "dropout": "training has no dropout, in adapters as elsewhere, since a run is a function of its data and its seed",
    "logging_steps": "every step is logged",
    "save_total_limit": "a run keeps its last two checkpoints, and none once it is done",
    "load_best_model_at_end": "where rows are held out, model/ is the best model",
    "modules_to_save": "besides adapters, only a classifier's head is trained",
}
"""Other trainers' options, by the end of their names, that accord leaves out on purpose, and why."""

REFUSED = {
    ("dtype", "float16"): "its gradients underflow unless losses are scaled, and auto is float32 where a GPU lacks "
    "bfloat16, as Turing's do",
    **{
        ("lora_init", kind): "it changes the weights under the adapters, which all copies share and no folder holds"
        for kind in ("pissa", "olora", "corda", "loftq")
    },
}
"""Values that other trainers take for an option of ours, and why accord does not."""


def ours(name: str, known: Collection[str]) -> str | None:
    """The option of those known that means the same as another trainer's of this name; None where none does."""
    name = name.lstrip("-").replace("-", "_").lower()
    return next((own for own, others in OURS.items() if own in known and name in others), None)


def translation(names: Iterable[str], known: Collection[str]) -> str:
    """What to do about other trainers' options: which of ours to write for them, and which to leave out."""
    by_option: dict[str, list[str]] = {}
    rest = list[str]()
    for name in names:
        own = ours(name, known)
        (by_option.setdefault(own, []) if own else rest).append(name)
    pairs = [f"{own} for {(' times ' if own == 'batch_size' else ' and ').join(of)}" for own, of in by_option.items()]
    write = f"write {', '.join(pairs)}" if pairs else ""
    leave = f"leave out or look up {', '.join(rest)}" if rest else ""
    return "; ".join(filter(None, (write, leave)))
