"""Tree attention beside attention written out with a full mask, and plain attention with capped scores."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.engine import attention, tiles
from accord.engine.attention import Scores, TreeAttention
from accord.engine.forward import prepare
from accord.engine.trees import Branch, Tree, Trees
from tests.engine.tiny import CONFIGS, random_model, tree_lists


def visible(trees: list[Tree], window: int | None) -> Tensor:
    """(T, T) True where a query (row) sees a key: of its own branch or its tree's prompt, no later and within reach."""
    places: list[tuple[int, int, int]] = []
    for t, tree in enumerate(trees):
        places += [(t, -1, i) for i in range(len(tree.prompt))]
        for b, branch in enumerate(tree.branches):
            places += [(t, b, len(tree.prompt) + i) for i in range(len(branch.tokens))]

    def sees(query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
        distance = query[2] - key[2]
        related = query[0] == key[0] and key[1] in (query[1], -1)
        return related and distance >= 0 and (window is None or distance < window)

    return torch.tensor([[sees(query, key) for key in places] for query in places])


def attention_in_full(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """softmax(cap(scale q k)) v over what is seen, (T, H, E)."""
    repeat = len(query) // len(key)
    scores = query @ key.repeat_interleave(repeat, 0).transpose(1, 2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
    return (weights @ value.repeat_interleave(repeat, 0)).transpose(0, 1)


@settings(max_examples=60)
@given(
    tree_lists(),
    st.sampled_from([(4, 2), (2, 2), (3, 1)]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 0.7]),
    st.integers(1, 300),
    st.sampled_from([0, 5, 128]),
)
def test_tree_attention_is_attention_in_full(
    trees: list[Tree], heads: tuple[int, int], window: int | None, softcap: float | None, block: int, short: int
) -> None:
    torch.manual_seed(0)
    size = sum(tree.size for tree in trees)
    shapes = ((heads[0], size, 4), (heads[1], size, 4), (heads[1], size, 5))  # values may be wider than keys
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight = torch.randn(size, heads[0], 5, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", block)
        patch.setattr(tiles, "SMALL", 8)
        patch.setattr(attention, "SHORT", short)
        packed = Trees.of(trees)
        assert packed.tiles  # made here and kept
        out = TreeAttention(packed)(0, *inputs, Scores(0.6, window, softcap))
    expected = attention_in_full(*inputs, visible(trees, window), 0.6, softcap)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    got = torch.autograd.grad((out * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_every_query_is_in_one_tile_and_the_future_is_left_out() -> None:
    # A prompt of 3 and branches of 2 and 600 tokens: the long one in blocks of 256, 256, 88 that end at keys 259, 515
    # and 603, not all at 603.
    trees = Trees.of([Tree((1,) * 3, (Branch((1,) * 2), Branch((1,) * 600)))])
    queries = torch.cat([tile.queries.flatten() for tile in trees.tiles])
    assert sorted(queries[queries >= 0].tolist()) == list(range(605))
    widths = {int((row >= 0).sum()) for tile in trees.tiles for row in tile.keys}
    assert widths == {3, 5, 259, 515, 603}


def test_what_is_hidden_by_hand() -> None:
    # One branch of 2 after a prompt of 2; its first token stands at position 2 and sees the prompt and itself.
    tile = Trees.of([Tree((1, 1), (Branch((1, 1)),))]).tiles[0]
    row = tile.queries.tolist().index([2, 3])
    assert tile.keys[row].tolist() == [0, 1, 2, 3]
    assert tile.hidden(None)[row].int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert tile.hidden(2)[row].int().tolist() == [[1, 0, 0, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_without_trees_a_model_computes_as_before(name: str) -> None:
    plain = random_model(CONFIGS[name](), dtype=torch.float32)
    prepared = prepare(copy.deepcopy(plain))
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    padding = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected, got = (m(input_ids=tokens, attention_mask=padding).logits for m in (plain, prepared))
    real = padding.bool()
    torch.testing.assert_close(got[real], expected[real], rtol=0, atol=1e-5)
    told = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    prompt, seen = tokens[1:], padding[1:]
    assert torch.equal(
        prepared.generate(prompt, attention_mask=seen, **told), plain.generate(prompt, attention_mask=seen, **told)
    )
