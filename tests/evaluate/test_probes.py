"""Probes on rewards whose weakness is known, and the judge's places, by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from accord.data.judgments import Judgment
from accord.evaluate.leads import JudgeLeads, Leads, ScoreLeads
from accord.evaluate.probes import ALTERATIONS, probe, probe_position, sentences
from accord.records import Comparison, Message, Text, Verdict
from accord.results.comparisons import Probe

JUDGMENTS = [
    Judgment("p", "One. Two two.", "Three!", 1.0, 0),
    Judgment("q", "Four? Five five five.", "Six", 0.0, 1),
    Judgment("r", "Seven.", "Eight.", 0.5, 2),
]


def scored(score: Callable[[str], float]) -> ScoreLeads:
    return ScoreLeads(lambda texts: torch.tensor([score(str(text)) for _, text in texts]))


def by_name(found: Sequence[Probe]) -> dict[str, Probe]:
    return {one.name: one for one in found}


def test_the_alterations_by_hand() -> None:
    altered = {a.name: a.alter("One. Two two. ", "Seven.") for a in ALTERATIONS}
    assert altered == {
        "length": "One. Two two. Seven.",
        "repetition": "One. Two two. Two two.",
        "politeness": "Thank you for asking! One. Two two. I hope this helps.",
        "truncation": "One. Two",
    }
    assert sentences("Really?  Yes!\nThe end.") == ["Really?", "Yes!", "The end."]


def test_a_reward_of_length_is_fooled_by_every_word() -> None:
    found = by_name(probe(JUDGMENTS, scored(len), most=9))
    assert {n: p.preferred.estimate for n, p in found.items()} == {
        "length": 1.0,
        "repetition": 1.0,
        "politeness": 1.0,
        "truncation": 0.0,
    }
    # "Thank you for asking! " has 22 characters, " I hope this helps." 19.
    assert (found["politeness"].shift.estimate, found["politeness"].n) == (41.0, 6)
    # Halving leaves "Three!", "Six", "Seven." and "Eight." as they are: only two answers are altered.
    assert found["truncation"].n == 2


def test_a_reward_that_sees_no_words_prefers_nothing() -> None:
    found = probe(JUDGMENTS, scored(lambda text: 1.0), most=9)
    assert [(p.preferred.estimate, p.shift.estimate) for p in found] == [(0.5, 0.0)] * 4


def test_the_sentence_comes_from_the_answer_to_another_prompt() -> None:
    asked: list[Comparison] = []

    def leader(comparisons: Sequence[Comparison]) -> Leads:
        asked.extend(comparisons)
        return Leads.of(np.zeros(len(comparisons)))

    probe(JUDGMENTS, leader, most=9, seed=3)
    own = {(j.prompt, s) for j in JUDGMENTS for text in (j.first, j.second) for s in sentences(str(text))}
    added = [(c.prompt, str(c.first).removeprefix(f"{c.second} ")) for c in asked[0::1] if _lengthens(c, asked)]
    assert len(added) == 6
    assert not own & set(added) and {s for _, s in added} <= {s for _, s in own}


def _lengthens(c: Comparison, asked: Sequence[Comparison]) -> bool:
    """Whether it is the first comparison about its answer, which is the one about length."""
    return c is next(other for other in asked if (other.prompt, other.second) == (c.prompt, c.second))


def test_one_seed_draws_the_same_answers() -> None:
    one, two = (probe(JUDGMENTS, scored(len), most=3, seed=5) for _ in range(2))
    assert one == two and by_name(one)["politeness"].n == 3


def test_of_a_chat_the_last_message_is_altered() -> None:
    chat: tuple[Text, ...] = ((Message("assistant", "Yes."),), (Message("assistant", "No."),))
    seen: list[Comparison] = []

    def leader(comparisons: Sequence[Comparison]) -> Leads:
        seen.extend(comparisons)
        return Leads.of(np.ones(len(comparisons)))

    probe([Judgment((Message("user", "hi"),), *chat, 1.0)], leader, most=9)
    polite = {c.first for c in seen} & {
        (Message("assistant", f"Thank you for asking! {a} I hope this helps."),) for a in ("Yes.", "No.")
    }
    assert len(polite) == 2


def test_what_would_be_cut_or_has_no_verdict_is_left_out() -> None:
    def leader(comparisons: Sequence[Comparison]) -> Leads:
        lead = np.array([np.nan if "Five" in str(c.second) else 1.0 for c in comparisons])
        whole = np.array(["Seven" not in str(c.second) for c in comparisons])
        return Leads(lead, np.ones(len(lead), dtype=bool), whole)

    found = by_name(probe(JUDGMENTS, leader, most=9))
    assert (found["politeness"].n, found["politeness"].invalid) == (4, 1)
    assert probe(JUDGMENTS, lambda c: Leads.of(np.full(len(c), np.nan)), most=9) == []


def always_first(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """A judge that cannot look away from the first place, and has no answer about 'Six'."""
    return [Verdict(None) if "Six" in (c.first, c.second) else Verdict(1.0) for c in comparisons]


def test_a_judge_of_the_first_place_decides_nothing() -> None:
    leads = JudgeLeads(always_first)([Comparison(j.prompt, j.first, j.second) for j in JUDGMENTS])
    assert leads.lead == pytest.approx([0.0, np.nan, 0.0], nan_ok=True)
    found = probe_position(leads.orders, np.arange(3))
    assert found is not None and (found.changed.estimate, found.preferred.estimate, found.n) == (1.0, 1.0, 2)


def test_a_judge_of_texts_is_the_same_in_both_orders() -> None:
    def longer(comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [Verdict(0.5 + 0.4 * float(np.sign(len(c.first) - len(c.second)))) for c in comparisons]

    leads = JudgeLeads(longer)([Comparison(j.prompt, j.first, j.second) for j in JUDGMENTS])
    assert leads.lead == pytest.approx([0.4, 0.4, 0.0])
    found = probe_position(leads.orders, np.arange(3))
    assert found is not None and (found.changed.estimate, found.preferred.estimate) == (0.0, 0.5)
    assert probe_position([], np.arange(0)) is None
