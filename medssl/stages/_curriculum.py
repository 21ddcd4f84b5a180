"""Videos of another procedure beside labelled ones: see :mod:`medssl.heads._curriculum`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.archive.labelled_videos import class_depth, video_case, videos_in
from medssl.archive.scan import scan_folder
from medssl.archive.store import Store
from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.phases import NONE
from medssl.core.runlog import Run
from medssl.core.seeding import generator
from medssl.core.viewspec import ViewSpec
from medssl.heads._curriculum import Curriculum
from medssl.stages._labelled_store import case_key, fill_store
from medssl.stages._start import Start
from medssl.stages._video_frames import FrameDataset, FrameRecords

if TYPE_CHECKING:
    from medssl.stages.finetune import FinetuneConfig


class TwoProcedures(FrameDataset):
    """Labelled frames, each with the views of a frame of another procedure (``unlabelled``)."""

    def __init__(self, labelled: FrameDataset, other: FrameRecords, spec: ViewSpec) -> None:
        assert labelled.targets is not None
        super().__init__(
            labelled.records, labelled.spec, labelled.seed, np.asarray(labelled.targets)
        )
        seed = int(generator(labelled.seed, "unlabelled").integers(2**31))  # draws of their own
        self.other = FrameDataset(other, spec, seed, np.full(len(other), NONE))

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**super().__getitem__(position), "unlabelled": self.other[position]["views"]}


def curriculum_of(config: FinetuneConfig, options: Any) -> Any:
    """The head's options, with a curriculum where there are unlabelled videos.

    Raises:
        ConfigError: there are none for a curriculum, or no encoder that could learn from them.
    """
    if config.unlabelled is None:
        if getattr(options, "curriculum", None):
            what = "a curriculum needs videos of another procedure"
            raise ConfigError(what, fix="give them as unlabelled=VIDEOS")
        return options
    if options.freeze_encoder:
        what = "a frozen encoder learns nothing from unlabelled videos"
        raise ConfigError(what, fix="task.freeze_encoder=false")
    return options.model_copy(update={"curriculum": options.curriculum or Curriculum()})


def other_procedure(config: FinetuneConfig, start: Start, store: Store, run: Run) -> FrameRecords:
    """All frames of the unlabelled videos, put into the store; none of validation or test.

    Raises:
        NothingUsableError: there is none.
        ReadError: videos that cannot be used, unless ``skip_bad_cases``.
    """
    assert config.unlabelled is not None
    scan = scan_folder(config.unlabelled)
    depth = class_depth(scan)
    every = [video_case(name, one, None, depth) for name, one in sorted(videos_in(scan).items())]
    cases = [case for case in every if case.split in (None, "train")]
    bad, _ = fill_store(start.labelled, list(cases), store, run, config)
    entries = [
        store.entry(case_key(store, start.labelled, case)) for case in cases if case.name not in bad
    ]
    if not entries:
        raise NothingUsableError("no unlabelled video to learn from")
    frames = [np.arange(entry.shape[1]) for entry in entries]
    videos = [np.full(len(one), number) for number, one in enumerate(frames)]
    places = np.stack([np.concatenate(videos), np.concatenate(frames)], axis=1)
    return FrameRecords(store, entries, places)
