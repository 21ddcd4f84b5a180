"""Which matcher finds the partners of other patients."""

from __future__ import annotations

from lightning.fabric import Fabric

from medssl.core.viewspec import ViewSpec
from medssl.stages._anatomy import embeddings_of
from medssl.stages._sources import StoredRecords
from medssl.views.embedding import EmbeddingMatcher
from medssl.views.matching import BodyMatcher
from medssl.views.pairs import Matcher


def matcher_of(spec: ViewSpec, records: StoredRecords, fabric: Fabric) -> Matcher | None:
    """The matcher that a spec asks for; ``None`` where it needs none.

    Raises:
        ConfigError: the embedding does not fit the records.
        UsageError: the run of the embedding holds none.
    """
    if spec.partner is None or spec.partner.kind != "anatomy":
        return None
    if spec.partner.embedding is not None:
        return EmbeddingMatcher(embeddings_of(spec.partner.embedding, records, fabric))
    return BodyMatcher(spec, records)
