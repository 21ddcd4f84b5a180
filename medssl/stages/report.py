"""``medssl report``: one page on a run, whole in one file, that works without a network.

What was trained on what, the verdict on its health, curves, what it draws of hidden parts, a map
of embeddings, results with intervals, predicted scans to leaf through, what was left out, the
model's card and hashes. Nothing of it names a file or a patient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from medssl.archive.catalog import Catalog, is_catalog
from medssl.core.config import Config
from medssl.core.errors import MedsslError
from medssl.core.runlog import Run, write_text
from medssl.pages.page import Picture
from medssl.pages.viewer import Stack
from medssl.stages import _report_scans as scans
from medssl.stages._doctor_facts import counts_of
from medssl.stages._report_drawn import drawings
from medssl.stages._report_facts import Facts, dice_of, facts_of
from medssl.stages._report_map import Map, map_of
from medssl.stages._report_page import Shown, as_page

PAGE = "report.html"


class ReportConfig(Config):
    """Options of ``medssl report``."""

    run: Path
    """Folder of pretrain or finetune; a run that is not finished is shown as far as it is."""
    out: Path
    """Folder for ``report.html``."""
    data: Path | None = None
    """Catalog or folder of scans to show what a masked objective draws. Their pixels are then on
    the page."""
    pred: Path | None = None
    """Folder that predict wrote. Slices of the scans are then on the page."""
    metrics: tuple[Path, ...] = ()
    """Files that evaluate wrote."""
    embedding: Path | None = None
    """File that embed wrote."""
    cases: int = Field(default=6, ge=1)
    """Records and scans to show."""
    overwrite: bool = False
    quiet: bool = False


def run(config: ReportConfig) -> Run:
    """Write the page.

    Raises:
        UsageError: ``run`` is no run of pretrain or finetune, or another file is not what it
            should be.
    """
    facts = facts_of(config.run, list(config.metrics))
    finished = Run.open("report", config.out, overwrite=config.overwrite)
    finished.save_config(config, {})
    drawn, why = _drawn(config, facts)
    stacks, ribbons = _predicted(config, facts)
    found = _map(config)
    shown = Shown(
        drawn=drawn,
        not_drawn=why,
        stacks=stacks,
        ribbons=ribbons,
        map=found,
        archive=_archive(config),
    )
    write_text(config.out / PAGE, as_page(facts, shown))
    return finished.finish(outputs=[PAGE])


def _drawn(config: ReportConfig, facts: Facts) -> tuple[list[Picture], str]:
    if config.data is None or facts.stage != "pretrain" or facts.card is None:
        return [], ""
    with tempfile.TemporaryDirectory(prefix="medssl-report-") as private:
        try:
            pictures = drawings(config.run, facts.card, config.data, config.cases, Path(private))
        except MedsslError as error:
            return [], error.what
    return pictures, ""


def _predicted(config: ReportConfig, facts: Facts) -> tuple[list[Stack], list[Picture]]:
    if config.pred is None:
        return [], []
    cases = scans.spread(scans.predicted(config.pred, dice_of(facts)), config.cases)
    numbered = list(enumerate(cases, start=1))
    stacks = [scans.stack_of(case, k) for k, case in numbered]
    ribbons = [scans.ribbon_of(case, k) for k, case in numbered]
    return [one for one in stacks if one], [one for one in ribbons if one]


def _archive(config: ReportConfig) -> Mapping[str, Mapping[str, int]]:
    if config.data is None or not is_catalog(config.data):
        return {}
    return counts_of(Catalog.open(config.data).records())


def _map(config: ReportConfig) -> Map | None:
    return None if config.embedding is None else map_of(config.embedding)
