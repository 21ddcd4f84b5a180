"""embed: a table with a vector per record, pictures beside it, and no name in any of them."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.stages import pretrain
from medssl.stages._embed_pictures import principal
from medssl.stages._features import Frozen
from medssl.stages._records import FREE_LABELS
from medssl.stages.embed import EmbedConfig, run
from medssl.stages.pretrain import PretrainConfig
from tests.picture_archive import write_pictures
from tests.stages.test_health import relabelled, two_sites  # noqa: F401 - a fixture
from tests.training_archive import write_images

QUICK = {
    "objective": {"name": "mae"}, "steps": 1, "batch_size": 2, "accelerator": "cpu",
    "health": False, "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(two_sites, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("embed") / "run"
    return pretrain.run(PretrainConfig(data=two_sites, out=out, crop=(16, 32, 16), **QUICK))


def embedded(trained, data, out, **more):
    given = {"data": data, "checkpoint": trained.out, "out": out, "device": "cpu", "quiet": True}
    return run(EmbedConfig(**{**given, **more}))


@pytest.fixture(scope="module")
def written(trained, two_sites, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("written")
    return embedded(trained, two_sites, folder / "e.parquet"), folder


def test_a_row_per_record_with_its_vector_and_free_labels(written, trained):
    finished, folder = written
    table = pl.read_parquet(folder / "e.parquet")
    assert table.columns == ["record_id", "patient", *FREE_LABELS, "embedding"]
    assert table.height == finished.result["records"] == 16
    network, _ = Frozen.of_run(trained.out)
    assert set(table["embedding"].list.len()) == {network.encoder.width}
    assert np.isfinite(np.stack(table["embedding"].to_list())).all()
    assert set(table["site_id"]) == {"a", "b"}
    assert table["view"].null_count() == 16  # unknown
    assert json.loads((folder / "e.json").read_text()) == finished.result


def test_a_planted_shortcut_that_survives_preprocessing_is_reported(written):
    result = written[0].result
    rows = {row["features"]: row["labels"] for row in result["read_outs"]}
    assert list(rows) == ["this checkpoint", "random weights", "raw pixels"]
    assert rows["this checkpoint"]["site_id"]["excess"] > 0.5
    assert result["shortcut"].startswith("the embedding tells site_id")


def test_pictures_lie_beside_it(written):
    _, folder = written
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["e.json", "e.parquet", "e_dense.png", "e_map.png", "e_neighbours.png"]
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_no_output_holds_a_path_or_a_name(written, two_sites):  # noqa: F811
    for path in written[1].iterdir():
        data = path.read_bytes()
        assert b"scan_" not in data
        assert str(two_sites).encode() not in data


def test_the_same_run_gives_the_same_vectors(written, trained, two_sites, tmp_path):  # noqa: F811
    embedded(trained, two_sites, tmp_path / "again.parquet")
    again = pl.read_parquet(tmp_path / "again.parquet")
    assert again.equals(pl.read_parquet(written[1] / "e.parquet"))


def test_a_folder_is_indexed_first_and_its_records_stay_findable(trained, tmp_path):
    write_images(tmp_path / "archive", 3)
    embedded(trained, tmp_path / "archive", tmp_path / "e.parquet")
    known = pl.read_parquet(tmp_path / "e_catalog" / "records.parquet")["record_id"]
    assert set(pl.read_parquet(tmp_path / "e.parquet")["record_id"]) == set(known)


def test_what_the_encoder_does_not_take_is_refused(trained, tmp_path):
    write_pictures(tmp_path / "archive", 2)
    with pytest.raises(NothingUsableError, match="kind_image"):
        embedded(trained, tmp_path / "archive", tmp_path / "e.parquet")


def test_an_earlier_file_is_kept_and_another_ending_refused(trained, tmp_path):
    (tmp_path / "e.parquet").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        embedded(trained, tmp_path, tmp_path / "e.parquet")
    with pytest.raises(UsageError, match=r"no \.parquet"):
        embedded(trained, tmp_path, tmp_path / "e.csv")


@pytest.mark.parametrize("ending", [".json", "_map.png", "_neighbours.png", "_dense.png"])
def test_nothing_beside_the_table_is_replaced_unasked(trained, tmp_path, ending):
    (tmp_path / f"e{ending}").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        embedded(trained, tmp_path / "no_archive", tmp_path / "e.parquet")
    assert (tmp_path / f"e{ending}").read_bytes() == b"mine"


def test_weights_that_have_diverged_are_refused_and_leave_no_file(
    trained,
    two_sites,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    lost = np.full(8, np.nan, np.float32)
    monkeypatch.setattr(Frozen, "vector", lambda *_: lost)
    with pytest.raises(MedsslError, match="16 of 16 records are not finite"):
        embedded(trained, two_sites, tmp_path / "e.parquet")
    assert not list(tmp_path.iterdir())


def test_principal_components_equal_sklearns():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 2, 1, 1]
    theirs = PCA(2).fit(x)
    points, shares = principal(x, 2)
    assert np.abs(points) == pytest.approx(np.abs(theirs.transform(x)))
    assert shares == pytest.approx(theirs.explained_variance_ratio_)
