"""Ensembles, views and soups: identical members change nothing, and what a mean may not be."""

import numpy as np
import pytest
import torch
from torch import nn

from medssl.core.errors import UsageError
from medssl.core.viewspec import ClipSpec
from medssl.evaluation.calibration import nll
from medssl.inference.ensemble import Ensemble, View
from medssl.inference.sliding import predict_scores
from medssl.inference.soup import greedy, mean_weights
from medssl.stages._predict_members import check_alike, is_sided, views_of
from medssl.stages.soup import _check
from tests.scans import threshold_card


def net(seed, out=3):
    torch.manual_seed(seed)
    return nn.Conv3d(1, out, 3, padding=1).eval()


def probabilities(model, x):
    with torch.inference_mode():
        return model(x).softmax(1)


X = torch.randn(2, 1, 6, 8, 10, generator=torch.Generator().manual_seed(0))


def test_identical_members_are_the_member():
    one = net(0)
    many = Ensemble([one] * 3, [1.0] * 3)
    torch.testing.assert_close(probabilities(many, X), probabilities(one, X))
    assert torch.equal(many(X).argmax(1), one(X).argmax(1))


def test_members_are_averaged_as_probabilities_at_their_temperatures():
    a, b = net(0), net(1)
    both = probabilities(Ensemble([a, b], [2.0, 0.5]), X)
    with torch.inference_mode():
        wanted = ((a(X) / 2).softmax(1) + (b(X) * 2).softmax(1)) / 2
    torch.testing.assert_close(both, wanted)


def test_the_nll_of_an_ensemble_is_at_most_the_mean_of_its_members():
    members = [net(k) for k in range(4)]
    label = torch.randint(0, 3, (X.shape[0], *X.shape[2:])).flatten().numpy()

    def cost(model):
        return nll(probabilities(model, X).movedim(1, -1).reshape(-1, 3).numpy(), label)

    assert cost(Ensemble(members, [1.0] * 4)) <= np.mean([cost(one) for one in members])


def test_mirrored_views_come_back_to_their_place():
    blind = nn.Conv3d(1, 3, 1).eval()  # sees no neighbours: a mirror image changes nothing
    views = [View(), View(flip=0), View(flip=1), View(flip=2)]
    torch.testing.assert_close(
        probabilities(Ensemble([blind], [1.0], views), X), probabilities(blind, X)
    )
    seeing = net(0)
    with torch.inference_mode():
        wanted = (seeing(X).softmax(1) + seeing(X.flip(4)).softmax(1).flip(4)) / 2
    torch.testing.assert_close(
        probabilities(Ensemble([seeing], [1.0], [View(), View(flip=2)]), X), wanted
    )


def test_classes_of_a_mirrored_view_are_not_turned():
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 3)).eval()
    mean = Ensemble([model], [1.0], [View(), View(flip=0)])
    torch.testing.assert_close(probabilities(mean, X), probabilities(model, X))


def test_a_contrast_keeps_the_mean_of_each_window():
    changed = View(contrast=1.15).of(X)
    torch.testing.assert_close(changed.mean((1, 2, 3, 4)), X.mean((1, 2, 3, 4)))
    torch.testing.assert_close(changed.std((1, 2, 3, 4)), 1.15 * X.std((1, 2, 3, 4)))


def test_chances_of_tools_are_averaged_one_by_one():
    a, b = (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval() for _ in range(2))
    x = torch.randn(5, 1, 2, 2)
    both = Ensemble([a, b], [1.0, 1.0], single=True)(x).sigmoid()
    torch.testing.assert_close(both, (a(x).sigmoid() + b(x).sigmoid()) / 2)


def test_an_ensemble_slides_over_a_volume_as_the_mean_of_its_members():
    def slide(model):
        return predict_scores(
            model, X[0].numpy(), patch_size=(4, 4, 4), overlap=0.5, batch_windows=4,
            device="cpu", fill=(0.0,),
        )  # fmt: skip

    a, b = net(0), net(1)
    mean = (slide(a) + slide(b)) / 2
    np.testing.assert_allclose(slide(Ensemble([a, b], [1.0, 1.0])), mean, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (("liver", "spleen"), False),
        (("Left kidney",), True),
        (("hippocampus_L",), True),
        (("lung-right",), True),
        (("clavicle", "rib"), False),
    ],
)
def test_labels_with_a_side_are_told_by_name(names, sided):
    assert is_sided(threshold_card(labels=dict(enumerate(("background", *names))))) == sided


def flips(card):
    return [view.flip for view in views_of([card]) if view.flip is not None]


def test_mirror_images_only_where_training_had_them_and_nothing_has_a_side():
    assert flips(threshold_card()) == []
    assert flips(threshold_card(mirrored=True)) == [0, 1, 2]
    assert flips(threshold_card(mirrored=True, patch_size=(64, 64))) == [0, 1]
    sided = {0: "background", 1: "left lung"}
    assert flips(threshold_card(mirrored=True, labels=sided)) == []
    clip = threshold_card(mirrored=True, clip=ClipSpec(), head="classification")
    assert flips(clip) == [1, 2]  # time is not mirrored


def test_models_that_take_or_give_something_else_do_not_predict_together():
    check_alike([threshold_card(), threshold_card(weights_sha256="1" * 64)])
    for change in ({"labels": {0: "background", 1: "other"}}, {"patch_size": (8, 8, 8)}):
        with pytest.raises(UsageError, match="differ in"):
            check_alike([threshold_card(), threshold_card(**change)])


# Soups ------------------------------------------------------------------------------------------


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_soup_of_equal_weights_is_the_same():
    own = weights(nn.Sequential(net(0), nn.BatchNorm3d(3)))
    mixed = mean_weights([own] * 3)
    assert all(torch.equal(mixed[name], own[name]) for name in own)
    assert mixed["1.num_batches_tracked"].dtype == torch.int64


def test_a_soup_of_linear_models_predicts_their_mean():
    a, b = net(0), net(1)
    mixed = net(2)
    mixed.load_state_dict(mean_weights([weights(a), weights(b)]))
    with torch.inference_mode():
        torch.testing.assert_close(mixed(X), (a(X) + b(X)) / 2)


def test_other_weights_cannot_be_mixed():
    with pytest.raises(UsageError, match="other weights"):
        mean_weights([weights(net(0)), weights(net(0, out=2))])


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_never_below_the_best_member(seed):
    rng = np.random.default_rng(seed)
    members = [{"w": torch.tensor(x)} for x in rng.normal(0, 1, 6)]

    def score(mixed):
        return -abs(float(mixed["w"]))

    scores = [score(one) for one in members]
    kept, best = greedy(members, scores, score)
    assert best >= max(scores)
    assert kept[0] == int(np.argmax(scores))
    assert best == pytest.approx(score(mean_weights([members[k] for k in kept])))


def test_what_would_harm_is_left_out():
    members = [{"w": torch.tensor(x)} for x in (0.1, -0.1, 50.0)]
    kept, best = greedy(members, [-0.1, -0.1, -50.0], lambda mixed: -abs(float(mixed["w"])))
    assert sorted(kept) == [0, 1]
    assert best == pytest.approx(0)


def origin(init="a" * 64, cases="c"):
    return threshold_card(provenance={"init_weights_sha256": init, "cases_digest": cases})


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ((origin(), origin(init="b" * 64)), "did not begin"),
        ((origin(init=""), origin(init="")), "did not begin"),
        ((origin(), origin(cases="d")), "different cases"),
    ],
)
def test_models_that_did_not_begin_alike_make_no_soup(cards, why):
    with pytest.raises(UsageError, match=why):
        _check(cards)
    _check((origin(), origin()))
