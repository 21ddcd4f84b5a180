"""Nothing that identifies a patient is in any byte that medssl writes, but where the law says."""

import base64
import io
import json
import stat
import sys

import numpy as np
import pytest
from PIL import Image

from tests.planted import (
    BIRTH,
    DATA_URI,
    FAMILY,
    PATIENT_ID,
    SECRETS,
    UID,
    found_in,
    unpacked,
    write_planted,
)
from tests.support import Offline
from tests.training_archive import TRAIN_WORDS, write_labelled
from tests.us_dicom import SHAPE

# May name files and patients; their owner alone may read them (law 4).
OWNERS = {"paths.parquet", "sources.parquet", "headers.parquet", "headers.bin"}


class Site:
    """A planted archive, and stages run on it in processes without a network."""

    def __init__(self, root):
        self.root = root
        self.archive = write_planted(root / "in")
        self.offline = Offline(python=sys.executable, log=root / "connections.txt")
        self.said = b""
        self.temporary = root / "temporary"
        self.temporary.mkdir()

    def run(self, *words, codes=(0, 4)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(self.temporary))
            done = self.offline.run("-m", "medssl", *words)
        assert done.returncode in codes, done.stderr
        self.said += (done.stdout + done.stderr).encode()
        return done

    def leaks(self, folder, names=True):
        """``{file: secrets}`` below a folder, in contents and in names."""
        found = {}
        for file in sorted((self.root / folder).rglob("*")):
            name = str(file.relative_to(self.root / folder))
            if names and (bad := found_in(name.encode())):
                found[f"name of {name}"] = bad
            if file.is_file() and (bad := found_in(unpacked(file))):
                owned = file.name in OWNERS and not stat.S_IMODE(file.stat().st_mode) & 0o077
                if not owned:
                    found[name] = bad
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    made.run("index", made.archive, "-o", made.root / "catalog", "workers=2")
    return made


def test_the_search_finds_what_was_planted(site):
    seen = {name for file in site.archive.rglob("*") if file.is_file() for name in found_in(
        unpacked(file) + str(file).encode()
    )}  # fmt: skip
    assert seen == set(SECRETS)


def test_index_writes_hashes_only(site):
    assert site.leaks("catalog") == {}
    assert found_in(site.said) == []


def test_index_found_the_scans_that_carry_the_secrets(site):
    summary = json.loads((site.root / "catalog" / "run.json").read_text())
    assert summary["records"] >= 7


def test_what_may_name_files_belongs_to_its_owner(site):
    for file in (site.root / "catalog").rglob("*"):
        if file.name in OWNERS | {"salt"}:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_a_failed_run_leaves_no_name_in_its_log(site):
    folder = site.root / "nothing"
    folder.mkdir()
    for file in site.archive.glob(f"*{FAMILY}*.dcm"):
        (folder / file.name).write_bytes(file.read_bytes()[:200])
    site.offline.run("-m", "medssl", "index", folder, "-o", site.root / "failed")
    assert site.leaks("failed") == {}


def test_a_second_index_with_pixels_writes_hashes_only(site):
    site.run("index", site.archive, "-o", site.root / "catalog", "--pixels", "workers=0")
    assert site.leaks("catalog") == {}


def test_deidentified_copies_hold_nothing_planted(site):
    site.run("deidentify", "-i", site.archive, "-o", site.root / "copies", "workers=0")
    assert site.leaks("copies") == {}
    assert found_in(site.said) == []
    report = json.loads((site.root / "copies" / "run.json").read_text())
    # Series of 18 slices, one of them zipped; NIfTI; ultrasound.
    assert report["copied"] == 4 * 18 + 3 + 1
    assert report["reasons"]["not_deidentified:video"] == 1
    assert report["reasons"]["not_deidentified:image"] == 1


def test_doctor_shows_no_name(site):
    site.run("doctor", site.archive, "-o", site.root / "doctor")
    site.run("doctor", site.archive, "--json")
    assert site.leaks("doctor") == {}
    assert found_in(site.said) == []


def test_quarantine_shows_no_name(site):
    site.run("quarantine", "ls", site.root / "catalog")
    site.run("quarantine", "export", site.root / "catalog", "-o", site.root / "ledger.csv")
    assert found_in((site.root / "ledger.csv").read_bytes()) == []
    assert found_in(site.said) == []


def test_no_picture_of_the_doctor_shows_the_banner(site):
    page = (site.root / "doctor" / "doctor.html").read_bytes()
    pictures = [Image.open(io.BytesIO(base64.b64decode(t))) for t in DATA_URI.findall(page)]
    assert pictures
    for picture in pictures:
        if picture.width * SHAPE[0] == picture.height * SHAPE[1]:  # the cine, if it is shown
            above = np.asarray(picture)[: picture.height // 10]
            assert np.ptp(above) == 0


@pytest.mark.slow
def test_training_and_prediction_write_hashes_only(site):
    run = site.root
    words = ("encoder=resenc-xs", "modality=MR", *TRAIN_WORDS, "steps=2")
    site.run("pretrain", "--data", site.archive, "-o", run / "pretrained", *words[:1], *words[2:])
    labelled = write_labelled(run / "in" / f"{FAMILY}_labelled")
    site.run(
        *("finetune", "--task", "segmentation", "--data", labelled, "-o", run / "finetuned"),
        *("--init", run / "pretrained", *TRAIN_WORDS, "steps=2"),
    )
    site.run(
        *("predict", "-i", site.archive, "-o", run / "predicted", "--checkpoint"),
        *(run / "finetuned", "device=cpu"),
    )
    assert site.leaks("pretrained") == {} and site.leaks("finetuned") == {}
    # Names of results mirror the names of their scans; SEG objects go back to the archive.
    leaks = site.leaks("predicted", names=False)
    assert {name: bad for name, bad in leaks.items() if not name.endswith(".dcm")} == {}
    assert json.loads((run / "predicted" / "run.json").read_text())["predicted"] >= 7
    assert found_in(site.said) == []


def test_no_stage_left_anything_in_the_temporary_folder(site):
    assert [file for file in site.temporary.rglob("*") if file.is_file()] == []


def test_no_stage_tried_to_reach_the_network(site):
    assert site.offline.attempts() == []


def test_the_search_sees_through_packing(tmp_path):
    import gzip

    import polars as pl

    pl.DataFrame({"a": [PATIENT_ID]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.gz").write_bytes(gzip.compress(BIRTH.encode()))
    (tmp_path / "t.txt").write_bytes(UID.encode("utf-16-le"))
    for file in tmp_path.iterdir():
        assert found_in(unpacked(file)), file.name
