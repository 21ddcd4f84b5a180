"""What a run folder says of itself, read for its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medssl.core.errors import UsageError
from medssl.encoders.card import Card, load_card

# Kept in metrics.json of evaluate beside the measures: one row per case, not a measure.
CASES = "cases"
# Of a probe: its measures, a row for each kind of features.
ROWS = "rows"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One run of pretrain or finetune.

    Attributes:
        card: of the model; ``None`` while there is none.
        run: content of ``run.json``; empty while the run is not finished.
        options: content of ``resolved.yaml``.
        curves: step and value of everything logged, by name.
        health: lines of ``health.jsonl``.
        excluded: records that were not used, by reason.
        results: of evaluate, in the order given.
    """

    stage: str
    card: Card | None
    run: Mapping[str, Any]
    options: Mapping[str, Any]
    curves: Mapping[str, list[tuple[float, float]]]
    health: list[Mapping[str, Any]]
    excluded: Mapping[str, int]
    results: Sequence[Mapping[str, Any]] = ()

    @property
    def samples_seen(self) -> int:
        """Steps done times the batch."""
        done = max((int(pairs[-1][0]) for pairs in self.curves.values()), default=0)
        return done * int(self.options.get("batch_size", 0))


def facts_of(run: Path, metrics: list[Path]) -> Facts:
    """Read a run folder and what evaluate said of it.

    Raises:
        UsageError: no run of pretrain or finetune, a damaged model, or metrics that are no JSON
            object.
    """
    options = _yaml(run / "resolved.yaml")
    ended = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    trained = [name for name in ("model", "model_best") if (run / name).is_dir()]
    card = load_card(run, best=trained == ["model_best"])[0] if trained else None
    stage = str(ended.get("stage", "finetune" if "task" in options else "pretrain"))
    if stage not in ("pretrain", "finetune") or not (options or card):
        fix = "give the folder that pretrain or finetune wrote"
        raise UsageError("no run of pretrain or finetune", where=str(run), fix=fix)
    excluded = Counter({str(k): int(n) for k, n in ended.get("excluded", {}).items()})
    for line in _lines(run / "quarantine.jsonl"):
        excluded[str(line["reason"])] += 1
    return Facts(
        stage=stage,
        card=card,
        run=ended,
        options=options,
        curves=_curves(_lines(run / "metrics.jsonl")),
        health=_lines(run / "health.jsonl"),
        excluded=dict(excluded.most_common()),
        results=[read_json(path) for path in metrics],
    )


def measures_of(
    found: Mapping[str, Any], name: str = "", label: str = ""
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Every measure that has a mean: its name, the label it is of, and its values.

    Those of a probe are named after the features too, of which it has a row each.

    >>> measures_of({"dice": {"mean": 0.9, "n": 3, "per_label": {"liver": {"mean": 0.8}}}})
    [('dice', '', {'mean': 0.9, 'n': 3}), ('dice', 'liver', {'mean': 0.8})]
    """
    rows: list[tuple[str, str, Mapping[str, Any]]] = []
    if isinstance(found.get("mean"), int | float):
        rows.append((name, label, {k: v for k, v in found.items() if not isinstance(v, Mapping)}))
    of_probe = found[ROWS] if isinstance(found.get(ROWS), list) else []
    for row in of_probe:
        if isinstance(row, Mapping) and "features" in row:
            rows += measures_of(row, str(row["features"]))
    for key, value in found.items():
        if key == CASES or not isinstance(value, Mapping):
            continue
        if key.startswith("per_"):
            labelled = ((k, v) for k, v in value.items() if isinstance(v, Mapping))
            rows += [row for k, v in labelled for row in measures_of(v, name, k)]
        else:
            rows += measures_of(value, ", ".join(filter(None, (name, key))), label)
    return rows


def dice_of(facts: Facts) -> dict[str, float]:
    """Mean Dice over labels of every case that was compared, by name."""
    found: dict[str, list[float]] = {}
    for result in facts.results:
        for row in result.get(CASES, []):
            if isinstance(row, Mapping) and isinstance(row.get("dice"), int | float):
                found.setdefault(str(row["case"]), []).append(float(row["dice"]))
    return {name: sum(values) / len(values) for name, values in found.items()}


def read_json(path: Path) -> Mapping[str, Any]:
    """An object that evaluate or embed wrote.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        fix = "give the JSON file that medssl evaluate or embed wrote"
        raise UsageError("no readable JSON file", where=str(path), fix=fix) from error
    if not isinstance(found, dict):
        raise UsageError("the JSON file holds no object", where=str(path))
    return found


def _curves(lines: list[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for key, value in line.items():
            if key not in ("step", "time_s") and isinstance(value, int | float):
                curves.setdefault(key, []).append((float(line["step"]), float(value)))
    return curves


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """JSON lines; the last one of a killed run may be cut short, and is left out."""
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8").splitlines()
    out: list[Mapping[str, Any]] = []
    for number, text in enumerate(texts):
        try:
            out.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts) - 1:
                raise UsageError(f"line {number + 1} is no JSON", where=str(path)) from error
    return out


def _yaml(path: Path) -> Mapping[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
