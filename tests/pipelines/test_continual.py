"""Continual pretraining runs from two phantom archives to a release, and takes a third one on."""

import json

import pytest

import medssl
from medssl.core.errors import UsageError
from pipelines.continual import main, phantoms


def test_phantoms_that_arrive_later_are_other_patients(tmp_path):
    first, later = phantoms(tmp_path, 4)
    names = {folder: {p.name: p for p in (folder / "mr").glob("*.gz")} for folder in (first, later)}
    assert len(names[first]) == len(names[later]) == 4
    assert all(
        names[first][name].read_bytes() != names[later][name].read_bytes() for name in names[first]
    )


@pytest.mark.slow
def test_smoke(tmp_path, capsys):
    out = tmp_path / "runs"
    main(out=out, smoke=True)
    said = capsys.readouterr().out
    assert f"go on from {out / 'run_2'}" in said
    assert (out / "release_2" / "model" / "card.json").is_file()
    assert json.loads((out / "run_2" / "run.json").read_text())["records"] >= 8
    before = {path: path.stat().st_mtime_ns for path in out.glob("run_*/run.json")}
    third = medssl.phantom(out=tmp_path / "later", patients=4, seed=7).out / "archive"
    main(out=out, smoke=True, scans=[*phantoms(out, 4), third])
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (out / "run_3" / "run.json").is_file()
    with pytest.raises(UsageError, match="annealed"):
        medssl.pretrain(
            data=out / "catalog_3", out=tmp_path / "on", continue_from=out / "release_2", steps=40
        )
