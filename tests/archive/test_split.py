"""One patient, one split: whatever the records, fractions and duplicates."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.archive.identity import split_by_shares
from medssl.archive.split import Fractions, Member, join, leaks
from medssl.core.errors import ConfigError
from medssl.core.sample import Record

RECORD = Record(
    record_id="r",
    kind="volume",
    role="image",
    format="nifti",
    patient_id="p",
    study_id="s",
    series_id="e",
    shape=(1, 4, 4, 4),
    dtype="int16",
)
MEMBERS = st.lists(
    st.builds(
        Member,
        patient=st.sampled_from("abcdefgh"),
        hashes=st.lists(st.sampled_from("123456"), max_size=2).map(tuple),
        split=st.sampled_from(["train", "val", "test"]),
    ),
    max_size=30,
)


@given(MEMBERS)
def test_no_patient_and_no_picture_in_two_splits(members):
    splits = join(members)
    records = [
        replace(
            RECORD,
            patient_id=m.patient,
            pixel_hash=m.hashes[0] if m.hashes else None,
            objects_hash=m.hashes[-1] if m.hashes else "",
            split=splits[m.patient],
        )
        for m in members
    ]
    assert leaks(records) == set()


@given(MEMBERS)
def test_nobody_held_out_is_ever_learnt_from(members):
    order = ["train", "val", "test"]
    splits = join(members)
    assert all(order.index(splits[m.patient]) >= order.index(m.split) for m in members)


@given(MEMBERS)
def test_joining_again_changes_nothing(members):
    splits = join(members)
    assert join(m._replace(split=splits[m.patient]) for m in members) == splits


def test_a_leak_is_named():
    records = [RECORD, replace(RECORD, split="val")]
    assert leaks(records) == {"p"}
    copies = [
        replace(RECORD, pixel_hash="h"),
        replace(RECORD, patient_id="q", split="val", pixel_hash="h"),
    ]
    assert leaks(copies) == {"h"}


def test_equal_label_maps_join_nobody():
    labels = [replace(RECORD, role="label", patient_id=p, pixel_hash="h") for p in "ab"]
    assert leaks([labels[0], replace(labels[1], split="val")]) == set()


def test_shares_are_met_within_binomial_error():
    splits = [split_by_shares(f"patient {n}", (0.7, 0.2), 0) for n in range(5000)]
    for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        sigma = (share * (1 - share) / 5000) ** 0.5
        assert abs(splits.count(name) / 5000 - share) < 4 * sigma


def test_a_new_patient_moves_no_other():
    before = {n: split_by_shares(str(n), (0.9, 0.1), 0) for n in range(50)}
    assert all(split_by_shares(str(n), (0.9, 0.1), 0) == before[n] for n in range(50))
    assert any(split_by_shares(str(n), (0.9, 0.1), 1) != before[n] for n in range(50))


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1), (1.2, -0.2, 0.0)])
def test_shares_that_do_not_add_up_are_refused(shares):
    train, val, test = shares
    with pytest.raises(ConfigError):
        Fractions(train=train, val=val, test=test).check()
