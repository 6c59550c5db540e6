"""`accord tokenizer` trains a tokenizer on text; `accord new-model` makes an untrained model that uses it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from accord import data as rows_of
from accord import engine
from accord.console import show, status
from accord.data.mix import called
from accord.engine.config import require_seed
from accord.errors import InputError
from accord.evaluate.options import RowOptions, checked_by, takes
from accord.files import write_sums
from accord.outputs import require_model_folder, require_outside, require_whole, writing_folder

if TYPE_CHECKING:
    from accord.data.bpe import Compression
    from accord.data.load import Source
    from accord.engine.llama import LlamaSizes


def _check_size(vocab_size: int) -> None:
    rows_of.bpe.require_size(vocab_size)


@takes(RowOptions)
@checked_by(_check_size)
def tokenizer(data: Source, out: str, *, vocab_size: int, eval_data: Source | None = None, **options: Any) -> Path:
    """Train a byte-level BPE tokenizer on text, with end and padding tokens and a chat template.

    Any text survives encoding and decoding. The output ends with the compression, in bytes of UTF-8 per token, of the
    training text and of --eval-data.

    Args:
        data: text or rows of any kind: a file, a folder or a Hub name; or several, each with :WEIGHT for a mix.
        out: the folder to write, which AutoTokenizer of transformers reads.
        vocab_size: size of the vocabulary; 256 of the tokens are the bytes, and 4 are special.
        eval_data: held-out text on which to measure compression too.
        options: the fields of `RowOptions`, for the data.

    Raises:
        InputError: the data cannot be read or has no text, the vocabulary is too small, or something else is at
            `out`.
    """
    settings = RowOptions(**options)
    _check_size(vocab_size)
    require_outside(Path(out), data, eval_data)
    require_whole(out)
    if eval_data is not None:  # fail before long work if it cannot be read
        list(islice(rows_of.bpe.texts_of(eval_data), 1))
    arguments = (data, settings.split, settings.limit, settings.columns)
    made = rows_of.bpe.train(rows_of.bpe.texts_of(*arguments), vocab_size)
    with writing_folder(out) as partial:
        made.save_pretrained(partial)
        write_sums(partial)
    if len(made) < vocab_size:
        status(f"the vocabulary has {len(made):,} tokens, not {vocab_size:,}: no other pair occurs twice in the text")
    compressions = {called(data): rows_of.bpe.compression(made, rows_of.bpe.texts_of(*arguments))}
    if eval_data is not None:
        compressions[called(eval_data)] = rows_of.bpe.compression(made, rows_of.bpe.texts_of(eval_data))
    show(compressed(compressions))
    return Path(out)


def compressed(compressions: dict[str, Compression]) -> Table:
    """A table of the compression of each text."""
    grid = Table("text", "texts", "bytes", "tokens", "bytes a token")
    for name, one in compressions.items():
        grid.add_row(name, f"{one.texts:,}", f"{one.bytes:,}", f"{one.tokens:,}", f"{one.bytes_per_token:.2f}")
    return grid


def _sizes(
    layers: int,
    width: int,
    heads: int,
    kv_heads: int | None,
    inner_width: int | None,
    context: int,
    tie_embeddings: bool,
    seed: int,
    vocabulary: int = 1,
) -> LlamaSizes:
    """The sizes of the model. Raises InputError where no model has these, or for a seed that torch does not accept."""
    require_seed(seed)
    return engine.llama.LlamaSizes(
        vocabulary=vocabulary,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        inner_width=8 * -(-width // 3) if inner_width is None else inner_width,
        context=context,
        tie_embeddings=tie_embeddings,
    )


@checked_by(_sizes)
def new_model(
    tokenizer: str,
    out: str,
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int | None = None,
    inner_width: int | None = None,
    context: int = 512,
    tie_embeddings: bool = True,
    seed: int = 0,
) -> Path:
    """Make an untrained model of Llama's architecture for a tokenizer, in float32.

    Args:
        tokenizer: a folder, such as `accord tokenizer` writes, or a model's; a Hub name, or smollm2.
        out: the new folder.
        layers: number of transformer blocks.
        width: width of the hidden states, an even multiple of the heads.
        heads: number of attention heads.
        kv_heads: number of key and value heads, which attention heads share (default: as many as heads).
        inner_width: width inside the feed-forward layers (default: 8/3 of width, rounded up to a multiple of 8).
        context: context length, in tokens.
        tie_embeddings: use the embeddings as the output head too.
        seed: seed of the weights.

    Raises:
        InputError: the tokenizer cannot be read or has no end token, no model has these sizes, or something else is at
            `out`.
    """
    asked = (layers, width, heads, kv_heads, inner_width, context, tie_embeddings, seed)
    _sizes(*asked)
    require_model_folder(out, tokenizer)
    reads = engine.load.load_tokenizer(tokenizer)
    sizes = _sizes(*asked, engine.models.vocabulary_of(reads))
    if reads.eos_token_id is None:
        raise InputError(f"the tokenizer {tokenizer} has no eos_token, the end of every text: set one and save it.")
    reads.model_max_length = context
    network = engine.llama.untrained_llama(seed, sizes, pad=reads.pad_token_id, end=reads.eos_token_id)
    engine.Policy(engine.models.prepare_network(network), reads, out).save(out)
    grid = Table("part", "parameters")
    for part, count in {**sizes.parameters, "all": sum(sizes.parameters.values())}.items():
        grid.add_row(part, f"{count:,}")
    show(grid)
    return Path(out)
