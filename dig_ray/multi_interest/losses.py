"""What multi-interest models learn from: the next event, and the two levels that LDMI adds.

All three are sums over what a step reads, so that parts of a step on several workers add up to the whole. The forms of ``alignment`` and
``contrast`` are our choice: that clusters are softly assigned to interests, and that a crowd's interests are told apart, is published.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sampled_softmax(
    queries: Tensor, keys: Tensor, targets: Tensor, sampled: Tensor, log_expected: Tensor
) -> Tensor:
    """Sum over rows of ``-log softmax`` of the target among itself and sampled items, each of these less the log of how often it is drawn.

    Without that correction (log-Q) the model learns what is popular to be unlikely. The target is there for certain and is not corrected,
    and a sampled item that is the target does not count: so the sum over samples is, on average, the softmax's over all other items.

    Args:
        queries: float ``(M, D)``, one vector for each event that is predicted.
        keys: float ``(N, D)``, item vectors as they are scored.
        targets: int64 ``(M,)``, the item of each event.
        sampled: int64 ``(J,)``, items drawn as negatives, shared by all rows.
        log_expected: float ``(N,)``, log of the times an item is expected in ``sampled``.
    """
    own = (queries * keys[targets]).sum(-1)
    others = queries @ keys[sampled].T - log_expected[sampled]
    others = others.masked_fill(sampled == targets[:, None], -torch.inf)
    return (torch.logsumexp(torch.cat([own[:, None], others], dim=1), dim=1) - own).sum()


def assign(clusters: Tensor, interests: Tensor, temperature: float) -> Tensor:
    """Which interests a cluster belongs to, ``P_ck = softmax_k(cos(z_c, v_k) / temperature)``.

    Args:
        clusters: float ``(S, C, D)``, the vector z of each cluster of each user.
        interests: float ``(S, K, D)``, the vectors v of each user.
        temperature: what cosines are divided by in the softmax.

    Returns:
        P, float ``(S, C, K)``, which sums to 1 over interests.
    """
    likeness = F.normalize(clusters, dim=-1) @ F.normalize(interests, dim=-1).transpose(-1, -2)
    return (likeness / temperature).softmax(-1)


def cluster_means(events: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean vector of each cluster's events, ``(S, C, D)``, and how many they are, ``(S, C)``.

    Args:
        events: float ``(S, L, D)``, item vectors of histories.
        labels: int64 ``(S, L)``, the cluster of each event, -1 for none.
        count: clusters of a user at most, C.
    """
    member = F.one_hot(labels.clamp(min=0), count).to(events.dtype) * (labels >= 0)[..., None]
    size = member.sum(1)
    return member.transpose(1, 2) @ events / size.clamp(min=1)[..., None], size


def alignment(events: Tensor, labels: Tensor, interests: Tensor, count: int, temperature: float) -> Tensor:
    """Sum over users of how far interests are from the clusters assigned to them, each weighted by what it was assigned.

    ``t_k = sum_c P_ck n_c z_c / sum_c P_ck n_c`` is where interest k is pulled, and ``m_k = sum_c P_ck n_c / sum_c n_c`` how hard; an
    interest that no cluster belongs to is left alone, so that a user's granularity is the clusters'. Targets and assignment carry no
    gradient.

    Args:
        events: item vectors of histories, float ``(S, L, D)``.
        labels: int64 ``(S, L)``, an event's cluster, -1 for none and for padding.
        interests: float ``(S, K, D)``, the vectors of each user.
        count: clusters of a user at most, C.
        temperature: what similarities are divided by, as in :func:`assign`.
    """
    with torch.no_grad():
        means, size = cluster_means(events, labels, count)
        given = assign(means, interests, temperature) * size[..., None]  # (S, C, K)
        pulled = given.transpose(1, 2) @ means  # (S, K, D), in the direction of t_k
        mass = given.sum(1) / size.sum(1, keepdim=True).clamp(min=1)
    return (mass * (1 - F.cosine_similarity(interests, pulled, dim=-1))).sum()


def contrast(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """InfoNCE over the items of synthesized users: an item's positives share its crowd interest, its negatives are the user's other items.

    For each item i and each positive p, ``-log(exp(s_ip) / (exp(s_ip) + sum_n exp(s_in)))`` with cosines over ``temperature``; the mean
    over a user's pairs, summed over users. A user with one interest, or with no two items in one, adds nothing.

    Args:
        vectors: float ``(U, M, D)``, vectors of the items of each synthesized user.
        labels: int64 ``(U, M)``, the crowd interest of each item, -1 for padding and for items of no cluster.
        temperature: what cosines are divided by.
    """
    unit = F.normalize(vectors, dim=-1)
    scores = unit @ unit.transpose(1, 2) / temperature  # (U, M, M)
    real = labels >= 0
    both = real[:, :, None] & real[:, None]
    same = labels[:, :, None] == labels[:, None]
    itself = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    others = torch.logsumexp(scores.masked_fill(~(both & ~same), -torch.inf), dim=2, keepdim=True)
    pairs = both & same & ~itself & torch.isfinite(others)
    loss = F.softplus(torch.where(pairs, others - scores, 0.0))
    return ((loss * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)).sum()
