"""Pictures and volumes of one catalog in one training of an image encoder."""

import json
import math

import pytest

from medssl.core.errors import ConfigError
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.stages import index, pretrain
from medssl.stages.pretrain import PretrainConfig
from tests.picture_archive import PICTURE_WORDS, write_pictures
from tests.training_archive import write_images

PICTURES, VOLUMES = 3, 4
SMALL = {"name": "image_volume", "slices": 4, "hidden": 32, "out": 16, "width": 32, "queue": 4,
         "volumes_from": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Grey and colour PNG beside NIfTI, all for training."""
    root = tmp_path_factory.mktemp("mixed")
    write_pictures(root / "archive/grey", 2, colour=False)
    write_pictures(root / "archive/colour", PICTURES - 2, shape=(36, 44))
    write_images(root / "archive/volumes", VOLUMES)
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    index.run(
        index.IndexConfig(archive=root / "archive", out=root / "catalog", split=split, quiet=True)
    )
    return root / "catalog"


def config_of(catalog, out, **more):
    given = {
        "steps": 4, "check_every": 2, "match_channels": True, "objective": SMALL,
        "encoder": {"name": "timm/resnet18"}, **PICTURE_WORDS, "batch_size": 4,
    }  # fmt: skip
    return PretrainConfig(data=catalog, out=out, **{**given, **more})


@pytest.fixture(scope="module")
def trained(catalog, tmp_path_factory):
    """A run of four steps; the crop follows from the records."""
    return pretrain.run(config_of(catalog, tmp_path_factory.mktemp("run") / "run"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_records_take_part(trained):
    assert trained.result["records"] == PICTURES + VOLUMES
    assert trained.result["excluded"] == {}


def test_every_task_has_a_loss_in_every_phase(trained):
    rows = [row for row in lines(trained.out / "metrics.jsonl") if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        assert all(math.isfinite(row[name]) and row[name] > 0 for name in ("intra", "mask"))
        assert math.isfinite(row["inter"])
        assert row["loss"] == pytest.approx(row["intra"] + row["inter"] + row["mask"], rel=1e-5)
    assert any(row["inter"] > 0 for row in rows)


def test_the_health_of_slices_and_tasks_is_watched(trained):
    rows = lines(trained.out / "health.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4]
    for row in rows:
        assert row["state"] != "collapsed"
        assert {"rankme", "embedding_std", "mean_entropy", "prototype_usage"} <= row.keys()


def test_the_model_is_an_image_encoder(trained):
    card, weights = load_card(trained.out)
    assert card.objective == "image_volume"
    assert len(card.patch_size) == 2
    build_from_card(card).load_state_dict(part_of(weights, "encoder"), strict=True)


def test_a_volume_encoder_is_refused(catalog, tmp_path):
    with pytest.raises(ConfigError, match="takes an image encoder"):
        pretrain.run(
            config_of(catalog, tmp_path / "run", encoder={"name": "resenc-xs"}, crop=(16, 32, 16))
        )
