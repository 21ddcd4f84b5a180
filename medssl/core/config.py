"""Strict typed configuration: frozen, unknown keys are errors that point at the mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medssl.core.errors import ConfigError
from medssl.core.registry import PACKAGE_ROOT, unknown_name

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of all configs: immutable, and a key nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Component(BaseModel):
    """A registered member by name with its own options: ``mae`` or ``{name: mae, ...}``."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def config_root() -> Path:
    """Folder of the shipped YAML files: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE_ROOT / "configs"
    return inside if inside.is_dir() else PACKAGE_ROOT.parent / "configs"


def load_config(
    cls: type[C], stage: str, config: str | Path | None, overrides: Mapping[str, Any]
) -> C:
    """Build a stage's config from a YAML file (name or path) and ``key=value`` overrides.

    Dotted keys reach into nested configs: ``objective.mask_ratio=0.6``.

    Raises:
        ConfigError: unknown key, bad value or unreadable file; says where and what is near.
    """
    values, where = read_yaml(stage, config)
    for key, value in overrides.items():
        _put(values, key, value)
    return validate(cls, values, where=where or "command line")


def validate(cls: type[C], values: Mapping[str, Any], *, where: str) -> C:
    """``cls(**values)`` with errors a user can act on."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(cls, error, where) from None


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """``["steps=400", "spacing_mm=[1,1,1]"]`` -> mapping; values are YAML scalars or lists."""
    pairs = {}
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise ConfigError(f"'{word}' is not key=value", fix="write e.g. steps=400")
        try:
            pairs[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"value of '{key}' is not YAML: {text!r}") from None
    return pairs


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML text with keys in the order given."""
    return yaml.safe_dump(dict(values), sort_keys=False)


def read_yaml(stage: str, config: str | Path | None) -> tuple[dict[str, Any], str]:
    """Values and origin of a named or given YAML file; empty if none is asked for."""
    if config is None:
        return {}, ""
    path = Path(config)
    if path.suffix not in {".yaml", ".yml"}:
        folder = config_root() / stage
        path = folder / f"{config}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in folder.glob("*.yaml"))
            raise unknown_name(f"{stage} config", str(config), known)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("config file does not exist", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"config file is not YAML: {line}", where=str(path)) from None
    if not isinstance(values, dict):
        raise ConfigError("config file holds no mapping", where=str(path), fix="key: value lines")
    return values, str(path)


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.get(parent, {})
        values[parent] = {"name": inner} if isinstance(inner, str) else dict(inner)
        values = values[parent]
    old = values.get(last)
    if isinstance(old, dict) and isinstance(value, str) and value == old.get("name", value):
        value = {**old, "name": value}  # naming a component again, or late, keeps its options
    values[last] = value


def _explain(cls: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(_model_at(cls, first["loc"][:-1]).model_fields)
        return unknown_name(f"key of {cls.__name__}", str(first["loc"][-1]), known, where)
    if first["type"] == "missing":
        return ConfigError(f"'{key}' is missing", where=where, fix=f"add {key}=...")
    got = repr(first["input"])[:80]
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"'{key}': {message}, got {got}", where=where)


def _model_at(cls: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    for part in path:
        field = cls.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return cls
        cls = inner
    return cls


class Versioned(Config):
    """A config written into an artefact; ``digest`` names its content."""

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        import hashlib

        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read back what ``model_dump_json`` wrote."""
        import json

        return validate(cls, json.loads(text), where=where)
