"""What is particular to fine-tuning a classifier: few patients with every class, and AUROC."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from medssl.archive.labelled_classes import ClassCase, LabelledClasses
from medssl.archive.labelled_clips import load_with_classes
from medssl.archive.store import Store
from medssl.core.errors import ReadError, UsageError
from medssl.core.geometry import cut_axis
from medssl.core.seeding import generator
from medssl.encoders._base import Encoder
from medssl.encoders.card import Calibration, Card
from medssl.evaluation.classification import auroc, balanced_accuracy
from medssl.inference.sliding import predict_probabilities
from medssl.stages._best import best_so_far, keep_best
from medssl.stages._calibrate import of_classes
from medssl.stages._clip_windows import clip_probabilities, stored_clip
from medssl.stages._kinds import VALIDATION_FROM, Cases, Judge, Kind, Stored, wanted_patients
from medssl.stages._predict_case import Window

if TYPE_CHECKING:
    from medssl.archive.labelled import Labelled
    from medssl.stages.finetune import FinetuneConfig

# From so many patients of a class on, at least one of them is set aside.
_HELD_FROM = 3
# While training is watched: largest share of a window that the next one may repeat, and windows
# per forward pass.
_OVERLAP, _WINDOWS = 0.0, 2


class Classification(Kind):
    """A class per record, a linear layer, AUROC."""

    def load(self, data: Path, labels: Path | None) -> LabelledClasses:
        return load_with_classes(data, labels)

    def choose(self, labelled: Labelled, config: FinetuneConfig) -> Cases:
        return choose_cases(_classes(labelled), config)

    def check(self, cases: Sequence[list[Stored]]) -> tuple[list[list[Stored]], Counter[str]]:
        return without_copies(*cases)

    def part(
        self,
        encoder: Encoder,  # noqa: ARG002
        labelled: Labelled,
        train: Sequence[Stored],
        options: Any,  # noqa: ARG002
    ) -> list[int]:
        return _per_class(labelled, train)

    def targets(self, cases: Sequence[Stored]) -> list[int]:
        return [target_of(one) for one in cases]

    def judge(self, store: Store, val: Sequence[Stored], card: Card, out: Path) -> Judge:
        monitor = ClassMonitor(store, val, card, out)
        return Judge(monitor, lambda: monitor.best, monitor.calibrate, monitor.score)

    def counts(self, labelled: Labelled, train: list[Stored], val: list[Stored]) -> dict[str, Any]:
        return {
            "train_cases_per_class": _per_class(labelled, train),
            "val_cases_per_class": _per_class(labelled, val),
            "skipped": dict(_classes(labelled).skipped),
        }


class ClassMonitor:
    """Monitor for the loop: logs AUROC and balanced accuracy, keeps the best in ``model_best``.

    Best is the larger macro AUROC (it needs no threshold and is finer than a share of few cases),
    of equals the larger balanced accuracy. Macro means are over the classes that occur.
    """

    def __init__(self, store: Store, val: Sequence[Stored], card: Card, out: Path) -> None:
        self.store, self.val, self.card, self.out = store, val, card, out
        self.best = best_so_far(out, ("val_auroc", "val_balanced_accuracy"))

    def __call__(self, step: int, task: nn.Module) -> Mapping[str, float]:
        model = task.get_submodule("model")
        found = self._scores(model)
        if not self.best or _rank(found) > _rank(self.best):
            self.best = found
            keep_best(self.out, self.card, step, found, model)
        return found

    def score(self, model: nn.Module) -> float:
        """AUROC of a model, or balanced accuracy where there is none."""
        found = self._scores(model)
        return found.get("val_auroc", found["val_balanced_accuracy"])

    def _scores(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        p_NK = np.stack([self._case(model, one) for one in self.val])
        return scores(np.array([target_of(one) for one in self.val]), p_NK)

    def calibrate(self, model: nn.Module) -> Calibration:
        """What the validation cases say of a model's probabilities."""
        model.eval()
        p = [self._case(model, one)[None] for one in self.val]
        return of_classes(p, [np.array([target_of(one)]) for one in self.val])

    def _case(self, model: nn.Module, one: Stored) -> npt.NDArray[np.float32]:
        device = next(model.parameters()).device
        if one.entry.kind == "clip":
            window = Window(overlap=_OVERLAP, batch_windows=_WINDOWS, device=device)
            clip = stored_clip(self.store, one.entry)
            return clip_probabilities(model, clip, self.card, window)
        end = one.entry.shape[1:]
        return predict_probabilities(
            model,
            self.store.read(one.entry.key, (0, 0, 0), end),
            patch_size=self.card.patch_size,
            overlap=_OVERLAP,
            batch_windows=_WINDOWS,
            device=device,
            fill=one.entry.fill,
            axis=cut_axis(self.card.plane, end, one.entry.spacing_mm),
        )


def scores(target_N: npt.NDArray[np.int64], p_NK: npt.NDArray[Any]) -> dict[str, float]:
    """``val_auroc`` where two classes occur, ``val_balanced_accuracy``."""
    classes = np.unique(target_N)
    found = {"val_balanced_accuracy": balanced_accuracy(target_N, p_NK.argmax(1), p_NK.shape[1])}
    if len(classes) > 1:
        each = [auroc(target_N == k, p_NK[:, k]) for k in classes]
        found["val_auroc"] = float(np.mean(each))
    return found


def _rank(found: Mapping[str, float]) -> tuple[float, float]:
    return found.get("val_auroc", 0.0), found["val_balanced_accuracy"]


def choose_cases(labelled: LabelledClasses, config: FinetuneConfig) -> Cases:
    """Training and validation cases; a patient is never in both.

    ``labelled=n`` takes the first n patients of :func:`stratified_order`: every class is there,
    and the choice for a smaller n is part of that for a larger one. Without a named validation
    split, and from 10 patients on, the last share of each class is set aside, at least one of
    three; a class of one or two patients trains only.

    Raises:
        UsageError: a class without a training patient; more patients asked for than there are, or
            too few to show every class.
    """
    usable = [case for case in labelled.cases if case.target is not None and case.split != "test"]
    named = any(case.split == "val" for case in usable)
    pool = [case for case in usable if not named or case.split != "val"]
    missing = labelled.labels.keys() - {case.target for case in pool}
    if missing:
        names = ", ".join(labelled.labels[k] for k in sorted(missing))
        what = f"{len(missing)} classes have no case to learn from"
        raise UsageError(what, where=names, fix="add cases of them outside test and val")
    order, least, main = stratified_order(pool, config.seed)
    wanted = wanted_patients(config, len(order), least)
    held: set[str] = set()
    if named:
        val = [case for case in usable if case.split == "val"]
    else:
        if wanted >= VALIDATION_FROM and config.val_fraction > 0:
            held = _set_aside(order[least:wanted], order[:least], main, config.val_fraction)
        val = [case for case in pool if case.patient in held]
    chosen = set(order[:wanted]) - held
    return Cases([case for case in pool if case.patient in chosen], list(val))


def stratified_order(
    cases: Sequence[ClassCase], seed: int
) -> tuple[list[str], int, dict[str, int]]:
    """Patients so that the first n of them are a fair choice for every n.

    Returns:
        The order; how many of its first patients it takes until every class occurs; and the class
        that each patient stands for, the rarest of its own.
    """
    classes_of: dict[str, set[int]] = defaultdict(set)
    for case in cases:
        assert case.target is not None  # the caller asked for labelled cases
        classes_of[case.patient].add(case.target)
    patients = sorted(classes_of)
    patients = [patients[i] for i in generator(seed, "labelled").permutation(len(patients))]
    common = Counter(k for found in classes_of.values() for k in found)
    rarest_first = sorted(common, key=lambda k: (common[k], k))
    main = {who: min(classes_of[who], key=rarest_first.index) for who in patients}
    order: list[str] = []
    for k in rarest_first:
        if not any(k in classes_of[who] for who in order):
            order.append(next(who for who in patients if k in classes_of[who]))
    least = len(order)
    queues = {k: [w for w in patients if main[w] == k and w not in order] for k in rarest_first}
    share = {k: count / len(patients) for k, count in Counter(main.values()).items()}
    taken = Counter(main[who] for who in order)
    while any(queues.values()):
        # The class that is furthest behind its share of the whole.
        behind = {k: share[k] * (len(order) + 1) - taken[k] for k, left in queues.items() if left}
        k = max(behind, key=lambda one: behind[one])
        order.append(queues[k].pop(0))
        taken[k] += 1
    return order, least, main


def _set_aside(
    late: Sequence[str], first: Sequence[str], main: Mapping[str, int], fraction: float
) -> set[str]:
    """The last patients of each class; the ``first`` ones, which show every class, stay."""
    held: set[str] = set()
    for k in sorted(set(main.values())):
        own = [who for who in late if main[who] == k]
        total = len(own) + sum(main[who] == k for who in first)
        count = max(1, round(fraction * total)) if total >= _HELD_FROM else 0
        held.update(own[max(len(own) - count, 0) :] if count else ())
    return held


def without_copies(
    train: list[Stored], val: list[Stored]
) -> tuple[list[list[Stored]], Counter[str]]:
    """Training and validation cases, none of which shows the pixels of another in the other.

    Copies of training cases leave a validation set that was drawn here, and are counted; where the
    data set names the split they are an error.

    Raises:
        ReadError: ``contradicting_classes``.
        UsageError: copies across named splits.
    """
    by_pixels: dict[str, list[Stored]] = defaultdict(list)
    for one in (*train, *val):
        by_pixels[one.entry.pixel_hash].append(one)
    odd = [same for same in by_pixels.values() if len({target_of(one) for one in same}) > 1]
    if odd:
        where = "\n         ".join(", ".join(str(o.case.images[0]) for o in same) for same in odd)
        what = f"{len(odd)} images occur with the same pixels in two classes"
        raise ReadError("contradicting_classes", what, where=where, fix="keep the right one")
    known = {one.entry.pixel_hash for one in train}
    copies = [one for one in val if one.entry.pixel_hash in known]
    if copies and any(one.case.split == "val" for one in copies):
        where = ", ".join(str(one.case.images[0]) for one in copies[:5])
        what = f"{len(copies)} validation images are copies of training images"
        raise UsageError(what, where=where, fix="give copies one split")
    kept = [one for one in val if one.entry.pixel_hash not in known]
    return [train, kept], +Counter({"copy_of_training_case": len(copies)})


def target_of(one: Stored) -> int:
    """Number of the case's class."""
    assert isinstance(one.case, ClassCase)
    assert one.case.target is not None
    return one.case.target


def _per_class(labelled: Labelled, cases: Sequence[Stored]) -> list[int]:
    counts = Counter(target_of(one) for one in cases)
    return [counts[k] for k in sorted(labelled.labels)]


def _classes(labelled: Labelled) -> LabelledClasses:
    assert isinstance(labelled, LabelledClasses)
    return labelled
