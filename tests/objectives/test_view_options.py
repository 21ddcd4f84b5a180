"""Options of views as a user changes them."""

import pytest
from pydantic import ValidationError

from medssl.core.viewspec import Intensity
from medssl.objectives._parts.views import GENTLE, ViewOptions


def test_one_option_changed_leaves_the_others_as_they_are():
    options = ViewOptions.model_validate({"spatial": {"rotate_deg": 5}, "intensity": {"noise": 0}})
    assert options.spatial == ViewOptions().spatial.model_copy(update={"rotate_deg": 5.0})
    assert options.intensity == GENTLE.model_copy(update={"noise": 0.0})


def test_a_whole_set_of_options_is_taken_as_it_is():
    assert ViewOptions(intensity=Intensity()).intensity == Intensity()


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError):
        ViewOptions.model_validate({"spatial": {"rotation": 5}})
