"""Learning from preferences: models of them (Bradley-Terry, Plackett-Luce, general) and direct optimization.

A `margin` is `log pi(chosen) - log pi(rejected)`, each summed over the completion's tokens. Differences go through
log-sigmoid and log-sum-exp, so margins of 1e4 and more neither overflow nor lose their gradient.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from accord.objectives.segments import (
    require_between,
    require_broadcastable,
    require_positive,
    require_ranked,
    require_vectors,
    segment_mean,
)


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, label_smoothing: Tensor | float = 0.0
) -> Tensor:
    """The negative log-likelihood of preferences under Bradley and Terry (1952), `-log sigmoid(chosen - rejected - m)`.

    The reward-model loss of Christiano et al. (2017, arXiv:1706.03741, eq. 1) and, with a margin, of Llama 2 (Touvron
    et al. 2023, arXiv:2307.09288, eq. 2): logistic regression on the difference of scores. With labels flipped with
    probability e, it is the mean over both labels, `-(1 - e) log sigmoid(chosen - rejected - m) - e log
    sigmoid(rejected - chosen - m)`, which without a margin is least where the difference is log (1 - e) / e.

    Args:
        chosen: (P,), the score of the preferred completion of every pair.
        rejected: (P,), the score of the other.
        margin: m, by how much the chosen score should lead; one number, or (P,).
        label_smoothing: e, in [0, 0.5]; one number, or (P,).

    Returns:
        (P,).
    """
    require_vectors(chosen=chosen, rejected=rejected)
    require_broadcastable("margin", margin, len(chosen))
    _require_smoothing(label_smoothing, len(chosen))
    kept, flipped = chosen - rejected - margin, rejected - chosen - margin
    return -(1 - label_smoothing) * logsigmoid(kept) - label_smoothing * logsigmoid(flipped)


def ranking(
    scores: Tensor,
    groups: Tensor,
    ranks: Tensor,
    margins: Tensor | float = 0.0,
    label_smoothing: Tensor | float = 0.0,
) -> Tensor:
    """The K-way Bradley-Terry loss of InstructGPT: the mean over the strict pairs of one prompt.

    For K completions of a prompt, `1/|S| * sum over S of -log sigmoid(score_i - score_j)` where S holds the pairs in
    which i is ranked strictly better than j: K(K-1)/2 of them without ties (Ouyang et al. 2022, arXiv:2203.02155, eq.
    1). Tied pairs are excluded from the sum and the count. A prompt is one element however many completions it has;
    where all completions tie its loss is 0.

    Args:
        scores: (C,), one score per completion.
        groups: (C,) integers, the prompt each completion answers: 0 to groups - 1, none missing, in any order.
        ranks: (C,) integers, 0 is best, equal ranks tie.
        margins: (groups,), by how much the better of two completions of a prompt should lead; 0 for no margin.
        label_smoothing: (groups,), the probability that the order of a prompt's pairs is wrong, as in `bradley_terry`.

    Returns:
        (groups,).
    """
    require_vectors(scores=scores)
    size = require_ranked(groups, ranks, len(scores))
    better, worse = strict_pairs(groups, ranks)
    margin, smoothing = (v[groups[better]] if isinstance(v, Tensor) else v for v in (margins, label_smoothing))
    return segment_mean(bradley_terry(scores[better], scores[worse], margin, smoothing), groups[better], size)


def centering(scores: Tensor, groups: Tensor, ranks: Tensor) -> Tensor:
    """The squared sum of a pair's two scores, averaged over the strict pairs of one prompt.

    Preferences determine only differences of scores; a small multiple of this also fixes each prompt's zero, with
    little other effect, so that different models' scores can be compared and averaged (Eisenstein et al. 2023,
    arXiv:2312.09244, section 2).

    Args and returns as for `ranking`.
    """
    require_vectors(scores=scores)
    size = require_ranked(groups, ranks, len(scores))
    better, worse = strict_pairs(groups, ranks)
    return segment_mean((scores[better] + scores[worse]) ** 2, groups[better], size)


def strict_pairs(groups: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of one prompt's completions with different ranks: indices of the better (P,) and of the worse (P,)."""
    better, worse = ((groups[:, None] == groups) & (ranks[:, None] < ranks)).nonzero(as_tuple=True)
    return better, worse


def general_preference(first: Tensor, second: Tensor) -> Tensor:
    """The log-odds that the first of two completions is preferred, where preferences may be cyclic.

    A completion has a score s and k planes, in each of which it is a point (a, b): `s_1 - s_2 + sum over j of (a_1j
    b_2j - b_1j a_2j)`. Swapping the two changes the sign, so P(1 beats 2) + P(2 beats 1) is 1 and a completion against
    itself has log-odds 0. The planes are the preference embedding of Zhang et al. (2024, arXiv:2410.02197), which can
    represent any antisymmetric matrix of log-odds of rank 2k; the score is Bradley and Terry's, the only term where k =
    0.

    Args:
        first: (..., 1 + 2k), the score and then a, b of every plane.
        second: of a shape that broadcasts against it, such as `x[:, None], x[None]` for all pairs.

    Returns:
        (...).
    """
    _require_outputs(first=first, second=second)
    a_1, b_1, a_2, b_2 = first[..., 1::2], first[..., 2::2], second[..., 1::2], second[..., 2::2]
    return first[..., 0] - second[..., 0] + (a_1 * b_2 - b_1 * a_2).sum(-1)


def general_ranking(outputs: Tensor, groups: Tensor, ranks: Tensor, label_smoothing: Tensor | float = 0.0) -> Tensor:
    """The negative log-likelihood of rankings under `general_preference`: the mean over all pairs of one prompt.

    For a pair with log-odds z it is `-t log sigmoid(z) - (1 - t) log sigmoid(-z)`, where t is 1 if the first has the
    better rank, 0 if the second has, and 1/2 if they tie: a tie is half a win for each. With orders that are wrong with
    probability e, t is 1 - e, e and 1/2. A prompt is one element however many completions it has, as in `ranking`; with
    a single completion its loss is 0.

    Args and returns as for `ranking`, with `outputs` (C, 1 + 2k), a row of `general_preference` per completion, in
    place of scores.
    """
    _require_outputs(outputs=outputs)
    if outputs.dim() != 2:
        raise ValueError(f"outputs must hold one row per completion, and is of shape {tuple(outputs.shape)}")
    size = require_ranked(groups, ranks, len(outputs))
    first, second = (groups[:, None] == groups).triu(diagonal=1).nonzero(as_tuple=True)
    smoothed = label_smoothing[groups[first]] if isinstance(label_smoothing, Tensor) else label_smoothing
    _require_smoothing(smoothed, len(first))
    wins = 0.5 + (0.5 - smoothed) * torch.sign(ranks[second] - ranks[first]).to(outputs.dtype)
    odds = general_preference(outputs[first], outputs[second])
    return segment_mean(binary_cross_entropy_with_logits(odds, wins, reduction="none"), groups[first], size)


def plackett_luce(scores: Tensor, groups: Tensor, ranks: Tensor) -> Tensor:
    """The negative log-likelihood of rankings under Plackett (1975) and Luce (1959).

    Completions are chosen one after another, best first, each with probability proportional to exp(score) among those
    that remain: `-sum over k of (score_k - logsumexp of score_j over j from k on)`, k in order of rank. With two
    completions it is Bradley-Terry. A tie means that the order within it was not observed, so its likelihood is the
    total probability of all orders that agree with the ranks; where all completions tie it is 1 and the loss 0. A tie
    of m completions above others costs 2^m steps.

    Args and returns as for `ranking`.
    """
    require_vectors(scores=scores)
    size = require_ranked(groups, ranks, len(scores))
    tiers: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(size)]
    for index, (group, rank) in enumerate(zip(groups.tolist(), ranks.tolist(), strict=True)):
        tiers[group][rank].append(index)
    losses = []
    for by_rank in tiers:
        loss = scores.new_zeros(())
        rest = None
        for _, tier in sorted(by_rank.items(), reverse=True):
            tied = scores[tier]
            if rest is not None:
                loss = loss - _log_probability_first(tied, rest)
            rest = torch.logsumexp(tied if rest is None else torch.cat([tied, rest[None]]), 0)
        losses.append(loss)
    return torch.stack(losses) if losses else scores.new_zeros(0)


def dpo(
    policy_margin: Tensor, reference_margin: Tensor, *, beta: float, label_smoothing: Tensor | float = 0.0
) -> Tensor:
    """Direct preference optimization, `-log sigmoid(beta (policy_margin - reference_margin))`.

    Rafailov et al. (2023, arXiv:2305.18290, eq. 7). With full-support pairs labeled by Bradley-Terry on a reward r the
    optimum is `pi_ref exp(r / beta) / Z`. With smoothing e, labels are assumed flipped with probability e (Mitchell
    2023, "A note on DPO with noisy preferences"): `-(1 - e) log sigmoid(z) - e log sigmoid(-z)`.

    Args:
        policy_margin: (P,), log pi(chosen) - log pi(rejected).
        reference_margin: (P,), the same under the reference model; gets no gradient.
        beta: the strength of the KL constraint, above 0.
        label_smoothing: e, in [0, 0.5]; one number, or (P,).

    Returns:
        (P,).
    """
    require_vectors(policy_margin=policy_margin, reference_margin=reference_margin)
    require_positive(beta=beta)
    _require_smoothing(label_smoothing, len(policy_margin))
    logits = beta * (policy_margin - reference_margin.detach())
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def ipo(
    policy_margin: Tensor, reference_margin: Tensor, *, tau: float, label_smoothing: Tensor | float = 0.0
) -> Tensor:
    """Identity preference optimization, `(policy_margin - reference_margin - 1 / (2 tau))^2`.

    Azar et al. (2023, arXiv:2310.12036, eq. 17). The optimum is `pi_ref exp(p(y beats mu) / tau) / Z`, which stays near
    the reference even where every label agrees. With labels flipped with probability e, it is the mean over both
    labels: with h the difference of the margins and c = 1 / (2 tau),

        (1 - e) (h - c)^2 + e (-h - c)^2  =  (h - (1 - 2e) c)^2 + 4 e (1 - e) c^2

    so that the optimal h is (1 - 2e) / (2 tau).

    Args:
        policy_margin: (P,), log pi(chosen) - log pi(rejected).
        reference_margin: (P,), the same under the reference model; gets no gradient.
        tau: the strength of the KL constraint, above 0.
        label_smoothing: e, in [0, 0.5]; one number, or (P,).

    Returns:
        (P,).
    """
    require_vectors(policy_margin=policy_margin, reference_margin=reference_margin)
    require_positive(tau=tau)
    _require_smoothing(label_smoothing, len(policy_margin))
    c, e = 1 / (2 * tau), label_smoothing
    return (policy_margin - reference_margin.detach() - (1 - 2 * e) * c) ** 2 + 4 * e * (1 - e) * c**2


def kto(
    log_ratio: Tensor,
    desirable: Tensor,
    baseline: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimization: `w (1 - sigmoid(s beta (log_ratio - baseline)))`.

    s is +1 and w the desirable weight where the completion is desirable, -1 and the undesirable weight where it is not
    (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8).

    Args:
        log_ratio: (C,), log pi(y|x) - log pi_ref(y|x), summed over the completion's tokens.
        desirable: (C,) booleans.
        baseline: z0, an estimate of KL(pi, pi_ref); one number, or (C,); gets no gradient.
        beta: how fast the value saturates, above 0.
        desirable_weight: above 0.
        undesirable_weight: above 0.

    Returns:
        (C,).
    """
    require_vectors(log_ratio=log_ratio)
    require_broadcastable("baseline", baseline, len(log_ratio))
    require_positive(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    if desirable.shape != log_ratio.shape or desirable.dtype != torch.bool:
        shape = tuple(desirable.shape)
        raise ValueError(f"desirable must be {len(log_ratio)} booleans, not {desirable.dtype} of shape {shape}")
    baseline = baseline.detach() if isinstance(baseline, Tensor) else baseline
    gain = beta * (log_ratio - baseline)
    # 1 - sigmoid(z) = sigmoid(-z), which stays precise where sigmoid(z) rounds to 1.
    desirable_loss = desirable_weight * torch.sigmoid(-gain)
    undesirable_loss = undesirable_weight * torch.sigmoid(gain)
    return torch.where(desirable, desirable_loss, undesirable_loss)


def _log_probability_first(tied: Tensor, rest: Tensor) -> Tensor:
    """log P(all of the tied (m,) are chosen before any of the rest), where `rest` () is the log-sum-exp of the rest.

    Over subsets S of the tied, P(S) = sum over i in S of exp(tied_i) P(S without i) / (exp total of S and the rest).
    """
    log_p = [tied.new_zeros(())]
    for subset in range(1, 2 ** len(tied)):
        members = [i for i in range(len(tied)) if subset >> i & 1]
        remaining = torch.logsumexp(torch.cat([tied[members], rest[None]]), 0)
        choices = torch.stack([tied[i] + log_p[subset ^ (1 << i)] for i in members])
        log_p.append(torch.logsumexp(choices, 0) - remaining)
    return log_p[-1]


def _require_smoothing(label_smoothing: Tensor | float, length: int) -> None:
    """Raise ValueError unless it is one probability in [0, 0.5], or one per pair."""
    require_broadcastable("label_smoothing", label_smoothing, length)
    require_between(0.0, 0.5, label_smoothing=label_smoothing)


def _require_outputs(**outputs: Tensor) -> None:
    """Raise ValueError unless every tensor holds rows of a score and two numbers per plane, with equally many
    planes."""
    for name, rows in outputs.items():
        if rows.dim() == 0 or rows.shape[-1] % 2 == 0 or not rows.is_floating_point():
            raise ValueError(
                f"{name} must hold rows of 1 + 2k floating-point numbers, not {rows.dtype} of shape {tuple(rows.shape)}"
            )
    if len({rows.shape[-1] for rows in outputs.values()}) > 1:
        widths = ", ".join(f"{name} {rows.shape[-1]}" for name, rows in outputs.items())
        raise ValueError(f"these must have rows of equal length: {widths}")
