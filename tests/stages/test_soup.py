"""soup: from two fine-tunings of one start to one model, judged on their validation cases."""

import pytest
import torch

from medssl.core.errors import UsageError
from medssl.encoders.card import load_card
from medssl.stages import finetune, predict, pretrain, soup
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.predict import PredictConfig
from medssl.stages.pretrain import PretrainConfig
from medssl.stages.soup import SoupConfig
from tests.training_archive import write_images, write_labelled

OPTIONS = {"crop": (16, 32, 16), "batch_size": 2, "accelerator": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A start, and two fine-tunings from it."""
    folder = tmp_path_factory.mktemp("soup")
    data = write_labelled(folder / "data", 12)
    archive = write_images(folder / "archive", 3)
    splits = ("train", "val")
    pretrain.run(
        PretrainConfig(data=archive, out=folder / "pre", splits=splits, steps=2, **OPTIONS)
    )
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        finetune.run(
            FinetuneConfig(
                data=data, out=folder / name, init=folder / "pre", steps=4, lr=lr, **OPTIONS
            )
        )
    return folder


def mixed(runs, out, **more):
    given = {"data": runs / "data", "checkpoint": (runs / "a", runs / "b"), "device": "cpu"}
    return soup.run(SoupConfig(**{**given, **more}, out=out))


@pytest.mark.slow
def test_a_uniform_soup_is_the_mean_and_predict_takes_it(runs, tmp_path):
    finished = mixed(runs, tmp_path / "soup", how="uniform")
    a, b, both = (load_card(path)[1] for path in (runs / "a", runs / "b", tmp_path / "soup"))
    name = next(name for name, tensor in a.items() if not torch.equal(tensor, b[name]))
    torch.testing.assert_close(both[name], (a[name] + b[name]) / 2)
    assert finished.result["kept"] == [0, 1]
    assert load_card(tmp_path / "soup")[0].calibration is not None
    predicted = predict.run(
        PredictConfig(
            input=runs / "archive", out=tmp_path / "out", device="cpu", views=True,
            checkpoint=(tmp_path / "soup", runs / "a"),
        )
    )  # fmt: skip
    assert predicted.result["predicted"] == 3
    assert predicted.result["refer"]["below"] is not None
    assert str(runs) not in (tmp_path / "out" / "resolved.yaml").read_text()


@pytest.mark.slow
def test_a_greedy_soup_is_no_worse_than_its_best_member_on_validation(runs, tmp_path):
    result = mixed(runs, tmp_path / "soup").result
    assert result["score"] >= max(result["scores"])


@pytest.mark.slow
def test_other_data_are_refused(runs, tmp_path):
    other = write_labelled(tmp_path / "data", 14)
    with pytest.raises(UsageError, match="not the cases"):
        mixed(runs, tmp_path / "soup", data=other)
