"""Other runs and files of weights that a run learnt from: named in its options, never by path."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from medssl.core.config import Component
from medssl.core.errors import ConfigError, UsageError
from medssl.core.registry import ENCODERS, OBJECTIVES
from medssl.encoders.card import load_card
from medssl.stages import pretrain
from medssl.stages._shown import HIDDEN, parts_shown, refuse_hidden, shown, with_defaults
from medssl.stages.pretrain import PretrainConfig
from tests.objectives.teachers import teacher_run
from tests.planted import unpacked
from tests.training_archive import write_images

# Tables that hold paths by law 4; their owner alone may read them.
OWNERS = {"paths.parquet", "sources.parquet", "headers.parquet", "headers.bin"}
SECRET = "DOE_JANE"
CASES = {
    "alice": {"embedding": f"/archive/{SECRET}/run", "tries": 2},
    "self_distill": {"teacher": Path(f"/archive/{SECRET}")},
    "supervoxel": {"teacher": f"runs/{SECRET}", "segments": 20},
    "supervoxel of a library": {
        "teacher": {"name": "timm/test_vit", "weights": f"{SECRET}.safetensors", "mean": [0.0]}
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_no_path_is_shown_and_all_else_is(case):
    name = case.split()[0]
    given = Component(name=name, **CASES[case])
    told = shown(given, OBJECTIVES)
    assert SECRET not in str(told) + str(with_defaults(given, OBJECTIVES))
    assert told.options.keys() == given.options.keys()
    assert HIDDEN in str(told)
    kept = {k: v for k, v in CASES[case].items() if k in ("tries", "segments")}
    assert kept.items() <= told.options.items()


@pytest.mark.parametrize(
    ("name", "options", "secret"),
    [
        ("timm/test_vit", {"weights": "timm"}, False),
        ("smp/resnet18", {"weights": "imagenet"}, False),
        ("timm/test_vit", {"weights": f"{SECRET}.pth"}, True),
        ("timm/test_vit", {"weights": f"/archive/{SECRET}"}, True),
    ],
)
def test_words_for_public_weights_are_no_paths(name, options, secret):
    told = shown(Component(name=name, **options), ENCODERS)
    assert told.options == ({"weights": HIDDEN} if secret else options)


def test_a_run_that_is_called_like_a_network_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm" / SECRET).mkdir(parents=True)
    given = Component(name="supervoxel", teacher=f"timm/{SECRET}")
    assert SECRET not in str(shown(given, OBJECTIVES))


def test_a_wrong_option_is_an_error_for_users():
    with pytest.raises(ConfigError, match="teacher"):
        parts_shown({"objective": Component(name="supervoxel", teacher=7)})


@pytest.mark.parametrize("key", ["teacher", "embedding"])
def test_a_run_that_needs_another_one_says_so_when_gone_on_from(key):
    value = {"name": HIDDEN} if key == "teacher" else HIDDEN
    with pytest.raises(UsageError, match=f"objective.{key}") as error:
        refuse_hidden({"name": "alice", "tries": 3, key: value})
    assert error.value.fix == f"objective=alice objective.{key}=RUN"
    refuse_hidden({"name": "alice", "tries": 3, key: None})


def weights_file(folder):
    file = folder / f"{SECRET}.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), file)
    return str(file)


def told(run, word):
    """Files of a run with this word in them, beside those that may name files."""
    files = [file for file in run.rglob("*") if file.is_file() and file.name not in OWNERS]
    assert {"config.yaml", "resolved.yaml", "run.json", "card.json"} <= {f.name for f in files}
    assert any(file.suffix == ".pt" for file in files)
    return [file.name for file in files if word.encode() in unpacked(file)]


def run_of(tmp_path, **options):
    common = {"batch_size": 2, "steps": 1, "accelerator": "cpu", "quiet": True, "health": False}
    archive = write_images(tmp_path / "archive")
    config = PretrainConfig(data=archive, out=tmp_path / "run", **{**common, **options})
    return pretrain.run(config).out


def test_a_run_with_a_teacher_is_gone_on_from_with_it_and_does_not_tell_where_it_lies(tmp_path):
    teacher = tmp_path / SECRET
    teacher.symlink_to(teacher_run())
    objective = {"name": "supervoxel", "teacher": str(teacher), "segments": 8}
    infinite = {"schedule": "infinite", "warmup": 0, "cooldown": 0}
    common = {"encoder": "resenc-xs", "crop": (16, 32, 16), **infinite}
    first = run_of(tmp_path, objective=objective, **common)
    assert told(first, SECRET) == []
    with pytest.raises(UsageError, match="needed again: its path is not kept"):
        run_of(tmp_path / "without", continue_from=first, steps=2)
    on = run_of(tmp_path / "with", continue_from=first, steps=2, objective=objective)
    assert told(on, SECRET) == []


def test_a_run_from_a_file_of_weights_does_not_tell_where_it_lies(tmp_path):
    encoder = {"name": "timm/test_vit", "weights": weights_file(tmp_path)}
    encoder |= {"patch_size": 16, "mean": (0.0,), "std": (1.0,)}
    run = run_of(tmp_path, objective="mae", encoder=encoder, crop=(32, 16))
    assert told(run, SECRET) == []
    card, weights = load_card(run)
    assert card.provenance["public_weights"] == "a file"
    assert all(torch.isfinite(x).all() for x in weights.values())
