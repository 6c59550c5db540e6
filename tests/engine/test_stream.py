"""What each part of a model adds: sums that must come out, and formulas of one architecture written out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from transformers import LlamaForCausalLM

from accord.engine.forward import prepare
from accord.engine.inside import look, plain_attention
from accord.engine.stream import LastNorm, trace
from tests.engine.tiny import CONFIGS, random_model, token_lists

TOKENS = (3, 1, 4, 1, 5, 9, 2)
TOLD_APART = ("llama", "qwen3", "mistral", "gemma2", "gpt2", "cohere", "granite", "deepseek_v3", "opt")
BY_HEADS = ("llama", "qwen3", "mistral", "gpt2", "cohere", "granite", "deepseek_v3", "opt")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_sum_to_what_the_last_norm_reads(name: str) -> None:
    model = prepare(random_model(CONFIGS[name]()))
    read = []
    stream = trace(model, TOKENS)
    assert stream is not None
    norm = stream.norm
    assert isinstance(norm, torch.nn.Module)
    hook = norm.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad(), plain_attention(model):
        model(input_ids=torch.tensor([TOKENS]))
    hook.remove()
    torch.testing.assert_close(stream.final, read[0][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(stream.embedding + stream.layers.sum(0), stream.final, rtol=0, atol=1e-12)
    assert (stream.attention is not None) == (name in TOLD_APART)
    if stream.attention is not None and stream.mlp is not None:
        torch.testing.assert_close(stream.attention + stream.mlp, stream.layers, rtol=0, atol=1e-12)
    assert len(stream.mixing) == (2 if name in BY_HEADS else 0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("place", [0, 6])
def test_the_parts_effects_sum_to_the_logit(name: str, place: int) -> None:
    # The logit before its soft cap, less the mean logit. LayerNorms are exact in float64; transformers' RMS norms
    # compute in float32 whatever they are given.
    model = prepare(random_model(CONFIGS[name]()))
    with torch.no_grad(), plain_attention(model):
        logits = model(input_ids=torch.tensor([TOKENS])).logits[0, place]
    if name == "gemma2":  # logit = 3 tanh(x / 3)
        logits = 3 * torch.atanh(logits / 3)
    stream = trace(model, TOKENS)
    assert stream is not None
    exact = 1e-12 if name in ("gpt2", "opt", "bloom") else 1e-5
    for token in (0, 7):
        effect = stream.toward(token, place)
        assert effect is not None
        assert float(effect.total) == pytest.approx(float(logits[token] - logits.mean()), abs=exact)
        if effect.attention is not None and effect.mlp is not None:
            torch.testing.assert_close(effect.attention + effect.mlp, effect.layers, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BY_HEADS)
def test_heads_and_the_tokens_they_look_at_sum_to_attention(name: str) -> None:
    model = prepare(random_model(CONFIGS[name]()))
    stream = trace(model, TOKENS)
    assert stream is not None and stream.attention is not None
    for layer, mixing in enumerate(stream.mixing):
        for place in (0, 3, 6):
            heads = [mixing.added(head, place) for head in range(len(mixing.weights))]
            assert all(bool((added[place + 1 :] == 0).all()) for added in heads)
            summed = torch.stack(heads).sum((0, 1)) + mixing.bias()
            torch.testing.assert_close(summed, stream.attention[layer, place], rtol=0, atol=1e-12)


def test_a_head_s_addition_by_hand() -> None:
    # Of a Llama: W_O's columns of the head times weight times value, the value head being the second of two for head 2.
    model = prepare(random_model(CONFIGS["llama"]()))
    assert isinstance(model, LlamaForCausalLM)
    stream, inside = trace(model, TOKENS), look(model, TOKENS)
    assert stream is not None
    layer = model.model.layers[0]
    with torch.no_grad():
        hidden = model.model.embed_tokens(torch.tensor(TOKENS))
        value = layer.self_attn.v_proj(layer.input_layernorm(hidden))[:, 4:8]
        expected = inside.attention[0][2, 5, :, None] * value @ layer.self_attn.o_proj.weight[:, 8:12].T
    torch.testing.assert_close(stream.mixing[0].added(2, 5), expected, rtol=0, atol=1e-7)
    assert torch.equal(stream.embedding, hidden)


def test_what_a_part_raises_by_hand() -> None:
    # An RMS norm of gains g over a state of length r sqrt(16): part p raises token v by (g p / r) . (u_v - mean u).
    model = prepare(random_model(CONFIGS["llama"]()))
    stream = trace(model, TOKENS)
    assert stream is not None
    norm = stream.last_norm(4)
    assert norm is not None and not norm.centers
    with torch.no_grad():
        size = (stream.final[4].square().mean() + 1e-6).sqrt()
        u = model.get_output_embeddings().weight
        expected = (model.model.norm.weight * stream.mlp[0, 4] / size) @ (u - u.mean(0)).T
    raised = stream.raised(stream.mlp[:1, 4], norm)
    torch.testing.assert_close(raised[0], expected, rtol=0, atol=1e-5)
    assert float(raised.mean(-1).abs().max()) < 1e-12


def test_a_layer_norm_is_a_linear_map_at_a_state() -> None:
    norm = torch.nn.LayerNorm(6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(6, generator=generator))
        x = 3 + torch.randn(6, generator=generator, dtype=torch.float64)
        parts = torch.randn(3, 6, generator=generator, dtype=torch.float64)
        parts[2] = x - parts[:2].sum(0)
        found = LastNorm.at(norm, x)
    assert found is not None and found.centers
    torch.testing.assert_close(found(parts).sum(0) + found.bias, norm(x).detach(), rtol=0, atol=1e-12)
    scale = (x.var(correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(found.gain, norm.weight.detach() / scale, rtol=1e-5, atol=0)


def test_what_is_no_such_norm_is_not_taken_apart() -> None:
    assert LastNorm.at(torch.tanh, torch.randn(6, generator=torch.Generator().manual_seed(0))) is None


@settings(max_examples=20)
@given(token_lists(1, 9))
def test_the_softmax_of_the_scores_is_the_attention(tokens: tuple[int, ...]) -> None:
    for name in ("gemma2", "bloom"):
        inside = look(prepare(random_model(CONFIGS[name]())), tokens)
        for scores, weights in zip(inside.scores, inside.attention, strict=True):
            torch.testing.assert_close(scores.softmax(-1), weights.to(scores), rtol=0, atol=1e-6)
            later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
            assert bool((scores[:, later] == -torch.inf).all())


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no tokens to read"):
        trace(prepare(random_model(CONFIGS["llama"]())), ())
