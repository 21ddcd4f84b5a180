"""What neighbours in an embedding have in common: anatomy, or the scanner that made the picture.

Free labels of a catalog (body part, view, vendor, site ...) are read out by nearest neighbours of
other patients. Where the scanner or the site is read out better than the anatomy, the embedding has
learnt how a picture looks before what it shows: a shortcut (Geirhos et al. 2020).

N records, D width, K values of a label.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.evaluation.knn import finite_table, knn_predict

ANATOMY, SCANNER = ("body_part", "view"), ("vendor", "site_id")
NEIGHBOURS, TEMPERATURE = 10, 0.07
# A label is read out if it has two values, each of so many patients, ...
FEWEST_PATIENTS = 3
# ... and is worth a warning from this excess over chance on, if neither that nor its lead over the
# anatomy is an accident.
NOTABLE, STANDARD_ERRORS = 0.1, 2.0


class Readout(NamedTuple):
    """How well one label is read out.

    Attributes:
        excess: (balanced accuracy - 1/K) / (1 - 1/K): 0 = chance, 1 = always right.
        error: standard error of the excess, from the number of patients of each value.
        values: K.
        n: records with a label that counts.
    """

    excess: float
    error: float
    values: int = 0
    n: int = 0


def read_out(
    z_ND: npt.ArrayLike, values_N: Sequence[str], patients_N: npt.NDArray[Any]
) -> Readout | None:
    """Read a label out by the neighbours of each record among those of other patients.

    Ten neighbours of standardised features count, fewer where a value has fewer records. A
    neighbour's vote is divided by how common its value is, so that chance is 1/K. ``None``: there
    is nothing to tell apart.

    Args:
        z_ND: embedding.
        values_N: of the label; empty = unknown, which does not count. Nor do values of fewer than
            three patients.
        patients_N: of each record.

    Raises:
        UsageError: features that are not finite.
    """
    owners: dict[str, set[Any]] = defaultdict(set)
    for value, patient in zip(values_N, patients_N.tolist(), strict=True):
        owners[value].add(patient)
    names = sorted(v for v, found in owners.items() if v and len(found) >= FEWEST_PATIENTS)
    if len(names) < 2:
        return None
    kept = np.array([k for k, value in enumerate(values_N) if value in names])
    z, patients = finite_table(z_ND)[kept], patients_N[kept]
    class_N = np.array([names.index(values_N[k]) for k in kept])
    spread_D = z.std(0)
    z = (z - z.mean(0)) / np.where(spread_D > 1e-7 * np.abs(z).max(0), spread_D, np.inf)
    own = patients[:, None] == patients
    count_K = np.bincount(class_N)
    neighbours = min(NEIGHBOURS, int(count_K.min()))  # as many as the rarest value could fill
    share_NK = knn_predict(z, class_N, z, neighbours, TEMPERATURE, exclude=own)
    found_N = (share_NK / count_K).argmax(1)
    recall_K = np.array([(found_N[class_N == k] == k).mean() for k in range(len(names))])
    patients_K = np.array([len(owners[name]) for name in names])
    chance = 1 / len(names)
    error = math.sqrt((recall_K * (1 - recall_K) / patients_K).sum()) / len(names)
    excess = (float(recall_K.mean()) - chance) / (1 - chance)
    return Readout(excess, error / (1 - chance), len(names), len(kept))


def read_outs(
    z_ND: npt.ArrayLike, labels: Mapping[str, Sequence[str]], patients_N: npt.NDArray[Any]
) -> dict[str, Readout]:
    """:func:`read_out` of each label that tells records apart."""
    found = {name: read_out(z_ND, values, patients_N) for name, values in labels.items()}
    return {name: one for name, one in found.items() if one is not None}


def shortcut(found: Mapping[str, Readout]) -> str:
    """The warning, in plain words; empty = none.

    It is given where the scanner label that is read out best has an excess of at least 0.1 and two
    standard errors, and leads the best anatomy label by two standard errors of their difference.
    Without an anatomy label there is nothing to compare with.

    >>> seen = {"site_id": Readout(0.8, 0.1), "body_part": Readout(0.3, 0.1)}
    >>> shortcut(seen)
    'the embedding tells site_id (excess 0.80) better than body_part (0.30): a shortcut'
    >>> shortcut({**seen, "view": Readout(0.9, 0.1)})
    ''
    """
    scanner = [(found[name].excess, name) for name in SCANNER if name in found]
    anatomy = [(found[name].excess, name) for name in ANATOMY if name in found]
    if not (scanner and anatomy):
        return ""
    (worst, name), (best, beside) = max(scanner), max(anatomy)
    error, error_beside = found[name].error, found[beside].error
    notable = worst >= max(NOTABLE, STANDARD_ERRORS * error)
    if not notable or worst - best <= STANDARD_ERRORS * math.hypot(error, error_beside):
        return ""
    seen = f"{name} (excess {worst:.2f}) better than {beside} ({best:.2f})"
    return f"the embedding tells {seen}: a shortcut"
