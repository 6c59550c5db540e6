"""Publishing models: `accord export` writes files for servers, `accord merge` joins an adapter and its base.

`accord push` uploads a folder to the Hugging Face Hub, with huggingface_hub.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from accord import engine
from accord.console import error_text, legible, status
from accord.errors import InputError
from accord.outputs import require_file, require_model_folder
from accord.report.card import add_evaluation
from accord.results import load

if TYPE_CHECKING:
    from accord.engine import Model

PUSHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "labels.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "*.model", "*.jinja", "README.md", "LICENSE*", "NOTICE*",
)  # fmt: skip
"""Patterns of the files that are uploaded; other files in the folder are not."""


def push(
    folder: str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    evaluation: str | None = None,
    dry_run: bool = False,
) -> str:
    """Upload a model's folder, with its card, to the Hugging Face Hub.

    The repository and the branch are created if missing. The token comes from HF_TOKEN or `hf auth login`, the Hub's
    address from HF_ENDPOINT. Only weights, tokenizer, chat template, configuration, card and license are uploaded, and
    no other file of the folder.

    Args:
        folder: the model's folder, such as runs/dpo/model.
        repo: the repository, OWNER/NAME.
        private: make a new repository private; an existing one stays as it is.
        revision: the branch to commit to (default: main).
        evaluation: the folder of an `accord evaluate`, whose tables are added to the card first.
        dry_run: only say what would be uploaded.

    Raises:
        InputError: the folder is not a model's or holds an optimizer's state, the repository's name is not valid, there
            is no token, or the Hub refuses or cannot be reached.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise InputError(f"push: {repo} is not a repository name; write OWNER/NAME.")
    files = model_files(Path(folder))
    if evaluation:
        load(evaluation)
    if evaluation and not dry_run:
        add_evaluation(folder, evaluation)
        files = model_files(Path(folder))
    for file in files:
        status(f"{file.name}  {file.stat().st_size:,} bytes")
    if left := sorted({path.name for path in Path(folder).iterdir()} - {file.name for file in files}):
        status(f"not uploaded: {', '.join(left)}")
    if dry_run:
        print(f"push: {len(files)} files would go to {repo}" + (f", {revision}" if revision else ""))
        return ""
    address = _upload(Path(folder), repo, [file.name for file in files], private, revision)
    print(f"push: {address}")
    return address


def export(
    model: str,
    out: str,
    *,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    format: Literal["safetensors", "gguf"] | None = None,
) -> str:
    """Write a model for inference servers, adapters merged, as a folder or a GGUF file.

    The folder holds safetensors in files of at most 5 GB, tokenizer, chat template, and a generation_config.json that
    lists every token at which the model stops here. A GGUF file holds the same for llama.cpp and Ollama: llama.cpp's
    convert_hf_to_gguf.py writes it if it is on the PATH, else the package gguf.

    Args:
        model: a folder (a model's or an adapter's), a GGUF file, a Hugging Face Hub name, or smollm2.
        out: the new folder, or a new file whose name ends in .gguf.
        dtype: precision of the weights; float16 only if none is larger than 65,504.
        format: gguf writes model.gguf into the folder --out; an --out that ends in .gguf implies it.

    Raises:
        InputError: there is no such model, it is quantized, a weight does not fit, it cannot be written as GGUF, or
            something else is at `out`.
    """
    is_file = out.lower().endswith(".gguf")
    as_gguf = format == "gguf" or (format is None and is_file)
    file = Path(out) if is_file else Path(out) / "model.gguf"
    read = [model, engine.networks.find_model(model).base or ""]
    if as_gguf:
        require_file(file, read)
    else:
        require_model_folder(out, read)
    whole = _whole(model, "export")
    precision = engine.precision.STORED[dtype]
    if not as_gguf:
        print(f"export: the model is {whole.save(out, precision)}, in {dtype}")
        return out
    if not isinstance(whole, engine.Policy):
        raise InputError(
            f"export: {model} scores text and does not generate it; only models that generate can be written as GGUF."
        )
    writer = engine.gguf.write_gguf(whole, file, precision)
    print(f"export: the model is {file}, in {dtype}, written by {writer}")
    return str(file)


def merge(model: str, out: str, *, into: str | None = None) -> str:
    """Merge an adapter (LoRA) into the model it was trained on, and write the whole model.

    W + s B A replaces W, in float32. The tokenizer and its chat template are written too. With --into, a language model
    that was taken out of a model that also reads images or sounds is put back: its weights replace those in there, and
    the other parts stay as they are.

    Args:
        model: the folder of the adapter, such as runs/dpo/model, or with --into of the language model.
        out: the new folder.
        into: the model that also reads images or sounds: a folder or a Hugging Face Hub name.

    Raises:
        InputError: the folder holds no adapter, its base is not found or quantized, the model does not match the one
            inside `into`, or something else is at `out`.
    """
    base = engine.networks.find_model(model).base
    if base is None and into is None:
        raise InputError(f"merge: {model} holds no adapter, so it is a whole model already.")
    require_model_folder(out, *filter(None, (model, base, into)))
    whole = _whole(model, "merge")
    if into is None:
        whole.save(out)
    else:
        source = engine.networks.find_model(into).name
        with engine.reading.readable(into, "the model", into):
            wrapper, processor = engine.wrappers.read_wrapper(source)
        engine.wrappers.put_back(whole, wrapper, processor, out)
    print(f"merge: the model is {out}")
    return out


def _whole(model: str, command: str) -> Model:
    """A language or reward model, loaded to be written; InputError where it is quantized."""
    try:
        whole: Model = engine.load.load_model(model)
    except engine.kinds.WritesNoText:
        whole = engine.load.load_classifier(model)
    if whole.is_quantized:
        raise InputError(f"{command}: {model} is quantized already; {command} the model that it was made from.")
    return whole


def model_files(folder: Path) -> list[Path]:
    """The files to upload. Raises InputError where the folder is not a model's, or a file must not be uploaded."""
    if not folder.is_dir():
        raise InputError(f"push: there is no folder {folder}.")
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter and Path(base := engine.adapters.read_config(folder)["base_model_name_or_path"]).exists():
        raise InputError(
            f"push: {folder} is an adapter of {base}, a folder of this machine: write that model's name on the Hub "
            "into adapter_config.json, or push what accord merge makes of it."
        )
    if not (is_adapter or (folder / "config.json").is_file()):
        inside = folder / "model"
        remedy = f"push {inside}" if (inside / "config.json").is_file() else "push the folder that holds the model"
        raise InputError(f"push: {folder} is not a model's folder (it has no config.json); {remedy}.")
    files = sorted(p for p in folder.iterdir() if p.is_file() and any(fnmatch(p.name, form) for form in PUSHED))
    if state := [path.name for path in folder.iterdir() if re.match(r"(optimizer|scheduler|checkpoint)", path.name)]:
        raise InputError(
            f"push: {folder} holds {state[0]}, the state of an unfinished run; push the model that the run saves."
        )
    weights = {file.name for file in files if file.suffix == ".safetensors"}
    if not weights:
        raise InputError(f"push: {folder} has no weights in safetensors; save the model with save_pretrained again.")
    for index in (file for file in files if file.name.endswith(".index.json")):
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if lacking := sorted(parts - weights):
            raise InputError(f"push: {folder} lacks {lacking[0]}, which {index.name} names; save the model again.")
    for name in sorted(weights):
        _require_whole(folder / name)
    return files


def _require_whole(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise InputError(f"push: {file} is not a complete safetensors file ({error}); save the model again.") from None


def _upload(folder: Path, repo: str, names: list[str], private: bool, revision: str | None) -> str:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise InputError("push: no token for the Hub is known; set HF_TOKEN, or log in with `hf auth login`.")
    api = HfApi(library_name="accord")
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise InputError(f"push: {repo} is there, and public; make it private first, or leave --private out.")
        if revision and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=names,
            revision=revision,
            commit_message="Upload by accord",
        )
    except HfHubHTTPError as error:
        message = f" ({legible(error.server_message)})" if error.server_message else ""
        raise InputError(f"push: {_refusal(error.response.status_code, repo)}{message}.") from None
    except InputError:
        raise
    except Exception as error:  # the clients of the Hub's stores raise errors of many kinds
        raise InputError(
            f"push: {repo} could not be uploaded to {api.endpoint} ({error_text(error)}); try again."
        ) from None
    return str(commit.commit_url)


def _refusal(code: int, repo: str) -> str:
    known = {
        401: "the Hub does not know the token; set HF_TOKEN again, or log in with `hf auth login`",
        403: f"the token may not write to {repo}; take one with write access, or another name",
        404: f"the Hub has no {repo}, or hides it from this token; look at the name and at whose token it is",
    }
    return known.get(code, f"the Hub answered {code} for {repo}; try again later")
