"""The text of tokens that arrive one by one."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from accord.chat.speaker import IncrementalDecoder


def test_a_run_of_bytes_is_decoded_once_it_has_ended() -> None:
    names = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581hi", "x"]
    spelled = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    spelled.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelled, eos_token="</s>")
    face, hi, x = [1 + byte for byte in "🙂".encode()], 257, 258
    for tokens, pieces in (
        ([x, *face, hi], ["x", "", "", "", "", "🙂 hi", ""]),
        ([*face, 0, *face[:1], x, hi], ["", "", "", "", "", "", "\ufffd" * 5 + "x", " hi", ""]),  # one byte too many
        ([hi, *face], [" hi", "", "", "", "", "🙂"]),
    ):
        decoder = IncrementalDecoder(tokenizer)
        got = [*map(decoder.add, tokens), decoder.rest()]
        assert got == pieces and "".join(got) == tokenizer.decode(tokens, skip_special_tokens=True)
