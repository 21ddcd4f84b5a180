"""Labelled cases into the store; what cannot be used is named, all of it at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rich

from medssl.archive._digest import pixel_hash
from medssl.archive._pool import map_items, usable_cpus
from medssl.archive.cases import Case
from medssl.archive.clips import ClipPlan, ClipStream, plan_clip, prepared_frames
from medssl.archive.identity import hash_id, load_salt
from medssl.archive.labelled import Labelled, read_case
from medssl.archive.labelled_frames import FrameCase, frame_mask
from medssl.archive.labelled_videos import VideoCase
from medssl.archive.quarantine import Ledger
from medssl.archive.store import STORE_CHUNK, Store
from medssl.core.errors import MedsslError, ReadError, ResourceError
from medssl.core.geometry import Reorientation
from medssl.core.preprocess import Prepared, prepare, prepare_labels
from medssl.core.runlog import Run
from medssl.core.sample import Sample
from medssl.readers._base import Found
from medssl.readers._dispatch import sample

if TYPE_CHECKING:
    from medssl.stages.finetune import FinetuneConfig


def fill_store(
    labelled: Labelled, cases: list[Case], store: Store, run: Run, config: FinetuneConfig
) -> tuple[set[str], Counter[str]]:
    """Check and preprocess every case.

    Returns:
        The names of the bad ones, and remarks on labels, such as ``label_moved_mm``, with the
        number of cases that got them.

    Raises:
        ReadError: naming all bad files, unless ``skip_bad_cases``.
    """
    missing = [case for case in cases if case_key(store, labelled, case) not in store]
    ledger = Ledger(run.out / "quarantine.jsonl")
    bad: dict[str, ReadError] = {}
    flags: Counter[str] = Counter()
    for case, result in map_items(
        Preparation(labelled, store), missing, workers=min(usable_cpus(), 8), chunk=STORE_CHUNK
    ):
        if isinstance(result, ReadError):
            bad[case.name] = result
            ledger.add(case_id(store, case), "finetune", result.reason, result.what)
        elif isinstance(result, MedsslError):
            raise result
        else:
            flags.update({flag.partition("=")[0] for flag in result})
    if not bad:
        return set(), flags
    ledger.save()
    where = "\n         ".join(f"{error.where}: {error.what}" for error in bad.values())
    if config.skip_bad_cases:
        rich.get_console().print(f"left out:\n         {where}", markup=False)
        return set(bad), flags
    first = next(iter(bad.values()))
    fix = first.fix or "mend or remove these cases, or give skip_bad_cases=true"
    raise ReadError(first.reason, f"{len(bad)} labelled cases cannot be used", where=where, fix=fix)


@dataclass(frozen=True)
class Preparation:
    """Reads, checks, preprocesses and stores one case; returns remarks on its labels. Picklable."""

    labelled: Labelled
    store: Store

    def __call__(self, case: Case) -> tuple[str, ...]:
        if isinstance(case, FrameCase):
            return self._frame(case)
        if isinstance(case, VideoCase) or self.labelled.kind == "clip":
            return self._video(case)
        try:
            array, geometry, labels = read_case(case, self.labelled)
        except ResourceError as error:  # one file beyond the cap, not a machine without memory
            where = error.where or str(case.images[0])
            raise ReadError("too_large", error.what, where=where) from error
        contract = self.store.contract
        try:
            prepared = prepare(array, geometry, self.labelled.modality, contract)
        except ReadError as error:
            error.where = str(case.images[0])
            raise
        self._check_channels(case, len(prepared.array))
        key, pixels = case_key(self.store, self.labelled, case), pixel_hash(array, geometry)
        if labels is None:  # a class, or nothing: it is no matter of voxels
            self.store.put(key, prepared, pixels)
            return ()
        classes = np.searchsorted(sorted(self.labelled.labels), labels.labels_DHW)
        self.store.put(key, prepared, pixels, prepare_labels(classes, geometry, contract))
        return labels.flags

    def _video(self, case: Case) -> tuple[str, ...]:
        """Frames at the contract's rate, in pieces; remarks of the reader."""
        try:
            found, clip, plan = self._planned(case)
            self.store.put_clip(case_key(self.store, self.labelled, case), ClipStream(clip, plan))
        except ReadError as error:
            error.where = error.where or str(case.images[0])
            raise
        return found.flags

    def _frame(self, case: FrameCase) -> tuple[str, ...]:
        """A labelled frame as a picture, prepared as those of its video are."""
        try:
            found, clip, plan = self._planned(case)
            number = case.number_in(clip.frame_times_s, clip.shape[1])
            plan = replace(plan, numbers=np.array([number]), times_s=None)
            x_CTHW = prepared_frames(clip, plan)
            labels, flags = frame_mask(case, clip.shape[2:], self.labelled.labels, plan)
        except ReadError as error:
            error.where = error.where or str(case.images[0])
            raise
        scale = np.float32(255 if plan.scale.exact else 1)
        picture = Prepared(
            array=np.divide(x_CTHW, scale, dtype=np.float32).astype(np.float16),
            affine=None,
            spacing_mm=plan.spacing_mm(clip.geometry.spacing_mm),
            air=(plan.scale.air,) * len(x_CTHW),
            modality=clip.modality,
            turn=Reorientation((0, 1, 2), (False, False, False)),
            turned_DHW=(1, *plan.size_HW),
        )
        key = case_key(self.store, self.labelled, case)
        self.store.put(key, picture, pixel_hash(x_CTHW), labels)
        return (*found.flags, *flags)

    def _planned(self, case: Case) -> tuple[Found, Sample, ClipPlan]:
        """The case's video, and how it is prepared.

        Raises:
            ReadError: it cannot be used.
        """
        [found] = case.records()
        if found.geometry.kind != "clip":
            what = f"a {found.geometry.kind} among the videos of the data set"
            raise ReadError("not_a_clip", what)
        clip = sample(found).assumed(self.labelled.modality)
        plan = plan_clip(clip, found.dtype, self.store.contract)
        self._check_channels(case, plan.channels)
        return found, clip, plan

    def _check_channels(self, case: Case, channels: int) -> None:
        if channels != len(self.labelled.channels):
            what = f"{channels} channels, the data set has {len(self.labelled.channels)}"
            fix = "give match_channels=true to use grey and colour pictures together"
            raise ReadError("channel_mismatch", what, where=str(case.images[0]), fix=fix)


def case_key(store: Store, labelled: Labelled, case: Case) -> str:
    """Name of a case in the store: its files, their sizes and times, and how they are read."""
    stamps = [f"{s.st_size}:{s.st_mtime_ns}" for s in (path.stat() for path in _files(case))]
    values = str(sorted(labelled.labels)) if case.label else ""
    frame = (case.at,) if isinstance(case, FrameCase) else ()
    return store.key(case_id(store, case), *stamps, labelled.modality, values, *frame)


def case_id(store: Store, case: Case) -> str:
    """Salted hash of the case's files: what a ledger and file names may hold."""
    return hash_id(load_salt(store.root), *(str(path.resolve()) for path in _files(case)))


def _files(case: Case) -> tuple[Path, ...]:
    return (*case.images, *([case.label] if case.label else ()))
