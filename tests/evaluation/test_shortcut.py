"""Reading free labels out of an embedding, and the warning that it knows the scanner first."""

import numpy as np
import pytest

from medssl.evaluation.shortcut import Readout, read_out, read_outs, shortcut


def cohort(records=120, width=8, seed=0):
    """Noise, and two labels of which each record has one at random."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(records, width))
    return z, rng.integers(2, size=records), rng.integers(2, size=records), np.arange(records)


def named(values_N, *names):
    return [names[k] for k in values_N]


def test_a_label_that_is_in_the_features_is_read_out_and_noise_is_not():
    z, site, part, patients = cohort()
    z[:, 0] += 6 * site
    found = read_outs(
        z, {"site_id": named(site, "a", "b"), "body_part": named(part, "HEAD", "CHEST")}, patients
    )
    assert found["site_id"].excess > 0.8
    assert abs(found["body_part"].excess) < 3 * found["body_part"].error
    assert shortcut(found).startswith("the embedding tells site_id")


def test_anatomy_beside_the_scanner_is_no_shortcut():
    z, site, part, patients = cohort()
    z[:, 0] += 2 * site
    z[:, 1:4] += 6 * part[:, None]
    found = read_outs(
        z, {"site_id": named(site, "a", "b"), "body_part": named(part, "HEAD", "CHEST")}, patients
    )
    assert found["body_part"].excess > found["site_id"].excess
    assert shortcut(found) == ""


def test_the_records_of_a_patient_do_not_give_the_site_away():
    # Records of one patient are alike and of one site; sites say nothing of the features.
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 4)
    z = np.repeat(rng.normal(size=(40, 8)), 4, axis=0) + 0.01 * rng.normal(size=(160, 8))
    site = named(np.repeat(rng.integers(2, size=40), 4), "a", "b")
    found = read_out(z, site, patients)
    assert abs(found.excess) < 3 * found.error
    assert read_out(z, site, np.arange(160)).excess > 0.9  # what it would look like


def test_chance_is_0_however_rare_a_value_is():
    rng = np.random.default_rng(1)
    values = ["rare"] * 12 + ["common"] * 188
    excess = [read_out(rng.normal(size=(200, 8)), values, np.arange(200)).excess for _ in range(20)]
    assert abs(np.mean(excess)) < 0.1


@pytest.mark.parametrize("values", [["a"] * 20, [""] * 20, ["a"] * 18 + ["b"] * 2])
def test_what_cannot_be_told_apart_is_no_label(values):
    assert read_out(np.random.default_rng(0).normal(size=(20, 4)), values, np.arange(20)) is None


def test_two_patients_with_many_records_are_two_patients():
    z, values = np.random.default_rng(0).normal(size=(40, 4)), ["a"] * 20 + ["b"] * 20
    assert read_out(z, values, np.repeat([0, 1, 2, 3], 10)) is None


def test_an_unknown_value_does_not_count():
    z, site, _, patients = cohort()
    values = named(site, "a", "b")
    values[:100] = [""] * 100
    assert read_out(z, values, patients).n == 20


def test_an_excess_that_may_be_accident_is_no_warning():
    part = Readout(0.0, 0.1, 2, 40)
    assert shortcut({"vendor": Readout(0.3, 0.2, 2, 10), "view": part}) == ""
    assert shortcut({"vendor": Readout(0.05, 0.01, 2, 900), "view": part}) == ""
    assert shortcut({"vendor": Readout(0.3, 0.1, 2, 40), "view": part})
    assert shortcut({"vendor": Readout(0.9, 0.01, 2, 900)}) == ""  # nothing to compare with


@pytest.mark.parametrize(("part_signal", "warned"), [(2.0, range(5)), (0.0, range(30, 41))])
def test_a_site_that_is_told_no_better_than_anatomy_is_rarely_called_a_shortcut(
    part_signal, warned
):
    # 40 cohorts of 60 patients: site and anatomy equally plain, or the site alone.
    calls = 0
    for seed in range(40):
        z, site, part, patients = cohort(60, 2, seed)
        z += np.stack([2 * site, part_signal * part], axis=1)
        labels = {"site_id": named(site, "a", "b"), "body_part": named(part, "HEAD", "CHEST")}
        calls += bool(shortcut(read_outs(z, labels, patients)))
    assert calls in warned


def test_a_lead_within_its_error_is_no_warning():
    found = {"site_id": Readout(0.8, 0.1, 2, 40), "body_part": Readout(0.5, 0.12, 2, 40)}
    assert shortcut(found) == ""  # 0.3 of 2 x 0.156
    assert shortcut({**found, "body_part": Readout(0.5, 0.1, 2, 40)})  # 0.3 of 2 x 0.141


def test_features_that_are_all_the_same_read_nothing_out():
    found = read_out(np.ones((20, 4)), ["a"] * 10 + ["b"] * 10, np.arange(20))
    assert found.excess == 0
