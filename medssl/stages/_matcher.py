"""Which matcher finds the partners of other patients."""

from __future__ import annotations

from medssl.core.errors import ConfigError
from medssl.core.viewspec import ViewSpec
from medssl.stages._sources import StoredRecords
from medssl.views.matching import BodyMatcher
from medssl.views.pairs import Matcher


def matcher_of(spec: ViewSpec, records: StoredRecords) -> Matcher | None:
    """The matcher that a spec asks for; ``None`` where it needs none.

    Raises:
        ConfigError: the embedding cannot be used.
    """
    if spec.partner is None or spec.partner.kind != "anatomy":
        return None
    if spec.partner.embedding is not None:
        what = "partners by embedding are not there yet"
        raise ConfigError(what, fix="leave partner.embedding out: body coordinates")
    return BodyMatcher(spec, records)
