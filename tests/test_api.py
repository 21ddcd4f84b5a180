"""The Python surface has the names and keywords of the command line."""

import inspect
from pathlib import Path

import pytest

import medssl
from medssl import stages
from medssl.cli.main import app
from medssl.core.errors import ConfigError

STAGES = [
    "index",
    "plan",
    "pretrain",
    "finetune",
    "predict",
    "soup",
    "deidentify",
    "evaluate",
    "compare",
    "embed",
    "report",
    "phantom",
    "demo",
]


@pytest.mark.parametrize("stage", STAGES)
def test_every_keyword_is_a_key_of_the_stages_config(stage):
    known = stages.config_class(stage).model_fields.keys()
    named = inspect.signature(getattr(medssl, stage)).parameters.keys() - {"config", "more"}
    assert named <= known


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_a_key_of_the_stages_config(stage):
    command = next(c.callback for c in app.registered_commands if c.name == stage)
    options = inspect.signature(command).parameters.keys()
    known = stages.config_class(stage).model_fields.keys()
    assert options - {"words", "config", "debug", "quiet"} <= known


def test_a_misspelt_keyword_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        medssl.demo(out=Path("o"), sead=1)
