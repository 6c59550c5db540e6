"""Tokens of prompts and completions: where the model speaks, what is trained, and the end of the turn."""

import pytest

from accord.data.chat import RewrittenHistory, encode_completion, encode_prompt, encode_reply
from accord.engine.trees import Branch
from accord.errors import InputError
from accord.records import Message
from tests.data.conftest import (
    ASSISTANT,
    BAD,
    BOS,
    BYE,
    DAY,
    EOS,
    GOOD,
    HELLO,
    HI,
    SYSTEM,
    TEMPLATE,
    USER,
    word_tokenizer,
)

ASK = (Message("user", "hi"),)
ANSWER = (Message("assistant", "good day"),)
# What the template puts first where the chat has no system message of its own.
DEFAULT = (SYSTEM, GOOD, EOS)


def test_a_plain_prompt_keeps_what_its_tokenizer_puts_in_front_and_nothing_behind():
    assert encode_prompt(word_tokenizer(), "hi day") == (HI, DAY)
    assert encode_prompt(word_tokenizer("<s>"), "hi day") == (BOS, HI, DAY)
    assert encode_prompt(word_tokenizer("<s>", "</s>"), "hi day") == (BOS, HI, DAY)
    assert encode_prompt(word_tokenizer("", "</s>"), "hi day") == (HI, DAY)


def test_an_empty_prompt_is_the_beginning_of_text_or_nothing():
    assert encode_prompt(word_tokenizer(), "") == (BOS,)
    assert encode_prompt(word_tokenizer("<s>", "</s>"), "") == (BOS,)
    assert encode_prompt(word_tokenizer(bos_token=None), "") == ()
    # One token for both ends, as in GPT-2: it is kept in front.
    assert encode_prompt(word_tokenizer("</s>", bos_token="</s>"), "") == (EOS,)
    assert encode_prompt(word_tokenizer("</s>", bos_token="</s>"), "hi") == (EOS, HI)


def test_a_plain_completion_ends_with_one_end_of_turn(tokenizer):
    assert encode_completion(tokenizer, "hi", "good day") == Branch((GOOD, DAY, EOS))
    assert encode_completion(tokenizer, "hi", "good day</s>") == Branch((GOOD, DAY, EOS))
    assert encode_completion(word_tokenizer("<s>", "</s>"), "hi", "good") == Branch((GOOD, EOS))


def test_texts_rendered_before_have_one_beginning_and_one_end():
    begins = word_tokenizer("<s>")
    assert encode_prompt(begins, "<s> hi") == (BOS, HI)
    assert encode_completion(begins, "", "<s> hi </s>\n") == Branch((HI, EOS))
    assert encode_completion(begins, "hi", "good </s>\n") == Branch((GOOD, EOS))
    assert encode_completion(begins, "hi", "good </s>\n", whole=True) == Branch((GOOD, EOS))
    assert encode_completion(begins, ASK, (Message("assistant", "good day </s>"),)) == Branch((GOOD, DAY, EOS))


def test_a_chat_prompt_ends_where_the_assistant_speaks(tokenizer):
    assert encode_prompt(tokenizer, ASK) == (*DEFAULT, USER, HI, EOS, ASSISTANT)
    own = (Message("system", "bad"), *ASK)
    assert encode_prompt(tokenizer, own) == (SYSTEM, BAD, EOS, USER, HI, EOS, ASSISTANT)


def test_a_chat_completion_of_one_turn_is_all_trained(tokenizer):
    assert encode_completion(tokenizer, ASK, ANSWER) == Branch((GOOD, DAY, EOS))
    assert encode_completion(tokenizer, ASK, "good day") == Branch((GOOD, DAY, EOS))
    assert encode_completion(tokenizer, "hi", ANSWER) == Branch((GOOD, DAY, EOS))
    assert encode_completion(tokenizer, ASK, (Message("assistant", ""),)) == Branch((EOS,))


def test_only_the_assistants_words_and_ends_of_turn_are_trained(tokenizer):
    turns = (*ANSWER, Message("user", "hello"), Message("tool", "bad"), Message("assistant", "bye"))
    branch = encode_completion(tokenizer, ASK, turns)
    # <tool> is not in the vocabulary of the tokenizer, so it is one unknown word together with the content after it.
    assert branch.tokens == (GOOD, DAY, EOS, USER, HELLO, EOS, 0, EOS, ASSISTANT, BYE, EOS)
    assert branch.trained == (True, True, True, False, False, False, False, False, False, True, True)


def test_turns_after_the_last_answer_are_cut(tokenizer):
    assert encode_completion(tokenizer, ASK, (*ANSWER, Message("user", "bye"))) == Branch((GOOD, DAY, EOS))


def test_an_end_of_turn_is_appended_where_the_template_has_none():
    bare = TEMPLATE.replace("</s>\n", "").replace("<system>good</s>", "")
    tokenizer = word_tokenizer(template=bare)
    assert encode_completion(tokenizer, ASK, ANSWER) == Branch((GOOD, DAY, EOS))
    branch = encode_completion(tokenizer, ASK, (*ANSWER, *ASK, Message("assistant", "bye")))
    assert branch.tokens == (GOOD, DAY, USER, HI, ASSISTANT, BYE, EOS)
    assert branch.trained == (True, True, False, False, False, True, True)


def test_the_boundary_does_not_depend_on_how_the_joined_text_would_be_split(tokenizer):
    """ "good" and "bye" joined are the unknown word "goodbye"; apart they stay what they are."""
    assert encode_prompt(tokenizer, "good") + encode_completion(tokenizer, "good", "bye").tokens == (GOOD, BYE, EOS)


def test_faults_of_templates_are_told():
    with pytest.raises(InputError, match=r"^the tokenizer has no chat template: give it one by --chat-template"):
        encode_prompt(word_tokenizer(template=None), ASK)
    with pytest.raises(InputError, match=r"^the tokenizer's chat template refuses the chat \(no users\)$"):
        encode_prompt(word_tokenizer(template="{{ raise_exception('no users') }}"), ASK)
    with pytest.raises(InputError, match=r"^a chat needs a turn before the assistant's first"):
        encode_completion(word_tokenizer(), "", ANSWER)
    with pytest.raises(InputError, match=r"template is at fault: .* from character 0"):
        encode_completion(word_tokenizer(template="{{ messages | length }}" + TEMPLATE), ASK, ANSWER)
    with pytest.raises(InputError, match=r"^the tokenizer has no eos_token"):
        encode_completion(word_tokenizer(eos_token=None), "hi", "good")


def test_smollm2_puts_its_default_system_message_into_the_prompt(smollm2_tokenizer):
    prompt = encode_prompt(smollm2_tokenizer, (Message("user", "Hi"),))
    assert smollm2_tokenizer.decode(prompt) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    turns = (Message("assistant", "Yes."), Message("user", "So?"), Message("assistant", "No."))
    branch = encode_completion(smollm2_tokenizer, (Message("user", "Hi"),), turns)
    assert smollm2_tokenizer.decode(branch.tokens) == (
        "Yes.<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>"
    )
    spoken = [token for token, trained in zip(branch.tokens, branch.trained, strict=True) if trained]
    assert smollm2_tokenizer.decode(spoken) == "Yes.<|im_end|>No.<|im_end|>"


def test_what_stands_between_two_answers(tokenizer):
    said = (*ASK, *ANSWER)
    reply = encode_reply(tokenizer, said, "hello")
    assert reply == (USER, HELLO, EOS, ASSISTANT)  # the line end after a turn is no token of this tokenizer
    assert encode_reply(tokenizer, said, "hello", ended=False) == (EOS, *reply)
    # The prompt, the answer and the reply are the prompt of the chat so far.
    so_far = encode_prompt(tokenizer, ASK) + encode_completion(tokenizer, ASK, ANSWER).tokens + reply
    assert so_far == encode_prompt(tokenizer, (*said, Message("user", "hello")))


def test_no_reply_where_the_template_rewrites_the_answer():
    forgets = TEMPLATE.replace(
        "{{ m.content }}", "{{ 'bye' if m.role == 'assistant' and not loop.last else m.content }}"
    )
    with pytest.raises(RewrittenHistory, match="renders an earlier answer differently once the chat continues"):
        encode_reply(word_tokenizer(template=forgets), (*ASK, *ANSWER), "hello")
