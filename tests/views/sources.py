"""Records in memory that views are cut from."""

import numpy as np

from medssl.core.seeding import generator
from medssl.core.viewspec import View, ViewSpec
from medssl.views.build import build_views
from medssl.views.source import Source

SHAPE = (20, 24, 28)
VOLUME = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)


def reader(volume):
    def read(start, stop):
        return volume[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]

    return read


def source(volume=VOLUME, **more):
    channels = len(volume)
    values = {"spacing_mm": (1.0,) * 3, "air": (-9.0,) * channels, "fill": (-10.0,) * channels}
    return Source(read=reader(volume), shape_DHW=volume.shape[1:], **(values | more))


class Records:
    """Sources in memory; each patient is one study unless told."""

    def __init__(self, sources, patients, studies=None):
        self.sources, self.patients = sources, np.array(patients)
        self.studies = self.patients if studies is None else np.array(studies)
        self.pictures = np.array([one.shape_DHW[0] == 1 for one in sources])
        self.clips = np.array([one.kind == "clip" for one in sources])

    def source(self, record):
        return self.sources[record]


def views_of(seed, record, *views, **for_all):
    return build_views(ViewSpec(views=views, **for_all), generator(seed), record)


def one_view(seed, record, *, crop=(8, 8, 8), min_tissue=0.0, foreground=0.0, **of_view):
    view = View(crop=crop, **of_view)
    return views_of(seed, record, view, min_tissue=min_tissue, foreground=foreground)[0]


def in_record(place, points):
    """Output voxels (P, 3) -> voxels of the record (P, 3)."""
    return points @ place[:, :3].T + place[:, 3]


def in_view(place, points):
    """The inverse warp: voxels of the record (P, 3) -> output voxels (P, 3)."""
    return (points - place[:, 3]) @ np.linalg.inv(place[:, :3]).T


def grid_of(view):
    size = view["x"].shape[1:]
    size = (1, *size) if len(size) == 2 else size
    return np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 3), size
