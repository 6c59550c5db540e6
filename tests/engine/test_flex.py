"""FlexAttention beside tiles and beside attention written out with a full mask; where it serves, and where not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._higher_order_ops.flex_attention import flex_attention as operator
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from accord.engine import flex
from accord.engine.attention import Scores, TreeAttention
from accord.engine.flex import Blocks
from accord.engine.trees import Branch, Tree, Trees
from tests.engine.test_attention import attention_in_full, visible
from tests.engine.tiny import tree_lists

BLOCK = flex.BLOCK
WINDOWS = [None, 1, 3, 130, 200]


def long_trees() -> list[Tree]:
    """A prompt of more than two blocks and branches of one token to more than a block; no prompt; a single token."""
    lengths = [(300, (1, 128, 200)), (0, (140,)), (1, (1,)), (90, (30, 30)), (128, (128,))]
    return [Tree((1,) * prompt, tuple(Branch((1,) * n) for n in branches)) for prompt, branches in lengths]


def seen_in_full(trees: Sequence[Tree], window: int | None) -> Tensor:
    """(T, T) in whole blocks: padding sees itself alone."""
    seen = visible(list(trees), window)
    full = torch.eye(-(-len(seen) // BLOCK) * BLOCK, dtype=torch.bool)
    full[: len(seen), : len(seen)] = seen
    return full


def everywhere(blocks: Blocks, window: int | None) -> Tensor:
    """The mask's function of all pairs, (T, T)."""
    at = torch.arange(blocks.size)
    return blocks.mask(window).mask_mod(at, at, at[:, None], at[None])


def eager(query: Tensor, key: Tensor, value: Tensor, *, score_mod: object, block_mask: object, **how: object) -> Tensor:
    """`flex_attention` without compiling and, unlike it, with gradients on a CPU: the operator that it calls."""
    settings = {"BACKEND": "AUTO", "OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}
    mod = score_mod or (lambda score, *_where: score)
    return operator(query, key, value, mod, block_mask.as_tuple(), how["scale"], settings)[0]


@settings(max_examples=20)
@given(
    tree_lists(), st.sampled_from([(4, 2), (2, 2), (3, 1)]), st.sampled_from([None, 1, 3]), st.sampled_from([None, 0.7])
)
def test_values_and_gradients_are_those_of_tiles(
    trees: list[Tree], heads: tuple[int, int], window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    packed = Trees.of(trees)
    size = len(packed.tokens)
    shapes = ((heads[0], size, 4), (heads[1], size, 4), (heads[1], size, 5))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight = torch.randn(size, heads[0], 5, dtype=torch.float64)
    how = Scores(0.6, window, softcap)
    out, wanted = flex.flex(eager, packed.blocks, *inputs, how), TreeAttention(packed)(0, *inputs, how)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
    got, expected = (torch.autograd.grad((x * weight).sum(), inputs) for x in (out, wanted))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (130, None), (200, 0.7)])
def test_long_trees_are_attended_to_as_in_full(window: int | None, softcap: float | None) -> None:
    trees = long_trees()
    packed = Trees.of(trees)
    size = len(packed.tokens)
    torch.manual_seed(0)
    inputs = [torch.randn(heads, size, dim, dtype=torch.float64) for heads, dim in ((4, 4), (2, 4), (2, 5))]
    out = flex.flex(eager, packed.blocks, *inputs, Scores(0.6, window, softcap))
    torch.testing.assert_close(
        out, attention_in_full(*inputs, visible(trees, window), 0.6, softcap), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("window", WINDOWS)
def test_blocks_are_those_that_torch_finds_in_the_whole_mask(window: int | None) -> None:
    blocks = Trees.of(long_trees()).blocks
    assert blocks.size == 1280  # 1,177 tokens in blocks of 128
    seen = seen_in_full(long_trees(), window)
    assert torch.equal(everywhere(blocks, window), seen)
    got = blocks.mask(window)
    wanted = create_block_mask(lambda b, h, q, k: seen[q, k], None, None, blocks.size, blocks.size, device="cpu")
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, indices = getattr(got, f"{kind}_num_blocks"), getattr(got, f"{kind}_indices")
        assert torch.equal(counts, getattr(wanted, f"{kind}_num_blocks")), kind
        assert torch.equal(indices, getattr(wanted, f"{kind}_indices")), kind
    assert blocks.mask(window) is got  # one mask a pack, for all layers


def test_a_mask_by_hand() -> None:
    # A prompt of 2 (places 0, 1) and branches of 2 (2, 3) and 1 (4); place 5 is padding.
    blocks = Trees.of([Tree((1, 1), (Branch((1, 1)), Branch((1,))))]).blocks
    assert everywhere(blocks, None)[:6, :6].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    # Positions 0 1 | 2 3 | 2 and a window of 2: each sees itself and the one before.
    assert everywhere(blocks, 2)[:5, :5].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_itself_says_the_same_without_compiling(dtype: torch.dtype) -> None:
    packed = Trees.of(long_trees())
    torch.manual_seed(0)
    inputs = [torch.randn(heads, len(packed.tokens), 16, dtype=dtype) for heads in (4, 2, 2)]
    how = Scores(0.25, 200, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        out = flex.flex(flex_attention, packed.blocks, *inputs, how)
    torch.testing.assert_close(out, TreeAttention(packed)(0, *inputs, how), rtol=0, atol=1e-6)


@pytest.mark.slow  # a minute of compiling
def test_compiled_it_is_one_kernel_for_all_lengths() -> None:
    torch.manual_seed(0)
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    for trees in (long_trees(), long_trees()[1:], long_trees() * 2):
        packed = Trees.of(trees)
        inputs = [torch.randn(heads, len(packed.tokens), 16) for heads in (4, 2, 2)]
        how = Scores(0.25, 200, 5.0)
        out = flex.attend(packed.blocks, *inputs, how)
        assert out is not None
        torch.testing.assert_close(out, TreeAttention(packed)(0, *inputs, how), rtol=0, atol=1e-5)
    assert counted["unique_graphs"] - before == 1


def test_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "has_bfloat16", lambda device: True)

    def serves(
        device: str, dtype: torch.dtype = torch.bfloat16, tokens: int = 1024, dim: int = 16, e: int = 16
    ) -> bool:
        shaped = {"dtype": dtype, "device": SimpleNamespace(type=device)}
        return flex.serves(*(SimpleNamespace(shape=(4, tokens, d), **shaped) for d in (dim, e)))

    assert serves("cuda")
    assert not serves("cpu") and not serves("cuda", tokens=1023)
    assert not serves("cuda", torch.float32) and not serves("cuda", torch.float64)  # there, tiles are exact
    assert not serves("cuda", dim=8) and not serves("cuda", e=8)
    monkeypatch.setattr(flex, "has_bfloat16", lambda device: False)
    assert not serves("cuda")


def test_tree_attention_takes_it_where_it_serves_and_tiles_where_it_cannot_be_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = Trees.of(long_trees())
    torch.manual_seed(0)
    inputs = [torch.randn(heads, len(packed.tokens), 4, dtype=torch.float64) for heads in (4, 2, 2)]
    how = Scores(0.25, None, None)
    tiles = TreeAttention(packed)(0, *inputs, how)
    monkeypatch.setattr(flex, "serves", lambda query, value: not flex._OFF)
    monkeypatch.setattr(flex, "_OFF", [])
    monkeypatch.setattr(flex, "compiled", lambda: lambda *given, **how: eager(*given, **how) * 2)
    torch.testing.assert_close(TreeAttention(packed)(0, *inputs, how), 2 * tiles, rtol=0, atol=1e-12)

    def refuse(*_args: object, **_kwargs: object) -> Tensor:
        raise TorchDynamoException("no compiler\nand more")

    monkeypatch.setattr(flex, "compiled", lambda: refuse)
    with pytest.warns(UserWarning, match=r"cannot be compiled here \(TorchDynamoException: no compiler\)"):
        assert torch.equal(TreeAttention(packed)(0, *inputs, how), tiles)
    assert torch.equal(TreeAttention(packed)(0, *inputs, how), tiles)  # and says so once
