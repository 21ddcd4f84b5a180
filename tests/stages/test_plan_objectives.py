"""What a plan makes of an objective that is asked for: recipe, encoder, crop, records to try."""

import pytest

from medssl.core.config import read_yaml
from medssl.core.registry import OBJECTIVES
from medssl.stages import _plan_rules as rules
from medssl.training.optim import OptimConfig
from tests.stages.test_plan import volumes

RATES = OptimConfig.model_fields.keys() - {"warmup"} | {"layer_decay", "ema_decay"}


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_no_rate_of_a_recipe_is_lost(name):
    known, _ = read_yaml("pretrain", name)
    chosen = rules.as_config(rules.recipe(volumes(), name))
    assert {key: known[key] for key in RATES & known.keys()}.items() <= chosen.items()
