"""Registries by file name: ``medssl/<room>/foo.py`` is ``foo``. Listing imports nothing.

A family file may declare ``VARIANTS = ("xs", "s")``; its names are then ``foo-xs``, ``foo-s``.
A bridge to a library declares ``EXAMPLES = ("bar",)``: ``foo/bar`` is listed, ``foo/<any name of
the library>`` is accepted.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from medssl.core.errors import ConfigError

PACKAGE_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Entry:
    """One registered file: what ``medssl info`` shows without importing it."""

    name: str
    summary: str
    variants: tuple[str, ...]
    examples: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names that are listed."""
        if self.examples:
            return [f"{self.name}/{example}" for example in self.examples]
        return [f"{self.name}-{variant}" for variant in self.variants] or [self.name]


@dataclass(frozen=True)
class Registry:
    """The members of one room, e.g. ``Registry("objectives")``."""

    room: str
    helpers: tuple[str, ...] = ()
    """Public files of the room that are no members."""

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All members, sorted by name, from their source text alone."""
        files = sorted((PACKAGE_ROOT / self.room).glob("*.py"))
        return tuple(_entry(file) for file in files if self._is_member(file))

    def _is_member(self, file: Path) -> bool:
        return not file.name.startswith("_") and file.stem not in self.helpers

    def names(self) -> list[str]:
        """Every name that :meth:`module` accepts, variants included; of bridges the examples."""
        return [name for entry in self.entries for name in entry.names]

    def module(self, name: str) -> tuple[ModuleType, str]:
        """Import the module of ``name`` and return it with the variant asked for.

        Raises:
            ConfigError: if there is no such member; names the nearest one.
        """
        library, _, inside = name.partition("/")
        for entry in self.entries:
            if inside and entry.examples and library == entry.name:
                return importlib.import_module(f"medssl.{self.room}.{entry.name}"), inside
        if name not in self.names():
            raise unknown_name(self.room.removesuffix("s"), name, self.names())
        for entry in self.entries:
            if name == entry.name or name.removeprefix(f"{entry.name}-") in entry.variants:
                variant = name.removeprefix(entry.name).removeprefix("-")
                return importlib.import_module(f"medssl.{self.room}.{entry.name}"), variant
        raise AssertionError(name)


def unknown_name(what: str, got: str, known: list[str], where: str = "") -> ConfigError:
    """The error for a misspelt name, with the nearest right one."""
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    fix = f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(known) or 'none exist'}"
    return ConfigError(f"unknown {what} '{got}'", where=where, fix=fix)


def _entry(file: Path) -> Entry:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lists: dict[str, tuple[str, ...]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {
            "VARIANTS",
            "EXAMPLES",
        }:
            lists[ast.unparse(node.targets[0])] = tuple(ast.literal_eval(node.value))
    summary = (ast.get_docstring(tree) or "").split("\n")[0]
    return Entry(file.stem, summary, lists.get("VARIANTS", ()), lists.get("EXAMPLES", ()))


OBJECTIVES = Registry("objectives")
ENCODERS = Registry("encoders", helpers=("card",))
HEADS = Registry("heads")
READERS = Registry("readers")
