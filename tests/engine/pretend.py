"""A CUDA card where there is none: tensors that say they are on it, and are computed on the CPU.

To be imported before torch. What mixes the two devices is refused, as a card does; what a card would make the processor
wait for is counted. All values are the CPU's, so that results can be compared bit for bit. Kernels are not tried.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

GUARD = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
struct Guard final : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, Device(DeviceType::CUDA, 0)); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void recordDataPtrOnStream(const DataPtr&, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}
"""
"""What autograd asks of a device, without any; torch for CPUs has nothing under the name of CUDA."""


def load_guard(library: Path) -> None:
    """Compile what stands in for the device unless that is done, and load it before torch looks for one."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.submodule_search_locations
    torch_folder = Path(spec.submodule_search_locations[0])
    if not library.exists():
        source = library.with_suffix(".cpp")
        source.write_text(GUARD)
        command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch_folder / 'include'}", str(source)]
        subprocess.run([*command, "-o", str(library), f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"], check=True)
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder / "lib" / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    import sys

    load_guard(Path(sys.argv[1]))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique_consecutive",
    aten.unique_dim.default: "unique",
    aten.masked_select.default: "masked_select",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
"""Operations whose result's size, or whose value, the processor needs at once."""

waited: Counter[str] = Counter()
"""How often the processor would have waited, by operation and the line of accord that asked."""


class OnCard(Tensor):
    """A tensor that says it is on the card; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        made: OnCard = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CUDA
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnCard({self.held})"

    @property
    def data(self) -> Any:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other: OnCard) -> None:
        torch.Tensor.data.__set__(self, other)
        self.held = other.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __deepcopy__(self, memo: Any) -> Any:
        made: Any = OnCard(self.held.detach().clone())
        return torch.nn.Parameter(made, self.requires_grad) if isinstance(self, torch.nn.Parameter) else made

    def storage(self) -> Any:
        return self.held.storage()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Card(TorchDispatchMode):
    """Within it tensors can be made on, and moved to, the card."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Generator(torch.Generator):
    """One of any device draws on the CPU, where numbers are held."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the operation gives, on the device where it would be."""
    if func is aten._pin_memory.default:
        return args[0].clone()
    if func is aten.is_pinned.default:
        return False
    given: list[Tensor] = []
    tree_map(lambda x: given.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
    from_card = any(isinstance(x, OnCard) for x in given)
    asked = kwargs.get("device")
    to_card = from_card if asked is None else torch.device(asked).type == "cuda"
    if asked is not None and to_card:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if from_card:
        note(func, args, asked)
        strays = [x for x in given if not isinstance(x, OnCard) and x.dim()]
        if strays and func is not aten.copy_.default:
            raise RuntimeError(f"{func}: expected all tensors on one device, found cuda and cpu {strays[0].shape}")
    inner_args, inner_kwargs = tree_map(lambda x: x.held if isinstance(x, OnCard) else x, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not to_card:
        return out
    out = tree_map(lambda x: OnCard(x) if isinstance(x, Tensor) and not isinstance(x, OnCard) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if from_card else out


def note(func: Any, args: Any, asked: Any) -> None:
    """Count what the processor waits for: a value, a size, or a copy to the CPU."""
    kind = WAITS.get(func)
    if asked is not None and torch.device(asked).type == "cpu":
        kind = "copy"
    if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        kind = "index by bool" if any(x is not None and x.dtype == torch.bool for x in args[1]) else None
    if kind:
        lines = [f for f in traceback.extract_stack() if "/accord/" in f.filename]
        at = lines[-1] if lines else None
        waited[f"{kind} {Path(at.filename).stem}.{at.name}" if at else kind] += 1


@contextmanager
def card() -> Iterator[None]:
    """The card is there, multiplies bfloat16, and torch says so."""
    said = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "get_device_capability": lambda *args: (8, 0),
    }
    with ExitStack() as patched:
        for name, answer in said.items():
            patched.enter_context(patch.object(torch.cuda, name, answer))
        patched.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        patched.enter_context(patch("torch.Generator", Generator))
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        with Card():
            yield
        torch._C._set_only_lift_cpu_tensors(False)


def works(folder: Path) -> dict[str, Any]:
    """What is done on both devices, by name: a function of the device that gives numbers."""
    from transformers import LlamaConfig

    from accord import load_model
    from accord.engine import adam, checkpoint, flex
    from accord.engine.config import TrainingConfig
    from accord.engine.fit import LossTerm, Optimizer
    from accord.engine.forward import log_probabilities
    from accord.engine.generate import generate, stream
    from accord.engine.models import prepare_network
    from accord.engine.sampling import Sampling
    from accord.engine.trees import pack
    from accord.feedback.judge import ScoreJudge
    from accord.methods import DPO, GRPO, KTO, PPO, SFT, NashMD, OnlineDPO, PreferenceModel, RewardModel
    from accord.prompting.local import Local
    from accord.prompting.requests import Request
    from tests.commands.small import save_model
    from tests.engine.tiny import CONFIGS, SIZES, VOCABULARY, ragged_trees, random_model

    save_model(folder / "model")

    def network(name: str, device: str) -> Any:
        return prepare_network(random_model(CONFIGS[name](), dtype=torch.float32)).to(device)

    def updates(name: str, device: str) -> Any:
        model = network(name, device)
        optimizer = Optimizer({"policy": model}, TrainingConfig(dtype="float32"), 3)

        def objective(trees: Any) -> Any:
            logp, entropy = log_probabilities(model, trees, 0.9, top_k=9, top_p=0.95, entropy=True)
            return -logp.clamp(min=-20), {"entropy": entropy}

        packs = pack(ragged_trees(), 300, optimizer.device)
        told = [optimizer.update(step, LossTerm(objective, packs, "token")) for step in range(2)]
        return told, [p.tolist() for p in model.parameters()]

    def in_bfloat16(device: str) -> Any:
        """One update, on the card by FlexAttention in the place of whose kernel attention is written out."""
        sizes = {**SIZES, "hidden_size": 64, "vocab_size": VOCABULARY, "eos_token_id": 0, "pad_token_id": None}
        model = prepare_network(random_model(LlamaConfig(**sizes, sliding_window=200), dtype=torch.float32)).to(device)
        optimizer = Optimizer({"policy": model}, TrainingConfig(dtype="bfloat16"), 3)
        used = []

        def kernel(query: Any, key: Any, value: Any, *, block_mask: Any, scale: float, **_: Any) -> Any:
            used.append(query.dtype)
            at = torch.arange(query.shape[2], device=query.device)
            seen = block_mask.mask_mod(at, at, at[:, None], at[None])
            key, value = (x.repeat_interleave(2, 1) for x in (key, value))
            scores = (query @ key.transpose(2, 3)).float() * scale
            return (scores.masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype)) @ value

        flex.compiled, flex.LEAST = lambda: kernel, 64

        def objective(trees: Any) -> Any:
            return -log_probabilities(model, trees)[0], {}

        told = optimizer.update(0, LossTerm(objective, pack(ragged_trees(), 700, optimizer.device), "token"))
        assert used == ([torch.bfloat16] * 2 if device == "cuda" else []), used
        return told

    def samples(device: str) -> Any:
        how = Sampling(9, 1.2, 9, 0.95, min_new_tokens=2)
        prompts = [(3, 1, 4), (2,), (5, 5, 5, 5)]
        model = network("gemma2", device)
        return [
            generate(model, prompts, 5, how, end=0, vocabulary=12, capacity=10),
            list(stream(model, prompts[0], how, end=0, vocabulary=12)),
            generate(network("mamba", device), prompts, 2, Sampling(3), end=0),
        ]

    def run(method: Any, device: str, rows: Any, **more: Any) -> Any:
        policy = load_model(str(folder / "model"), device=device)
        result = method.fit(policy, rows, out=Path(tempfile.mkdtemp(dir=folder)) / "run", **more)
        return [{k: v for k, v in row.items() if "second" not in k and "per_" not in k} for row in result.metrics]

    pairs = [
        {"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")
    ]
    prompts = [{"prompt": text} for text in ("hi", "hello", "good day", "bad")]
    labels = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(pairs)
    ]
    steps: dict[str, Any] = {"batch_size": 2, "max_steps": 2, "dtype": "float32", "learning_rate": 1e-2}
    sampled = {**steps, "max_new_tokens": 5}

    def on_host(device: str) -> dict[str, bool]:
        return {"offload_reference": device == "cuda"}

    def length(completions: list[str], **_: Any) -> list[float]:
        return [float(len(str(text))) for text in completions]

    def goes_on(messages: Any) -> str:
        return "good day"

    longer = ScoreJudge(lambda _, text: float(len(str(text))))

    def resumed(device: str) -> Any:
        """Three steps, stopped after the second, whose states are in 8 bits and on the card's machine off the card."""
        adam.SMALLEST = 256
        method = DPO(
            **{**steps, "max_steps": 3}, optimizer_states="8bit", offload_optimizer=device == "cuda"
        )
        out, real, held = Path(tempfile.mkdtemp(dir=folder)) / "run", checkpoint.load, []

        def load(at: Path, optimizer: Any, *given: Any) -> Any:
            done = real(at, optimizer, *given)
            held.extend(type(tensor) for state in optimizer.rule.state.values() for tensor in state.values())
            return done

        def stop(step: int, _: object) -> None:
            if step == 2:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            method.fit(load_model(str(folder / "model"), device=device), pairs, out=out, save_every=1, on_step=stop)
        checkpoint.load = load
        result = method.fit(load_model(str(folder / "model"), device=device), pairs, out=out, save_every=1, resume=True)
        checkpoint.load = real
        assert held and set(held) == {Tensor}, set(held)
        return [row["loss"] for row in result.metrics]

    def asked(device: str) -> Any:
        """Replies of a model in this process, and how likely they begin with words."""
        requests = [
            Request(prompt=prompt, max_tokens=4, temperature=1.0, seed=i, choices=("good", "bad"))
            for i, prompt in enumerate(("hi", "bye"))
        ]
        replies = Local(load_model(str(folder / "model"), device=device))(requests)
        return [(list(map(ord, str(reply.text))), reply.choices) for reply in replies]

    return {
        **{f"update {name}": lambda device, name=name: updates(name, device) for name in ("llama", "gemma2", "mamba")},
        "bfloat16": in_bfloat16,
        "sampling": samples,
        "dpo with adapters": lambda device: run(DPO(**steps, lora_rank=2), device, pairs),
        "dpo, the reference computed once": lambda device: run(DPO(**steps, precompute_reference=True), device, pairs),
        "kto": lambda device: run(KTO(**steps), device, labels),
        "reward": lambda device: run(RewardModel(**steps), device, pairs),
        "grpo": lambda device: run(GRPO(**sampled, group_size=3), device, prompts, reward=length),
        "dpo, the reference on the host": lambda device: run(DPO(**steps, **on_host(device)), device, pairs),
        "grpo, the reference on the host": lambda device: run(
            GRPO(**sampled, **on_host(device), group_size=3, kl_coefficient=0.1), device, prompts, reward=length
        ),
        "ppo": lambda device: run(PPO(**sampled), device, prompts, reward=length),
        "grpo, turn by turn": lambda device: run(
            GRPO(**sampled, group_size=2, user=goes_on, max_turns=2, reward_at="turns-to-go"),
            device,
            [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in prompts],
            reward=length,
        ),
        "preference": lambda device: run(PreferenceModel(**steps), device, pairs),
        "online dpo": lambda device: run(OnlineDPO(**sampled), device, prompts, judge=longer),
        "nash-md, the reference on the host": lambda device: run(
            NashMD(**sampled, **on_host(device), past=1, snapshot_every=1), device, prompts, judge=longer
        ),
        "muon": lambda device: run(SFT(**steps, optimizer="muon"), device, pairs),
        "activations computed again": lambda device: run(SFT(**steps, activation_checkpointing=True), device, pairs),
        "weights in bfloat16": lambda device: run(
            SFT(**{**steps, "dtype": "bfloat16"}, weight_dtype="bfloat16"), device, pairs
        ),
        "int8": lambda device: run(DPO(**steps, lora_rank=2, quantize="int8"), device, pairs),
        "nf4": lambda device: run(DPO(**steps, lora_rank=2, quantize="nf4"), device, pairs),
        "resumed": resumed,
        "a model that is asked": asked,
    }


def apart(got: Any, expected: Any) -> float:
    """The largest difference of two numbers, relative to 1 where they are smaller."""
    one, other = ([float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", repr(each))] for each in (got, expected))
    assert len(one) == len(other)
    return max((abs(a - b) / max(1, abs(b)) for a, b in zip(one, other, strict=True)), default=0.0)


def main(folder: Path, only: list[str]) -> None:
    """Every work on both devices; prints, as JSON, whether the numbers are the same and what was waited for."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, work in works(folder).items():
        if only and name not in only:
            continue
        waited.clear()
        try:
            expected = work("cpu")
            with card():
                got = work("cuda")
            found[name] = {"apart": apart(got, expected), "waits": dict(sorted(waited.items()))}
        except Exception as error:
            lines = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            found[name] = {"failed": f"{type(error).__name__} {str(error)[:300]} {lines}"}
    print(json.dumps(found))


if __name__ == "__main__":
    from tests.engine import pretend  # the same module by its name, for tensors of one class

    pretend.main(Path(sys.argv[2]), sys.argv[3:])
