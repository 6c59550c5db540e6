"""Thoughts before answers, which a template's generation prompt may have opened or closed already."""

from __future__ import annotations

import re

from accord.errors import InputError

THOUGHT = re.compile(r"</?think>")


def as_asked(content: str, head: str) -> str:
    """An answer as it goes on from a prompt that has opened its thought, or closed it.

    Without a thought of its own it closes the one that was opened. InputError where it has one after all.
    """
    thought, mark, rest = content.rpartition("</think>")
    if head.rstrip().endswith("</think>") and mark:
        if thought.replace("<think>", "").strip():
            raise InputError(
                "the answer has a thought, and the chat template's generation prompt has closed it: let the model think"
                " by --chat-template-kwargs (enable_thinking=true, thinking=true), or remove the thought"
            )
        return rest.lstrip("\n")
    opened = opened_by(head)
    if opened and not mark:
        return ("\n" if opened.endswith("\n") else "\n\n") + "</think>\n\n" + content
    return content.removeprefix(opened)


def opened_by(head: str) -> str:
    """With what a prompt opens a thought; nothing where it does not."""
    return next((mark for mark in ("<think>\n", "<think>") if head.endswith(mark)), "")
