"""Echo views of one study: which clips of a catalog are pairs, and what is counted."""

import json

import numpy as np
import pytest

from medssl.archive.catalog import Catalog
from medssl.archive.split import Fractions
from medssl.archive.store import Store
from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.preprocess import Contract
from medssl.stages import index, pretrain
from medssl.stages._records import fill_store, stored
from pipelines._video_files import encode

ALL = Fractions(train=1.0, val=0.0, test=0.0)
# Two studies of one patient, one of another, and a clip alone.
FOLDERS = {"sub-0/rest": 2, "sub-0/stress": 2, "sub-1": 2, "sub-2": 1}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("echo")
    length = 20
    for place, clips in FOLDERS.items():
        for number in range(clips):
            length += 3
            (folder / place).mkdir(parents=True, exist_ok=True)
            encode(folder / place / f"view{number}.avi", length, size=(48, 160), codec="mpeg4")
    out = tmp_path_factory.mktemp("catalog") / "c"
    index.run(index.IndexConfig(archive=folder, out=out, quiet=True, split=ALL))
    return out


def config(catalog, out, **more):
    values = {
        "objective": {"name": "simclr", "norm": "layer", "partner": {"kind": "study"}},
        "encoder": "video_vit-xs", "crop": (4, 32, 32), "channels": 3, "size_px": 48,
        "batch_size": 7, "steps": 1, "log_every": 1, "accelerator": "cpu", "quiet": True,
        "health": False,
    }  # fmt: skip
    return pretrain.PretrainConfig(data=catalog, out=out, **{**values, **more})


def test_studies_are_told_apart_within_a_patient(catalog, tmp_path):
    opened = Catalog.open(catalog)
    store = Store(tmp_path, Contract(fps=15.0, short_side_px=16))
    fill_store(opened, opened.records(), store, 0.0)
    found = stored(opened.records(), store)
    sizes = np.unique(np.stack([found.patients, found.studies]), axis=1, return_counts=True)[1]
    assert sorted(sizes) == sorted(FOLDERS.values())
    assert sorted(np.bincount(found.patients)) == [1, 2, 4]


def test_clips_alone_in_their_study_are_dropped_and_counted(catalog, tmp_path):
    run = pretrain.run(config(catalog, tmp_path / "run"))  # each of the seven records once
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    [line] = [line for line in lines if "loss" in line]
    assert line["pairs_dropped"] == pytest.approx(1 / 7)


def test_a_catalog_without_two_clips_of_a_study_is_refused(catalog, tmp_path):
    with pytest.raises(NothingUsableError, match="in its study"):
        pretrain.run(config(catalog, tmp_path / "run", where="duration_s > 1.5"))  # sub-2 alone


def test_an_image_encoder_has_no_synchronous_pairs(catalog, tmp_path):
    flat = {"encoder": "timm/resnet18", "crop": (64, 64)}
    with pytest.raises(ConfigError, match="encoders of clips"):
        pretrain.run(config(catalog, tmp_path / "run", **flat))
