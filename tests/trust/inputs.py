"""Inputs of which something is wrong, in a folder: data, models, recipes, reports, functions; the table names them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from accord import engine
from tests.commands.small import save_model, write_jsonl

WEIGHTS = "model.safetensors"
FUNCTIONS = """
import os, sys
def leaves(prompts, completions): os._exit(0)
def raises(prompts, completions): raise ValueError("the user's own bug")
def raises_key(prompts, completions): return {}["x"]
def exits(prompts, completions): sys.exit(0)
async def waits(prompts, completions): raise RuntimeError("async bug")
def recurs(prompts, completions): return recurs(prompts, completions)
def escapes(prompts, completions): raise ValueError("\\x1b]0;owned\\x07\\x1b[31mred")
def nan(prompts, completions): return [float("nan")] * len(completions)
def none(prompts, completions): return None
def short(prompts, completions): return [1.0]
def text(prompts, completions): return ["x"] * len(completions)
class Mute(Exception):
    def __str__(self): raise RuntimeError("no words")
class Unseen:
    def __repr__(self): raise RuntimeError("no picture")
def mute(prompts, completions): raise Mute
def unseen(prompts, completions): return [Unseen()] * len(completions)
def shapeless(prompts, completions): return __import__("torch").ones(len(completions), device="meta")
def digits(prompts, completions): return [10 ** 5000] * len(completions)
def wordy(prompts, completions): raise ValueError("w" * 100_000)
def mapping(prompts, completions): return {i: 1.0 for i in range(len(completions))}
def endless(prompts, completions):
    while True: yield 1.0
def memory(prompts, completions): raise MemoryError
def base(prompts, completions): raise BaseException("base")
number = 3
"""
JUDGES = 'def raises(prompts, firsts, seconds): raise ValueError("bug")\n'
DEEP = 100_000
CONFIG = "command: sft\nmodel: m\n"


def write_all(folder: Path) -> None:
    """Everything that the table names."""
    (folder / "in").mkdir()
    model = folder / "m"
    save_model(model)
    engine.classifiers.Scorer.on(engine.load.load_model(str(model))).save(folder / "rm")
    _write_data(folder)
    _write_models(folder, model)
    _write_recipes(folder, model)
    _write_reports(folder)
    _write_logs(folder)
    (folder / "rewards_here.py").write_text(FUNCTIONS)
    (folder / "judges_here.py").write_text(JUDGES)
    (folder / "fails_at_import.py").write_text('raise RuntimeError("at import")')
    (folder / "exits_at_import.py").write_text("import sys; sys.exit(0)")
    (folder / "no_python.py").write_text("def f(:")
    (folder / "waits_at_import.py").write_text("while True: pass")
    _write_odd(folder)


def _write_odd(folder: Path) -> None:
    """Names that lead to no file, or to one that is no plain one."""
    (folder / "dangling.jsonl").symlink_to("gone.jsonl")
    (folder / "circle.jsonl").symlink_to("circle.jsonl")
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe.jsonl")


def _write_logs(folder: Path) -> None:
    """Logs of other trainers."""
    texts = {
        "log.jsonl": '{"step": 1, "fitness": 0.5}\n{"step": 2, "fitness": 0.6}\n',
        "log-dpo.jsonl": '{"global_step": 1, "loss": 0.7, "acc": 0.5, "reject_reward": 0.1}\n',
        "log-broken.jsonl": '{"step": 1, "loss": 0.5}\n{"step": 2,\n{"step": 3, "loss": 0.5}\n',
        "log-list.jsonl": '{"step": 1, "data": [0.5]}\n',
        "log-words.jsonl": '{"said": "nothing"}\n',
        "log-history.json": '{"log_history": 3}',
        "log-entry.json": '{"log_history": [3]}',
        "log-plain.json": '{"loss": [1, 2]}',
        "log-broken.json": '{"log_history": [',
        "log-runs.csv": "Step,one - train/loss,other - train/loss\n1,0.5,0.5\n",
        "log-short.csv": "Step,train/loss\n1\n",
        "log.txt": "step 1 loss 0.5\n",
        "log-empty.jsonl": "",
        "log-half.jsonl": '{"step": 1, "loss": 0.5}\n{"step": 1.5, "loss": 0.5}\n',
        "log-far.jsonl": '{"step": 1e308, "loss": 0.5}\n',
        "log-before.jsonl": '{"step": -1, "loss": 0.5}\n',
        "log-wide.jsonl": f'{{"step": 1, "{"k" * 100_000}": 1}}\n',
        "log-two.csv": "Step,run - loss,loss\n1,0.5,0.5\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "log-utf16.jsonl").write_bytes('{"step": 1, "loss": 0.5}\n'.encode("utf-16"))


def _write_data(folder: Path) -> None:
    pair = {"prompt": "the cat", "chosen": "sat on", "rejected": "ran"}
    write_jsonl(
        folder / "d.jsonl", [{"prompt": "the cat", "completion": "sat on"}, {"prompt": "hi", "completion": "a"}]
    )
    write_jsonl(folder / "greet.jsonl", [{"said": f"hi {word}", "answer": word} for word in ("a", "b", "c", "d")])
    splits = "split: 'train[2:]', train_split: 'train[:2]'"
    task = f"{{data: greet.jsonl, metric: exact, prompt: '{{said}}', output: answer, {splits}}}"
    (folder / "tasks.yaml").write_text(f"clusters: {{greet: {{say: {task}}}}}\n")
    probes = {
        "probes.yaml": "facts: [{prompt: hi, right: a, wrong: b}]\nstyle: [{prompt: hi}]",
        "probes-answerless.yaml": "facts: [{prompt: hi, wrong: b}]",
        "probes-true.yaml": "facts: [{prompt: hi, right: true, wrong: b}]",
        "probes-kind.yaml": "fact: [{prompt: hi}]",
        "probes-knowledge.yaml": "knowledge: [{prompt: hi, wrong: b}]",
        "probes-check.yaml": "instructions: [{prompt: hi, constraints: {word: 3}}]",
        "probes-broken.yaml": "facts: [",
        "probes-list.yaml": "- a",
        "probes-none.yaml": "facts: []",
        "probes-twice.yaml": "facts: [{prompt: hi, right: a, wrong: b}, {prompt: hi, right: a, wrong: b, about: c}]",
        "probes-nan.yaml": "facts: [{prompt: hi, right: .nan, wrong: b}]",
        "probes-mapping.yaml": "facts: [{prompt: {a: b}, right: a, wrong: b}]",
    }
    for name, text in probes.items():
        (folder / name).write_text(f"{text}\n")
    write_jsonl(folder / "p.jsonl", [{"prompt": "the cat"}, {"prompt": "hi"}])
    write_jsonl(folder / "cmp.jsonl", [pair] * 4)
    for name, user in {"list": ["a"], "true": True, "blank": " "}.items():
        write_jsonl(folder / f"user-{name}.jsonl", [{**pair, "user": user}] * 4)
    write_jsonl(folder / "two.jsonl", [{"prompt": "the cat", "completion": said} for said in ("sat on", "ran")])
    write_jsonl(folder / "zebra.jsonl", [{"prompt": "zebra", "completion": "quagga"}])
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the cat"}]
    write_jsonl(folder / "chat.jsonl", [{"messages": turns}])
    write_jsonl(folder / "seen.jsonl", [{"messages": turns, "images": ["cat.png"]}])
    write_jsonl(
        folder / "doubled.jsonl", [{"prompt": "hi the cat", "chosen": "hi the cat sat", "rejected": "hi the cat ran"}]
    )
    write_jsonl(folder / "gold.jsonl", [{"prompt": "hi", "answer": "the cat"}])
    write_jsonl(folder / "called.jsonl", [{"messages": [turns[0], {"role": "tool_call", "content": "the cat"}]}])
    texts = {
        "deep.jsonl": '{"prompt": "a", "completion": "b", "x": ' + "[" * DEEP + "]" * DEEP + "}\n",
        "deep.json": "[" * DEEP + "]" * DEEP,
        "digits.jsonl": '{"prompt": "a", "completion": "b", "x": ' + "1" * 5000 + "}\n",
        "digits.json": '[{"prompt": "a", "completion": "b", "x": ' + "1" * 5000 + "}]",
        "twice.jsonl": '{"prompt": "a", "completion": "b", "completion": "c"}\n',
        "empty.txt": "",
        "nul.csv": "prompt,completion\na\0b,c\n",
        "twice.csv": "prompt,completion,completion\na,b,c\n",
        "long.jsonl": '{"prompt": "a", "completion": "' + "x y " * 2_600_000 + '"}\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "utf16.jsonl").write_bytes(b"\xff\xfe{\x00}\x00")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")


def _write_models(folder: Path, model: Path) -> None:
    def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
        def made(copy: Path) -> None:
            save_file(change(load_file(copy / WEIGHTS)), copy / WEIGHTS, metadata={"format": "pt"})

        return made

    def config(**values: Any) -> Callable[[Path], None]:
        def made(copy: Path) -> None:
            file = copy / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | values))

        return made

    def file(name: str, content: bytes | None) -> Callable[[Path], None]:
        return lambda copy: (copy / name).unlink() if content is None else (copy / name).write_bytes(content) and None

    def grown(copy: Path) -> None:
        tokenizer = engine.load.load_model(str(model)).tokenizer
        tokenizer.add_tokens(["zebra", "quagga"])
        tokenizer.save_pretrained(copy)

    def pickled(copy: Path) -> None:
        (copy / WEIGHTS).rename(copy / "x.bin")
        (copy / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "../../x.bin"}}))

    def not_a_number(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[min(tensors)].view(-1)[0] = float("nan")
        return tensors

    made: Mapping[str, Callable[[Path], None]] = {
        "config-list": file("config.json", b"[]"),
        "config-none": file("config.json", None),
        "config-kind": config(model_type="nothing"),
        "config-dtype": config(dtype="float7"),
        "config-text": config(max_position_embeddings="abc"),
        "config-layers": config(num_hidden_layers=10**6),
        "config-width": config(hidden_size=32),
        "config-heads": config(num_attention_heads=0),
        "config-below": config(hidden_size=-4),
        "config-many": config(vocab_size="many"),
        "config-wide": config(hidden_size=10**9),
        "index-list": file(f"{WEIGHTS}.index.json", b'{"weight_map": ["a"]}'),
        "index-number": file(f"{WEIGHTS}.index.json", b'{"weight_map": {"a": 1}}'),
        "config-vocabulary": config(vocab_size=7),
        "config-quantized": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "weights-none": file(WEIGHTS, None),
        "weights-empty": file(WEIGHTS, b""),
        "weights-garbage": file(WEIGHTS, b"\xff" * 5000),
        "weights-cut": lambda copy: (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:2000]) and None,
        "weights-missing": weights(lambda tensors: {k: v for k, v in tensors.items() if "mlp.down" not in k}),
        "weights-renamed": weights(lambda tensors: {f"other.{k}": v for k, v in tensors.items()}),
        "weights-nan": weights(not_a_number),
        "weights-pickled": pickled,
        "adapter-without": file("adapter_config.json", b'{"peft_type": "LORA"}'),
        "tokenizer-grown": grown,
        "tokenizer-cut": file("tokenizer.json", b"{"),
        "tokenizer-none": file("tokenizer.json", None),
        "tokenizer-list": file("tokenizer_config.json", b"[1]"),
        "generation-number": file("generation_config.json", b"7"),
        "template-type": file("chat_template.jinja", b"{{ 1 + messages[0]['content'] }}"),
        "template-zero": file("chat_template.jinja", b"{{ 1 / 0 }}"),
        "template-syntax": file("chat_template.jinja", b"{% if %}"),
        "pipe-within": lambda copy: os.mkfifo(copy / "added_tokens.json"),
        "device-within": lambda copy: (copy / "special_tokens_map.json").symlink_to("/dev/zero"),
    }
    for name, change in made.items():
        change(shutil.copytree(model, folder / name))


def _write_recipes(folder: Path, model: Path) -> None:
    own = f"model: {model}\ndata: {folder}/d.jsonl\nmax_steps: 1\n"
    texts = {
        "deep.yaml": "model: " + "[" * 3000 + "]" * 3000,
        "list.yaml": "- a\n",
        "broken.yaml": "a: [\n",
        "number.yaml": "7",
        "unknown.yaml": f"{own}zzz: 3\n",
        "out-list.yaml": f"{own}out: [a, b]\n",
        "spelled.yaml": f"{own}learning-rate: 1e-3\nlearning_rate: 1e-4\n",
        "true.yaml": f"{own}batch_size: true\n",
        "nul.yaml": f'{own}out: "a\\0b"\n',
        "world.yaml": "stages:\n  a: {command: world}\n",
        "chat.yaml": "stages:\n  a: {command: chat, model: x}\n",
        "nothing-in.yaml": f"{own}out: ''\n",
        "spelled-stage.yaml": "stages:\n  a: {command: world, tastes: groups, learning-rate: 1, learning_rate: 2}\n",
        "two-stages.yaml": "stages:\n  1: {command: world}\n  '1': {command: world}\n",
        "repeat.yaml": "stages:\n  a:\n    repeat: 1000000000\n    stages:\n      b: {command: world, out: x}\n",
        "ranks-word.yaml": "stages:\n  a: {command: dpo, model: x, data: y, ranks: all}\n",
        "ranks-world.yaml": "stages:\n  a: {command: world, ranks: 2}\n",
        "variables.yaml": "variables: [1]\nstages:\n  a: {command: world}\n",
        "deep-stages.yaml": "stages: " + "{a: " * 3000 + "1" + "}" * 3000,
        "stages-number.yaml": "stages: 3",
        "stages-none.yaml": "stages: {}",
        "stage-nothing.yaml": "stages: {a: {command: nothing}}",
        "stage-number.yaml": "stages: {a: 3}",
        "stage-outside.yaml": "stages: {../x: {command: world}}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def _write_reports(folder: Path) -> None:
    row = '{"step": 1, "loss": 1}\n'
    made = {
        "report-stages": {"pipeline.json": '{"stages": 3}'},
        "report-stage": {"pipeline.json": '{"stages": [3]}'},
        "report-cut": {"pipeline.json": '{"stages": ['},
        "report-empty": {"pipeline.json": ""},
        "report-settings": {"config.yaml": "["},
        "report-row": {"config.yaml": CONFIG, "metrics.jsonl": f"{row}xx\n{row}"},
        "report-machine": {"config.yaml": CONFIG, "metrics.jsonl": row, "environment.json": "["},
        "report-result": {"evaluation.json": '{"kind": "models"}'},
        "report-list": {"evaluation.json": "[]"},
    }
    for name, files in made.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
