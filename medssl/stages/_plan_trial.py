"""A plan tried out: a few records prepared, and a few steps of the real ``pretrain`` on them.

The trial is a process of its own, so that its memory is its own and running out of it costs the
trial alone. It works on links to the catalog's files: nothing of the catalog is changed.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.archive.catalog import Catalog
from medssl.archive.store import Store
from medssl.core.config import dump_yaml
from medssl.core.errors import MedsslError, NothingUsableError, ReadError, ResourceError
from medssl.core.preprocess import Contract
from medssl.core.runlog import write_text
from medssl.core.sample import Record
from medssl.core.viewspec import PartnerKind, PartnerSpec, ViewSpec
from medssl.stages import _train
from medssl.stages._plan_facts import prepared_grid
from medssl.stages._records import Preparation
from medssl.stages.pretrain import PretrainConfig
from medssl.training.checkpoint import KEPT, checkpoints

# Records prepared, clips as volumes: enough for a mean of their compression and reading time.
VOLUMES, PICTURES = 4, 16
# Steps of a trial that warm up, and that are timed.
WARM_STEPS, TIMED_STEPS = 2, 4
# A trial that takes longer is stopped; the steps it has done count.
LIMIT_S = 600.0
_OUT_OF_MEMORY = {ResourceError.exit_code, -signal.SIGKILL, 128 + signal.SIGKILL}


@dataclass(frozen=True)
class Prepared:
    """Records in a temporary store.

    Attributes:
        values: stored numbers.
        bytes: on the disk.
        s: to read, prepare and write, in one process.
    """

    ids: list[str]
    values: int
    bytes: int
    s: float


@dataclass(frozen=True)
class Trial:
    """What a few steps took.

    Attributes:
        memory_bytes: peak of the GPU's memory, or of the process's resident memory without one.
        step_s: per step, making views included.
        check_s: a checkpoint and the health monitor.
        run_bytes: what a run keeps beside the store.
        embeddings_bytes, embeddings_s: of those that it made of the records, if it needs some.
        steps: timed ones.
    """

    memory_bytes: int
    step_s: float
    check_s: float
    run_bytes: int
    embeddings_bytes: int
    embeddings_s: float
    steps: int


def fill(
    catalog: Catalog, records: Sequence[Record], config: PretrainConfig, views: ViewSpec
) -> Prepared:
    """Prepare some records of all sizes into the config's store, partners among them.

    Raises:
        NothingUsableError: none of them can be read.
    """
    assert config.store is not None
    contract = _train.contract_of(config, config.channels, config.fps)
    store = Store(config.store, contract)
    prepare_one = Preparation(catalog.folder, store)
    ids, values, start_s = [], 0, time.perf_counter()
    chosen = to_try(records, contract, views.partner)
    for record in chosen:
        try:
            prepare_one(record)
        except ReadError:
            continue
        ids.append(record.record_id)
        values += prepared_grid(record, contract).values
    if not ids:
        what = f"none of the {len(chosen)} records tried can be read"
        raise NothingUsableError(what, fix="medssl index ARCHIVE -o CATALOG pixels=true says why")
    passed_s = time.perf_counter() - start_s
    size = sum(file.stat().st_size for file in store.folder.rglob("*.b2nd"))
    return Prepared(ids, values, size, passed_s)


def try_out(catalog: Catalog, config: PretrainConfig, ids: Sequence[str]) -> Trial | None:
    """Some steps on the prepared records; ``None`` = they do not fit in memory.

    Raises:
        MedsslError: the steps failed otherwise.
    """
    folder = config.out
    folder.mkdir()
    for file in _embeddings(config):  # made anew: their memory and time are the run's
        file.unlink()
    linked = _linked(catalog, folder / "catalog")
    workers = config.workers or 0
    values = {
        **config.model_dump(mode="json", exclude_unset=True, exclude={"data", "out", "store"}),
        "where": f"record_id IN ({', '.join(repr(one) for one in ids)})",
        # Loader processes fill their queues first: steps count once each has given some.
        "steps": WARM_STEPS + TIMED_STEPS * max(workers, 1),
        "log_every": 1,
        "quiet": True,
    }
    write_text(folder / "trial.yaml", dump_yaml(values))
    where = ["--data", str(linked), "--out", str(folder / "run"), f"store={config.store}"]
    command = [sys.executable, "-W", "ignore", "-m", "medssl", "pretrain", *where]
    try:
        done = subprocess.run(
            [*command, "--config", str(folder / "trial.yaml")],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _read(folder / "run", config, workers)
    if done.returncode in _OUT_OF_MEMORY:
        return None
    if done.returncode not in (0, 4):
        what = f"a trial of the plan failed with exit code {done.returncode}"
        fix = "measure=false plans without one; or report this message"
        raise MedsslError(what, where=done.stderr.strip(), fix=fix)
    return _read(folder / "run", config, workers)


def _read(run: Path, config: PretrainConfig, workers: int) -> Trial:
    """The figures of a finished trial, or of one that was stopped."""
    path = run / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
    steps = [line for line in lines if "samples_per_s" in line]
    # The first line has no rate; of the others, the first still warms up.
    timed = [
        config.batch_size / line["samples_per_s"] for line in steps[WARM_STEPS - 1 + workers :]
    ]
    if not timed:
        what = f"{WARM_STEPS + 1} steps took more than {LIMIT_S:.0f} s on this machine"
        raise ResourceError(what, fix="measure=false plans without a trial")
    report = run / "run.json"
    finished = report.is_file()
    last = json.loads(report.read_text(encoding="utf-8")) if finished else steps[-1]
    kept = checkpoints(run / "checkpoints")
    made = [file.stat() for file in _embeddings(config)]
    ready_s = (run / "resolved.yaml").stat().st_mtime  # written right before they are made
    return Trial(
        memory_bytes=round(1e6 * last["peak_memory_mb"]),
        step_s=sum(timed) / len(timed),
        check_s=lines[-1]["time_s"] - steps[-1]["time_s"] if finished else 0.0,
        run_bytes=(KEPT + 1) * kept[0].stat().st_size if kept else 0,
        embeddings_bytes=sum(one.st_size for one in made),
        embeddings_s=max((one.st_mtime - ready_s for one in made), default=0.0),
        steps=len(timed),
    )


def _embeddings(config: PretrainConfig) -> list[Path]:
    """Files beside the stored records, which find their partners."""
    assert config.store is not None
    return list(config.store.rglob("*.npy"))


def to_try(
    records: Sequence[Record], contract: Contract, partner: PartnerSpec | None
) -> list[Record]:
    """A few records, evenly spread over the sizes of all.

    Whole patients or studies where partners are of one; one of each patient where they are of two.
    """
    count = PICTURES if records[0].kind == "image" else VOLUMES
    kind = partner.kind if partner else None
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for one in records:
        groups[_group(one, kind)].append(one)
    if kind == "anatomy":
        return _spread([[group[0]] for group in groups.values()], contract, count)
    with_partners = [group[:count] for group in groups.values() if len(group) > 1]
    return _spread(with_partners or [[one] for one in records], contract, count)


def _group(record: Record, kind: PartnerKind | None) -> tuple[str, ...]:
    """What partners have in common; for other kinds of partners, or none, a record stands alone."""
    if kind == "anatomy":
        return (record.patient_id,)
    if kind == "patient":
        return record.patient_id, str(record.kind == "image")
    return (record.patient_id, record.study_id) if kind == "study" else (record.record_id,)


def _spread(groups: list[list[Record]], contract: Contract, count: int) -> list[Record]:
    """Whole groups of all sizes, with about ``count`` records in all."""

    def values(group: list[Record]) -> int:
        return sum(prepared_grid(one, contract).values for one in group)

    ordered = sorted(groups, key=values)
    n = min(max(count // statistics.median_low(map(len, ordered)), 1), len(ordered))
    chosen = (ordered[(2 * place + 1) * len(ordered) // (2 * n)] for place in range(n))
    return [one for group in chosen for one in group]


def _linked(catalog: Catalog, folder: Path) -> Path:
    """A catalog of links: what a run notes replaces the links, not the files."""
    folder.mkdir()
    for file in catalog.folder.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    return folder
