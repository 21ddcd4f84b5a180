"""Config: frozen, strict, and its errors name the mistake."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from medssl.core.config import Component, Config, Versioned, load_config, parse_overrides
from medssl.core.errors import ConfigError


class Inner(Config):
    mask_ratio: float = 0.75


class Outer(Config):
    steps: int = 100
    learning_rate: float = 1e-3
    inner: Inner = Inner()
    part: Component = Component(name="mae")


def load(path=None, **overrides):
    return load_config(Outer, "pretrain", path, overrides)


def test_a_misspelt_key_names_the_nearest_right_one():
    with pytest.raises(ConfigError) as caught:
        load(learningrate=0.1)
    assert "learningrate" in caught.value.what
    assert caught.value.fix == "did you mean 'learning_rate'?"


def test_a_misspelt_key_of_a_nested_config_is_found_too():
    with pytest.raises(ConfigError, match="did you mean 'mask_ratio'"):
        load(**{"inner.mask_rato": 0.6})


def test_a_misspelt_key_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("stepz: 3\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.where == str(file)
    assert str(tmp_path) not in caught.value.what + caught.value.fix


def test_overrides_come_before_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 3\ninner: {mask_ratio: 0.5}\n")
    config = load(file, **{"inner.mask_ratio": 0.6})
    assert (config.steps, config.inner.mask_ratio) == (3, 0.6)


def test_a_component_is_a_name_or_a_mapping():
    assert load(part="dino").part == Component(name="dino")
    assert load(part={"name": "mae", "width": 8}).part.options == {"width": 8}
    assert load(**{"part": "mae", "part.width": 8}).part.options == {"width": 8}


def test_naming_the_same_component_again_keeps_the_files_options(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("part: {name: mae, width: 8}\n")
    assert load(file, part="mae").part.options == {"width": 8}
    assert load(file, part="dino").part.options == {}


def test_options_given_before_the_name_are_kept():
    # The command line hands over its words first, its options second.
    part = load(**{"part.width": 8, "part": "dino"}).part
    assert (part.name, part.options) == ("dino", {"width": 8})


def test_a_config_does_not_change_after_loading():
    with pytest.raises(ValidationError):
        load().steps = 5


@pytest.mark.parametrize("steps", ["many", 1.5, None, [1]])
def test_a_value_of_the_wrong_kind_is_an_error(steps):
    with pytest.raises(ConfigError, match="'steps'"):
        load(steps=steps)


def test_words_become_yaml_values():
    words = ["steps=400", "lr=1e-3", "spacing_mm=[1, 1, 1]", "name=a=b", "on=true", "none=null"]
    assert parse_overrides(words) == {
        "steps": 400,
        "lr": "1e-3",  # YAML 1.1 wants 1.0e-3; pydantic turns the text into a float
        "spacing_mm": [1, 1, 1],
        "name": "a=b",
        "on": True,
        "none": None,
    }
    assert load(learning_rate="1e-3").learning_rate == 1e-3


@pytest.mark.parametrize("word", ["steps", "=4", "x=[1,"])
def test_words_that_are_no_override_are_errors(word):
    with pytest.raises(ConfigError):
        parse_overrides([word])


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "\x00"])
def test_files_that_hold_no_mapping_are_errors(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file)


def test_a_missing_file_or_name_is_an_error():
    with pytest.raises(ConfigError, match="does not exist"):
        load(Path("no/such/file.yaml"))
    with pytest.raises(ConfigError, match="unknown pretrain config 'nosuch'"):
        load("nosuch")


def test_yaml_cannot_build_python_objects(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError):
        load(file)


def test_a_versioned_config_comes_back_from_its_json():
    class Contract(Versioned):
        spacing_mm: tuple[float, ...] = (1.0, 2.0)

    first = Contract(spacing_mm=(0.1, 3.0))
    again = Contract.from_json(first.model_dump_json(), where="card")
    assert again == first
    assert again.digest == first.digest != Contract().digest
