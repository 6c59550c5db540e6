"""`accord inspect`: the numbers of its tables and of its page, and text that stays text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from accord.cli.inspect import chosen, inspect, unused
from accord.cli.inspect_words import token_of
from accord.engine.inside import look
from accord.engine.load import load_model
from accord.engine.stream import trace
from accord.errors import InputError
from accord.report.inside import bars, large_map, scatter, score_map, small_map
from accord.report.reading import EmbeddedToken, Parts
from tests.commands.small import accord, save_model
from tests.data.conftest import ASSISTANT, BAD, BYE, DAY, EOS, GOOD, HELLO, HI, SYSTEM, USER, WORDS
from tests.report.pages import Page


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def test_the_page_has_the_model_s_numbers(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert accord("inspect", base, "hi hello good day", "--top", 3, "--out", out) == 0
    network = load_model(base).network
    with torch.no_grad():
        p = network(input_ids=torch.tensor([[6, 7, 8, 10]])).logits[0].double().softmax(-1)
    page, shown = Page(out), capsys.readouterr().out
    assert list(page.sections) == ["text", "next", "layers", "attention", "values", "parts", "embeddings"]
    rows = [row for row in page.tables if row[0] in ("hello", "good", "day") and len(row) == 6]
    for place, (row, token) in enumerate(zip(rows, (7, 8, 10), strict=True)):
        rank = 1 + int((p[place] > p[place, token]).sum())
        assert row[:3] == [WORDS[token], str(token), f"{100 * p[place, token]:.1f}%"] and row[4] == str(rank)
    best = p[3].topk(3)
    following = [row for row in page.tables if len(row) == 5 and row[1].isdecimal() and row[2].endswith("%")]
    assert [row[:3] for row in following] == [
        [WORDS[i], str(i), f"{100 * v:.1f}%"] for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    assert f"{best.values[0]:.4f}" in shown and shown.endswith(f"The pictures: {out}\n")
    lens = [row for row in page.tables if row[0] in ("embeddings", "layer 1", "layer 2")]
    assert lens[-1] == ["layer 2", *(WORDS[i] for i in p.argmax(-1).tolist())]
    assert (
        sum(attributes.get("class", "").startswith("map") for _, attributes in page.tags if "class" in attributes) == 9
    )
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe"}


def test_a_chat_is_read_through_the_template(base: str, tmp_path: Path) -> None:
    page = Page(inspect(base, "hi", out=str(tmp_path / "chat.html"), chat=True))
    ids = [int(row[1]) for row in page.tables if len(row) == 6 and row[1].isdecimal()]
    assert ids == [SYSTEM, GOOD, EOS, USER, HI, EOS, ASSISTANT]


def test_without_out_no_page_is_lost(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(inspect(base, "hi")) for _ in range(3)] == [
        "runs/inspect.html",
        "runs/inspect-2.html",
        "runs/inspect-3.html",
    ]
    assert unused(tmp_path / "new.html") == tmp_path / "new.html"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "the text is empty; give one of 1 to 48 tokens."),
        ((" ".join(["hi"] * 49),), "the text has 49 tokens; give one of 1 to 48 tokens."),
        (("hi", "--layer", 3), "--layer 3 is not there: the model has 2 layers, counted from 1."),
        (("hi", "--head", 0), "--head 0 is not there: the model has 4 heads, counted from 1."),
        (("hi", "--top", 0), "--top must be at least 1, not 0."),
        (("hi hello", "--position", 3), "--position 3 is not there: the text has 2 tokens, counted from 1."),
        (("hi hello", "--position", 0), "--position 0 is not there: the text has 2 tokens, counted from 1."),
        (("--analogy", "hi + hi", "--position", 1), "--position is about a text; give one, or leave it out."),
        (("--analogy", "hi"), "--analogy 'hi' is not a sum of words; write it with spaces, as king - man + woman."),
        (
            ("--analogy", "hi-bye"),
            "--analogy 'hi-bye' is not a sum of words; write it with spaces, as king - man + woman.",
        ),
        (("--direction", "hi"), "--direction needs pairs of words, as cat:cats dog:dogs, not 'hi'."),
        (("--along", "hi"), "--along needs --direction: give pairs of words, as cat:cats dog:dogs."),
        ((), "the text is empty; give one of 1 to 48 tokens."),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(
    base: str, arguments: tuple[object, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert accord("inspect", base, *arguments, "--out", out) == 2
    assert capsys.readouterr().err == f"accord: {message}\n" and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--analogy", "hi + zebra"), "{base} has no token for 'zebra'; ask about words that it knows."),
        (("--direction", "hi:zebra"), "{base} has no token for 'zebra'; ask about words that it knows."),
    ],
)
def test_words_that_the_model_has_no_token_for(
    base: str, arguments: tuple[object, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accord("inspect", base, *arguments, "--out", tmp_path / "page.html") == 2
    assert capsys.readouterr().err == f"accord: {message.format(base=base)}\n" and not list(tmp_path.iterdir())


def test_words_of_several_tokens_are_shown_in_their_tokens(tmp_path: Path) -> None:
    policy = load_model(save_model(tmp_path / "model"))
    assert token_of(policy, "good") == GOOD
    with pytest.raises(
        InputError, match=r"'good day' is 2 tokens of .* \(good \| day\); ask about words that are one token."
    ):
        token_of(policy, "good day")


def test_a_sum_and_a_direction_of_words(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "words.html"
    given = ("--analogy", "good", "-", "bad", "+", "bye", "--direction", "hi:hello", "good:bad", "--along", "day")
    assert accord("inspect", base, *given, "--top", 2, "--out", out) == 0
    rows = load_model(base).network.get_input_embeddings().weight.detach().double()
    total = rows[GOOD] - rows[BAD] + rows[BYE]
    cosines = torch.nn.functional.cosine_similarity(rows, total, dim=-1)
    best = [i for i in cosines.argsort(descending=True).tolist() if i not in (GOOD, BAD, BYE)][:2]
    page, shown = Page(out), capsys.readouterr().out
    assert list(page.sections) == ["analogy", "direction"]
    assert [row for row in page.tables if len(row) == 2 and row[0] in WORDS] == [
        [WORDS[i], f"{cosines[i]:.3f}"] for i in best
    ]
    direction = (rows[HELLO] - rows[HI] + rows[BAD] - rows[GOOD]) / 2
    assert ["day", f"{rows[DAY] @ direction:+.3f}"] in [row[:2] for row in page.tables]
    others = rows[BAD] - rows[GOOD]  # the pair hi:hello is measured along the other one
    assert ["hi → hello", f"{rows[HI] @ others:+.3f}", f"{rows[HELLO] @ others:+.3f}"] in [r[:3] for r in page.tables]
    assert f"{cosines[GOOD]:.3f}" in shown and "good − bad + bye" in shown


def test_what_a_head_and_the_layers_add(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # At the third of four tokens, by layer 2 and head 3.
    out = tmp_path / "page.html"
    at = ("--layer", 2, "--head", 3, "--position", 3)
    assert accord("inspect", base, "hi hello good day", *at, "--out", out) == 0
    network = load_model(base).network
    inside, stream = look(network, [HI, HELLO, GOOD, DAY]), trace(network, [HI, HELLO, GOOD, DAY])
    assert stream is not None
    page, shown = Page(out), capsys.readouterr().out
    added = stream.mixing[1].added(2, 2)
    keys = [row for row in page.tables if len(row) == 5 and row[2].endswith("%") and not row[1].isdecimal()]
    assert [row[0] for row in keys] == ["hi", "hello", "good"]
    for j, row in enumerate(keys):
        assert float(row[1]) == pytest.approx(float(inside.scores[1][2, 2, j]), abs=0.006)
        assert row[2] == f"{100 * float(inside.attention[1][2, 2, j]):.1f}%"
        assert float(row[3]) == pytest.approx(float(added[j].norm()), abs=0.006)
    token = int(inside.logp[2].argmax())
    effect = stream.toward(token, 2)
    assert effect is not None and effect.attention is not None
    assert f"they sum to {float(effect.total):+.2f}" in " ".join(page.source.split())
    logits = network(input_ids=torch.tensor([[HI, HELLO, GOOD, DAY]])).logits[0, 2].detach()
    assert float(effect.total) == pytest.approx(float(logits[token] - logits.mean()), abs=1e-4)
    assert f"{float(effect.attention[1]):+.3f}" in shown and "What layer 2, head 3 adds at good" in shown


def test_scores_are_drawn_with_what_the_mask_bars() -> None:
    scores = np.array([[2.0, -np.inf], [-1.0, 0.5]])
    drawn = score_map(scores, ["<b>", "x"])
    assert drawn.count("<rect") == 3 and drawn.count("−∞") == 1 and "<b>" not in drawn
    assert '<rect class="minus"' in drawn and "<title>x → &lt;b&gt;: -1.00</title>" in drawn
    assert 'fill-opacity="0.75"><title>&lt;b&gt; → &lt;b&gt;: 2.00</title>' in drawn
    assert "−∞" not in score_map(np.zeros((15, 15)), ["x"] * 15)


def test_bars_begin_at_one_line() -> None:
    # From -1 to 3 is 560 wide, so a logit is 140: zero lies at 84 + 140, attention's -1 ends there, the MLP's 3 begins.
    parts = Parts(0, "x", 0.5, 0.0, (-1.0,), (3.0,), (2.0,), (1.0,), (1.0,), (1.0,))
    drawn = bars(parts)
    assert '<rect class="attention" x="84.0" y="20.0" width="140.0"' in drawn
    assert '<rect class="mlp" x="224.0" y="27.0" width="420.0"' in drawn
    assert 'class="whole" x="224.0"' in drawn and "biases" not in drawn and parts.total == 2.5


def test_a_page_may_go_to_a_folder(base: str, tmp_path: Path) -> None:
    assert accord("inspect", base, "hi", "--out", tmp_path / "new") == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".accord-wrote", "inspect.html"]


@pytest.mark.parametrize("text", ["null", "true", "1e5", "[1, 2]", "a: b", "hi=hello", "{x}"])
def test_any_text_is_text(base: str, text: str, tmp_path: Path) -> None:
    assert accord("inspect", base, text, "--out", tmp_path / "page.html") == 0
    assert f'<h1 dir="auto">{text}</h1>' in (tmp_path / "page.html").read_text()


def test_markup_and_control_characters_are_shown_and_not_obeyed(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "<script>alert(1)</script> [red]hi[/red] \x1b[2J"
    page = Page(inspect(base, text, out=str(tmp_path / "page.html")))
    assert "script" not in {tag for tag, _ in page.tags} and "\x1b" not in page.source
    assert "⟨U+001B⟩" in page.source and "\x1b[2J" not in capsys.readouterr().out


def test_the_head_shown_is_the_one_asked_for_or_the_one_that_looks_elsewhere() -> None:
    def looking(share: float) -> torch.Tensor:
        """The third query's attention to the second token."""
        return torch.tensor([[1.0, 0, 0], [0, 1, 0], [1 - share, share, 0]])

    attention = tuple(torch.stack([looking(a), looking(b)]) for a, b in ((0.1, 0.4), (0.3, 0.2)))
    assert chosen(attention, None, None) == (0, 1)
    assert chosen(attention, 2, None) == (1, 0)
    assert chosen(attention, None, 1) == (1, 0)
    assert chosen(attention, 1, 1) == (0, 0)
    assert chosen((), None, None) == (0, 0)


def test_a_small_map_joins_runs_of_one_shade() -> None:
    # Shades begin at .05, .2, .4, .6 and .8: the rows are (5), (2, 2) and (0, 1, 5).
    drawn = small_map(np.array([[1.0, 0, 0], [0.3, 0.25, 0], [0.01, 0.1, 0.89]]))
    assert drawn == (
        '<svg viewBox="0 0 3 3" aria-hidden="true"><path class="a1" d="M1 2h1v1h-1z"/>'
        '<path class="a2" d="M0 1h2v1h-2z"/><path class="a5" d="M0 0h1v1h-1zM2 2h1v1h-1z"/></svg>'
    )


def test_pictures_escape_the_tokens() -> None:
    weights = np.array([[1.0, 0], [0.25, 0.75]])
    drawn = large_map(weights, ["<b>", "&"])
    assert "<b>" not in drawn and "<title>&amp; → &lt;b&gt;: 0.25</title>" in drawn
    assert drawn.count("<rect") == 3
    spots = (EmbeddedToken("<i>", 0.0, 0.0), EmbeddedToken("near", 1.0, 1.0, 0))
    assert "<i>" not in scatter(spots) and scatter(spots).count("<circle") == 2
    assert scatter(()) == ""


def test_labels_that_would_cover_others_are_left_out() -> None:
    spots = tuple(EmbeddedToken(f"word{i:02}", 0.0, 0.0) for i in range(40))
    assert 1 <= scatter(spots).count("<text") < 40
