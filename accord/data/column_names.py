"""Column names of prompts, chats and answers in published datasets."""

from __future__ import annotations

from accord.data.verdicts import CHOICES, LISTS, SCORES

CHATS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "query", "instruction", "input")
PROMPT_ALONE = ("question", "query", "instruction")
"""Names of `QUESTIONS` that are read as a prompt in rows without an answer."""
SYSTEMS = ("system", "system_prompt", "system_message")
HISTORIES = ("history", "context")
PREFILLS = ("initial_reason_steps", "response_prefix", "assistant_prefix", "prefill")
"""The beginning of the answers, which the completions continue (Step-DPO)."""
CHAT_ONLY = (*SYSTEMS, *PREFILLS, "history")
RESPONSES = ("response", "output")
SWITCHES = ("on", "off", "true", "false", "yes", "no")
"""What a column of a thought holds where it only says whether the model is to think (Nemotron), in lower case."""
ANSWERS = ("chosen", "rejected", "completion", "completions")
STRUCTURED = (
    *CHATS, *LISTS, *SCORES, *CHOICES, "history", "ranks", "tools", "functions", "documents", "chat_template_kwargs",
    "label", "input_ids", "labels",
)  # fmt: skip
"""Columns that are never plain text: a string in them is parsed as JSON or as a Python list."""

PROMPT_LIKE = (
    "article", "body", "context", "dialog", "dialogue", "document", "human", "info", "inputs", "instructions",
    "passage", "post", "request", "task", "title", "user",
)  # fmt: skip
"""Columns that may hold the prompt; accord does not guess, but asks the user to name it."""

LABEL_LIKE = (
    "is_safe", "is_response_safe", "is_harmful", "is_toxic", "is_preferred", "is_chosen", "is_good", "is_desirable",
    "desirable", "kto_tag", "liked", "accepted", "thumb", "thumbs", "thumbs_up", "thumbs_down", "feedback", "vote",
)  # fmt: skip
"""Columns that may hold a completion's label; accord does not guess, but asks the user to name it."""

PASSAGES = ("options", "choices", "A", "passage", "passages", "contexts", "document", "article", "paragraph", "post")
"""Columns of a passage or of options that a question may refer to."""
