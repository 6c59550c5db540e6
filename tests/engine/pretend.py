"""A CUDA card where there is none: tensors that say they are on it, and are computed on the CPU.

To be imported before torch. What mixes the two devices is refused, as a card does; what a card would make the processor
wait for is counted. All values are the CPU's, so that results can be compared bit for bit. Kernels are not tried.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
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

import peft.utils.save_and_load  # noqa: E402, F401  imported on the card, it would look for CUDA's libraries
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

from tests.engine import recorded  # noqa: E402

CUDA = torch.device("cuda", 0)
DATA = torch._C.TensorBase.data
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

PACKAGE = f"{Path(__file__).parents[2] / 'accord'}/"
"""The folder of accord's own files; the repository may be in one of that name too."""

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


def set_data(tensor: Any, other: Tensor) -> None:
    """What `tensor.data = other` does; one of the CPU's that gets a tensor of the card is there from then on."""
    DATA.__set__(tensor, other)
    if isinstance(other, OnCard):
        tensor._is_param = isinstance(tensor, torch.nn.Parameter)
        tensor.__class__, tensor.held = OnCard, other.held


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
    if func is aten.histc.default:  # of whole numbers on a card alone
        out = func(inner_args[0].float(), *inner_args[1:], **inner_kwargs).to(inner_args[0].dtype)
    else:
        out = func(*inner_args, **inner_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not to_card:
        return out
    out = tree_map(lambda x: OnCard(x) if isinstance(x, Tensor) and not isinstance(x, OnCard) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if from_card else out


def load_file(file: str, device: str = "cpu") -> dict[str, Tensor]:
    """Weights of a file on a device; safetensors' own reading onto a card does not ask torch."""
    return {name: tensor.to(device) for name, tensor in safetensors.torch.load_file(file).items()}


def note(func: Any, args: Any, asked: Any) -> None:
    """Count what the processor waits for: a value, a size, or a copy to the CPU."""
    kind = WAITS.get(func)
    if asked is not None and torch.device(asked).type == "cpu":
        kind = "copy"
    if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        kind = "index by bool" if any(x is not None and x.dtype == torch.bool for x in args[1]) else None
    if kind:
        codes = (frame.f_code for frame, _ in traceback.walk_stack(None))
        at = next((code for code in codes if code.co_filename.startswith(PACKAGE)), None)
        waited[f"{kind} {Path(at.co_filename).stem}.{at.co_name}" if at else kind] += 1


@contextmanager
def card() -> Iterator[None]:
    """The card is there, multiplies bfloat16, and torch says so; graphs are operations repeated."""
    said = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "get_device_capability": lambda *args: (8, 0),
        "current_device": lambda: 0,
        "get_device_name": lambda *args: "pretended",
        "get_device_properties": lambda *args: SimpleNamespace(total_memory=80 * 2**30),
        "mem_get_info": lambda *args: (80 * 2**30, 80 * 2**30),
    }
    with ExitStack() as patched:
        for name, answer in said.items():
            patched.enter_context(patch.object(torch.cuda, name, answer))
        patched.enter_context(patch("accord.engine.cuda_graphs.record", recorded.record))
        patched.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        patched.enter_context(patch("peft.utils.save_and_load.safe_load_file", load_file))
        patched.enter_context(patch("torch.Generator", Generator))
        patched.enter_context(patch.object(Tensor, "data", property(DATA.__get__, set_data)))
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        with Card():
            yield
        torch._C._set_only_lift_cpu_tensors(False)


if __name__ == "__main__":
    from tests.engine import pretend_works

    pretend_works.main(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
