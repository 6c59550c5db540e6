"""Small worlds with known truth, and their common parts: held-out split, word tokenizers, a small Llama, files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from accord.engine import llama
from accord.engine.models import quiet
from accord.errors import InputError
from accord.outputs import require_folder, require_whole, save_rows, save_text, writing_folder
from accord.records import Row

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"


def in_held_out_fifth(text: str) -> bool:
    """Whether a text is in the held-out fifth, decided by its digest, so that the split never changes."""
    return hashlib.sha256(text.encode()).digest()[0] % 5 == 0


def word_level(vocabulary: Sequence[str]) -> Tokenizer:
    """One token for each word, and `UNKNOWN` for any other."""
    return Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))


def fast_tokenizer(words: Tokenizer, context: int, **more: Any) -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers tokenizer; decoding does not clean up spaces."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **more,
    )


def untrained(
    seed: int,
    vocabulary: Sequence[str],
    context: int,
    *,
    width: int,
    inner_width: int,
    layers: int,
    heads: int,
    key_value_heads: int,
) -> LlamaForCausalLM:
    """A small untrained float32 Llama with this vocabulary and tied embeddings; the seed decides its weights."""
    sizes = llama.LlamaSizes(
        vocabulary=len(vocabulary), layers=layers, width=width, heads=heads, kv_heads=key_value_heads,
        inner_width=inner_width, context=context,
    )  # fmt: skip
    pad, end = vocabulary.index(PAD), vocabulary.index(END)
    return llama.untrained_llama(seed, sizes, pad=pad, end=end, deviation=0.05)


def four_layers(seed: int, vocabulary: Sequence[str], context: int, width: int, of: str) -> LlamaForCausalLM:
    """An untrained Llama of four layers of four heads: at width 48 0.1 M parameters, at 96 0.5 M, at 192 1.9 M.

    Raises InputError, naming the world (`of`), where the width does not divide into heads of even width.
    """
    if width < 1 or width % 8:
        raise InputError(f"the width of {of} must be a multiple of 8, not {width}.")
    sizes = {"width": width, "inner_width": 3 * width, "layers": 4, "heads": 4, "key_value_heads": 4}
    return untrained(seed, vocabulary, context, **sizes)


def write_world(
    folder: Path,
    rows: Mapping[str, Iterable[Row | Mapping[str, Any]]],
    model: LlamaForCausalLM,
    tokenizer: Any,
    further: Iterable[str] = (),
) -> None:
    """Write one JSONL file per name, and `init/`, the model with its tokenizer as a Hugging Face folder.

    Raises InputError, before anything is written, where one of these files, or a `further` file of the world, belongs
    to someone else.
    """
    require_folder(folder, leaves=[*(f"{name}.jsonl" for name in rows), *further])
    require_whole(folder / "init")
    for name, drawn in rows.items():
        save_rows(folder / f"{name}.jsonl", drawn)
    with writing_folder(folder / "init") as init, quiet():
        model.save_pretrained(init)
        tokenizer.save_pretrained(init)


class WorldTask(Protocol):
    """How a task is asked and scored: its prompts, and the options of all questions or the column with each one's."""

    @property
    def cluster(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def prompts(self) -> Sequence[str]: ...
    @property
    def options(self) -> list[str] | str | None: ...


def task_files(names: Iterable[str]) -> list[str]:
    """The files that `write_tasks` writes, in a world's folder."""
    return ["tasks/tasks.yaml", *(f"tasks/{name}.jsonl" for name in names)]


def write_tasks(
    folder: Path,
    tasks: Mapping[str, WorldTask],
    rows: Callable[[str], Sequence[Mapping[str, Any]]],
    trained: int,
    further: Callable[[str], Mapping[str, Any]] = lambda name: {},
    formats: Mapping[str, Any] | None = None,
) -> None:
    """Write `tasks/`: `tasks.yaml`, and one file of rows per task; the first `trained` rows of each are for training.

    `further` returns other entries of the tasks file for a task; `formats` are entries for the prompts of all tasks.
    """
    for name in tasks:
        save_rows(folder / "tasks" / f"{name}.jsonl", rows(name))
    save_tasks_file(folder / "tasks" / "tasks.yaml", tasks, trained, further, formats)


def save_tasks_file(
    path: Path,
    tasks: Mapping[str, WorldTask],
    trained: int,
    further: Callable[[str], Mapping[str, Any]] = lambda name: {},
    formats: Mapping[str, Any] | None = None,
) -> None:
    """Save a tasks file whose rows are in files beside it, named after the tasks."""
    clusters: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        clusters.setdefault(task.cluster, {})[name] = {
            "data": f"{name}.jsonl",
            "metric": task.metric,
            "prompt": list(task.prompts),
            "output": "answer",
            **({"options": task.options} if task.options else {}),
            **further(name),
            "split": f"train[{trained}:]",
            "train_split": f"train[:{trained}]",
        }
    contents = {**({"formats": dict(formats)} if formats else {}), "clusters": clusters}
    save_text(path, yaml.safe_dump(contents, sort_keys=False, width=120))
