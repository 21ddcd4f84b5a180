"""What a plan makes of an objective that is asked for: recipe, encoder, crop, records to try."""

import pytest

from medssl.core.config import read_yaml
from medssl.core.registry import OBJECTIVES
from medssl.stages import _plan_rules as rules
from medssl.training.optim import OptimConfig
from tests.stages.test_plan import LAPTOP, catalog, planned, volumes  # noqa: F401 - a fixture

RATES = OptimConfig.model_fields.keys() - {"warmup"} | {"layer_decay", "ema_decay"}


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_no_rate_of_a_recipe_is_lost(name):
    known, _ = read_yaml("pretrain", name)
    chosen = rules.as_config(rules.recipe(volumes(), name))
    assert {key: known[key] for key in RATES & known.keys()}.items() <= chosen.items()


def test_volumes_get_an_image_encoder_for_an_objective_of_slices(catalog, tmp_path):  # noqa: F811
    options = planned(catalog, tmp_path / "p.yaml", objective="image_volume").result["options"]
    assert (options["encoder"], len(options["crop"])) == ("timm/resnet18", 2)
    assert rules.encoder(volumes(), LAPTOP, "mae").value == "resenc-xs"
