"""Every shipped YAML file loads against its stage's config and stays small."""

import pytest

from medssl.core.config import config_root, load_config
from medssl.stages import config_class

FILES = sorted(config_root().glob("*/*.yaml"))
# What a user gives on the command line and a shipped file therefore leaves out.
GIVEN = {
    "index": {"archive": "a", "out": "o"},
    "pretrain": {"data": "d", "out": "o"},
    "finetune": {"data": "d", "out": "o", "task": "segmentation"},
    "predict": {"input": "i", "out": "o", "checkpoint": "c"},
    "evaluate": {"pred": "p", "ref": "r", "out": "o", "task": "segmentation"},
    "demo": {"out": "o"},
    "phantom": {"out": "o"},
}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_shipped_configs_load(file):
    stage = file.parent.name
    load_config(config_class(stage), stage, file.stem, GIVEN[stage])


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_shipped_configs_have_at_most_40_lines(file):
    assert len(file.read_text().splitlines()) <= 40
