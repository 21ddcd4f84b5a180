"""What run folders and checkpoints tell of a run's parts: all options, but no path (law 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medssl.core.config import Component, validate
from medssl.core.errors import UsageError
from medssl.core.registry import ENCODERS, OBJECTIVES, Registry

# Stands where a path was: whoever takes such a file as a config is told that it is missing.
HIDDEN = "<path>"


def shown(component: Component, registry: Registry) -> Component:
    """The component as it was given, without paths."""
    hidden = _hidden(_typed(component, registry))
    options = {key: hidden.get(key, value) for key, value in component.options.items()}
    return Component(name=component.name, **options)


def parts_shown(parts: dict[str, Any]) -> dict[str, Component]:
    """Those of a config's values that are encoders and objectives, without paths."""
    registries = {"objective": OBJECTIVES, "encoder": ENCODERS}
    given = {key: parts[key] for key in registries if parts.get(key) is not None}
    return {key: shown(part, registries[key]) for key, part in given.items()}


def with_defaults(component: Component, registry: Registry) -> dict[str, Any]:
    """A component with every option it has, also those that nobody set; without paths."""
    options = _typed(component, registry)
    return {"name": component.name, **options.model_dump(mode="json"), **_hidden(options)}


def refuse_hidden(objective: dict[str, Any]) -> None:
    """See that the options of an objective, as checkpoints keep them, are all there.

    Raises:
        UsageError: it learns from another run, and where that lies is not kept.
    """
    for key, value in objective.items():
        if HIDDEN in (value, value.get("name") if isinstance(value, dict) else None):
            what = f"the run named by objective.{key} is needed again: its path is not kept"
            raise UsageError(what, fix=f"objective={objective['name']} objective.{key}=RUN")


def _typed(component: Component, registry: Registry) -> BaseModel:
    module, _ = registry.module(component.name)
    options: BaseModel = validate(module.Config, component.options, where=component.name)
    return options


def _hidden(options: BaseModel) -> dict[str, Any]:
    """What is written in place of options that hold paths."""
    found: dict[str, Any] = {}
    for key, value in options:
        if isinstance(value, Path) or (key == "weights" and _is_file(value)):
            found[key] = HIDDEN
        elif isinstance(value, Component):
            found[key] = _network(value)
    return found


def _network(given: Component) -> dict[str, Any]:
    """A network by its name, or the folder of a run."""
    name = given.name if _is_network(given.name) else HIDDEN
    options = {k: HIDDEN if k == "weights" and _is_file(v) else v for k, v in given.options.items()}
    return {"name": name, **options}


def _is_network(name: str) -> bool:
    libraries = {entry.name for entry in ENCODERS.entries if entry.examples}
    known = name in ENCODERS.names() or name.partition("/")[0] in libraries
    return known and not Path(name).exists()


def _is_file(weights: object) -> bool:
    """Weights are a library's word for them, or a file; names of files have an ending."""
    return isinstance(weights, str) and ("." in weights or "/" in weights)
