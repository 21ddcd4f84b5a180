"""A whole sample, its partner's views included."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.core.viewspec import ViewSpec
from medssl.views.build import build_views
from medssl.views.pairs import Matcher, Sources, draw_pair


def build_sample(
    spec: ViewSpec,
    rng: np.random.Generator,
    sources: Sources,
    record: int,
    matcher: Matcher | None = None,
) -> dict[str, Any]:
    """The sample of a record as :mod:`medssl.core.viewspec` lays it out.

    Args:
        spec: what is asked for.
        rng: gives the same sample for the same state.
        sources: the records of the run.
        record: number of one of them.
        matcher: for partners of kind ``anatomy``.
    """
    source = sources.source(record)
    sample = {
        "record": record,
        "patient": int(sources.patients[record]),
        "spacing_mm": np.array(source.spacing_mm, dtype=np.float32),
    }
    if spec.partner is None:
        return {"views": build_views(spec, rng, source), **sample}
    pair = draw_pair(spec, rng, sources, record, matcher)
    views = build_views(spec, rng, source, pair.here)
    views += build_views(spec, rng, sources.source(pair.record), pair.there)
    partner = {
        "record": pair.record,
        "patient": int(sources.patients[pair.record]),
        "score": pair.score,
        "kept": pair.kept,
    }
    return {"views": views, **sample, "partner": partner}
