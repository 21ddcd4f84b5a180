"""InfoNCE losses on embeddings of the whole batch.

B batch, D width, N keys, M negatives; ``record`` (int) says from which record a row comes:
other rows of the same record show the same anatomy and are never negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.objectives._parts.precision import no_autocast, upcast


def unit(x_BD: Tensor) -> Tensor:
    """Rows of length 1, in float32 at least.

    >>> unit(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    return F.normalize(upcast(x_BD), dim=1)


def nt_xent(
    a_BD: Tensor, b_BD: Tensor, *, temperature: float, record_B: Tensor | None = None
) -> Tensor:
    """SimCLR's loss: each view finds its partner among all 2B - 1 other views.

    l(i, j) = -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t) with cosine s, mean over 2B rows.
    With one sample there is no negative, and the loss is 0; as it is without any.

    Args:
        a_BD: embeddings of first views, of all ranks.
        b_BD: of second views.
        temperature: t.
        record_B: record, or patient, of each sample; default: all differ.

    Source: Chen et al. 2020, Eq. 1.

    Equal embeddings leave a guess among 2B - 1; here log 3:

    >>> round(nt_xent(torch.ones(2, 4), torch.ones(2, 4), temperature=0.1).item(), 4)
    1.0986
    """
    count = len(a_BD)
    z_ND = unit(torch.cat([a_BD, b_BD]))
    with no_autocast(z_ND):
        logits_NN = z_ND @ z_ND.T / temperature
    rows = torch.arange(2 * count, device=z_ND.device)
    partner = rows.roll(count)
    logits_NN = logits_NN.masked_fill(rows[:, None] == rows, -torch.inf)
    if record_B is not None:
        logits_NN = _drop_same(logits_NN, record_B.repeat(2), record_B.repeat(2), partner)
    return F.cross_entropy(logits_NN, partner) if count else z_ND.sum()


def info_nce(
    query_BD: Tensor,
    key_ND: Tensor,
    *,
    temperature: float,
    first: int = 0,
    record_B: Tensor | None = None,
    record_N: Tensor | None = None,
) -> Tensor:
    """Each query finds its key among those of the whole batch: mean of -log softmax(s / t).

    Args:
        query_BD: queries of this rank.
        key_ND: keys of all ranks.
        temperature: t.
        first: place of the first query's key: rank * B. (With B = N it is 0.)
        record_B: records of queries.
        record_N: records of keys.

    Source: van den Oord et al. 2018, Eq. 4; over ranks as in MoCo v3.

    >>> round(info_nce(torch.ones(8, 4), torch.ones(8, 4), temperature=0.2).item(), 4)
    2.0794
    """
    query_BD, key_ND = unit(query_BD), unit(key_ND)
    with no_autocast(query_BD):
        logits_BN = query_BD @ key_ND.T / temperature
    positive = torch.arange(len(query_BD), device=query_BD.device) + first
    if record_B is not None and record_N is not None:
        logits_BN = _drop_same(logits_BN, record_B, record_N, positive)
    return F.cross_entropy(logits_BN, positive)


def queue_nce(
    query_BD: Tensor,
    key_BD: Tensor,
    queue_MD: Tensor,
    *,
    temperature: float,
    same_BM: Tensor | None = None,
) -> Tensor:
    """Each query finds its own key among the keys of a queue.

    L = -log exp(q.k / t) / (exp(q.k / t) + sum_M exp(q.n / t)), mean over the batch.

    Args:
        query_BD: queries.
        key_BD: their keys.
        queue_MD: negatives.
        temperature: t.
        same_BM: True where query and negative come from one record: no negative then.

    Source: He et al. 2020, Eq. 1.

    >>> one = torch.ones(2, 4)
    >>> round(queue_nce(one, one, torch.ones(7, 4), temperature=0.2).item(), 4)
    2.0794
    """
    query_BD, key_BD, queue_MD = unit(query_BD), unit(key_BD), unit(queue_MD)
    with no_autocast(query_BD):
        positive_B1 = (query_BD * key_BD).sum(1, keepdim=True)
        negative_BM = query_BD @ queue_MD.T
    if same_BM is not None:
        negative_BM = negative_BM.masked_fill(same_BM, -torch.inf)
    logits = torch.cat([positive_B1, negative_BM], 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def _drop_same(logits_BN: Tensor, record_B: Tensor, record_N: Tensor, positive_B: Tensor) -> Tensor:
    same = record_B[:, None] == record_N
    same = same.scatter(1, positive_B[:, None], False)
    return logits_BN.masked_fill(same, -torch.inf)
