"""What goes on inside a model, beside plain transformers and formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from accord.engine.forward import prepare, takes_trees
from accord.engine.generate import generate
from accord.engine.inside import elsewhere, look, nearest, plane
from accord.engine.sampling import Sampling
from tests.engine.tiny import CONFIGS, END, random_model, token_lists

TOKENS = (3, 1, 4, 1, 5, 9, 2)


def test_attention_is_the_softmax_of_queries_and_keys() -> None:
    # Of a Llama of 2 layers and 4 heads of size 4 over 2 key heads: softmax(R q R k^T / sqrt 4) over what came before.
    model = prepare(random_model(CONFIGS["llama"]()))
    assert isinstance(model, LlamaForCausalLM)
    trunk, size = model.model, len(TOKENS)
    hidden = trunk.embed_tokens(torch.tensor([TOKENS]))
    rotary = trunk.rotary_emb(hidden, torch.arange(size)[None])
    inside = look(model, TOKENS)
    with torch.no_grad():
        for layer, weights in zip(trunk.layers, inside.attention, strict=True):
            x, attention = layer.input_layernorm(hidden), layer.self_attn
            q = attention.q_proj(x).view(1, size, 4, 4).transpose(1, 2)
            k = attention.k_proj(x).view(1, size, 2, 4).transpose(1, 2)
            q, k = apply_rotary_pos_emb(q, k, *rotary)
            scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) / math.sqrt(4)
            later = torch.ones(size, size).triu(1).bool()
            expected = scores.masked_fill(later, float("-inf")).softmax(-1)[0]
            torch.testing.assert_close(weights.double(), expected.double(), rtol=0, atol=1e-6)
            v = attention.v_proj(x).view(1, size, 2, 4).transpose(1, 2).repeat_interleave(2, 1)
            hidden = hidden + attention.o_proj((expected @ v[0]).transpose(0, 1).reshape(1, size, 16))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        logp = model.lm_head(trunk.norm(hidden))[0].log_softmax(-1)
    torch.testing.assert_close(inside.logp, logp, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_any_architecture_is_read_as_it_predicts_and_left_as_it_was(name: str) -> None:
    model = prepare(random_model(CONFIGS[name]()))
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    took_trees = takes_trees(model)
    before = generate(model, [TOKENS], 2, Sampling(5), end=END)
    inside = look(model, TOKENS)
    assert takes_trees(model) == took_trees and generate(model, [TOKENS], 2, Sampling(5), end=END) == before
    torch.testing.assert_close(inside.logp.double(), expected.double(), rtol=0, atol=1e-5)
    assert len(inside.attention) == (0 if name == "mamba" else 2)
    for weights in inside.attention:
        assert weights.shape == (4, 7, 7)
        assert float((weights.sum(-1) - 1).abs().max()) < 1e-6
        assert float(weights.triu(1).abs().max()) == 0.0
    if name == "mistral":  # its window is 4 tokens: the query itself and 3 before it
        assert float(inside.attention[0].tril(-4).abs().max()) == 0.0
    assert inside.lens.shape == inside.lens_logp.shape == (3, 7)
    assert torch.equal(inside.lens[-1], inside.logp.argmax(-1))


def test_the_lens_applies_the_last_norm_and_the_output_layer_after_each_layer() -> None:
    model = prepare(random_model(CONFIGS["llama"]()))
    states = model(input_ids=torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
    inside = look(model, TOKENS)
    with torch.no_grad():
        for row, state in enumerate(states[:2]):
            best = model.lm_head(model.model.norm(state[0])).log_softmax(-1).max(-1)
            assert torch.equal(inside.lens[row], best.indices)
            torch.testing.assert_close(inside.lens_logp[row].double(), best.values.double(), rtol=0, atol=1e-6)


def test_a_token_s_probability_rank_and_entropy_come_from_the_tokens_before_it() -> None:
    model = prepare(random_model(CONFIGS["llama"]()))
    inside = look(model, TOKENS)
    with torch.no_grad():
        p = model(input_ids=torch.tensor([TOKENS])).logits[0].softmax(-1).tolist()
    for place, token in enumerate(TOKENS[1:]):
        row = p[place]
        assert float(inside.token_logp()[place]) == pytest.approx(math.log(row[token]), abs=1e-6)
        assert int(inside.ranks()[place]) == 1 + sum(other > row[token] for other in row)
        assert float(inside.entropies()[place]) == pytest.approx(-sum(x * math.log(x) for x in row), abs=1e-6)
    assert len(inside.token_logp()) == len(TOKENS) - 1 and len(inside.entropies()) == len(TOKENS)


@settings(max_examples=20)
@given(token_lists(1, 9))
def test_attention_sums_to_one_whatever_is_read(tokens: tuple[int, ...]) -> None:
    for weights in look(prepare(random_model(CONFIGS["gemma2"]())), tokens).attention:
        assert weights.shape == (4, len(tokens), len(tokens))
        assert float((weights.sum(-1) - 1).abs().max()) < 1e-6


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no tokens to read"):
        look(prepare(random_model(CONFIGS["llama"]())), ())


def test_the_share_of_attention_elsewhere_by_hand() -> None:
    # Head 1 looks at itself, head 2 at the first token, head 3's third query by .7 at the second: .7 of 3 queries.
    itself, first = torch.eye(3), torch.tensor([[1.0, 0, 0]] * 3)
    third = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.1, 0.7, 0.2]])
    shares = elsewhere([torch.stack([itself, first, third])])
    torch.testing.assert_close(shares, torch.tensor([[0.0, 0.0, 0.7 / 3]]))


def test_nearest_embeddings_by_hand() -> None:
    # Cosines to (1, 0): of (2, 0) 1, of (3, 4) 0.6, of (0, 1) 0, of (-1, 0) -1. Length does not count.
    rows = torch.tensor([[1.0, 0], [0, 1], [3, 4], [-1, 0], [2, 0]])
    ids, cosines = nearest(rows, [0, 3], 3)
    assert ids.tolist() == [[4, 2, 1], [1, 2, 0]]
    torch.testing.assert_close(cosines, torch.tensor([[1.0, 0.6, 0.0], [0.0, -0.6, -1.0]]))
    assert nearest(rows, [0], 99)[0].shape == (1, 4)


def test_the_plane_by_hand() -> None:
    # Of length one these are (1,0,0), (-1,0,0), (0,0,1), (0,0,1): the mean is (0,0,1/2). The first axis has variance
    # 1 + 1 = 2, the third 4/4 = 1, the second none, so the plane keeps all. The signs make each largest positive.
    spots, kept = plane(torch.tensor([[2.0, 0, 0], [-3, 0, 0], [0, 0, 1], [0, 0, 5]]))
    expected = torch.tensor([[1.0, 0.5], [-1, 0.5], [0, -0.5], [0, -0.5]])
    torch.testing.assert_close(spots.abs(), expected.abs())
    assert kept == pytest.approx(1.0)
    assert all(float(column[column.abs().argmax()]) > 0 for column in spots.T)
    assert plane(torch.tensor([[1.0, 2.0]])) == (pytest.approx(torch.zeros(1, 2)), 0.0)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_the_plane_keeps_distances_of_what_lies_on_it(n: int, d: int, seed: int) -> None:
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    spots, kept = plane(vectors)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    assert spots.shape == (n, 2) and 0 <= kept <= 1 + 1e-6
    assert bool((torch.cdist(spots, spots) <= torch.cdist(unit, unit) + 1e-3).all())
