"""Pages of objectives: text from the docstring of the file, options from its Config."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from pydantic import BaseModel

from medssl.core.config import Component
from medssl.core.errors import ConfigError
from medssl.core.preprocess import Contract
from medssl.core.registry import ENCODERS, OBJECTIVES
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, save_model

NOTE = "<!-- written by `make docs` from the objective's file; change that -->"
# Parts of an objective's docstring, after its summary and idea; these are shown as code.
SECTIONS = ("Algorithm", "Loss", "When to use", "Source")
_CODE = {"Algorithm", "Loss"}
# One small encoder of each kind, to find what an objective works on: name, crop, options.
_KINDS: tuple[tuple[str, str, tuple[int, ...], dict[str, Any]], ...] = (
    ("volume", "resenc-xs", (16, 32, 16), {}),
    ("volume", "vit3d-xs", (32, 32, 32), {"token_size": (4, 8, 8)}),
    ("clip", "frames/timm/resnet18", (4, 64, 64), {}),
    ("clip", "video_vit-xs", (4, 64, 64), {}),
    ("image", "timm/resnet18", (64, 64), {}),
    ("image", "timm/vit_tiny_patch16_224", (64, 64), {"patch_size": 8}),
)

_RUNS = TemporaryDirectory(prefix="medssl-pages-")


def page(name: str, module: ModuleType) -> str:
    """All that the objective's file says, in one page."""
    summary, idea, sections = parts(inspect.getdoc(module) or "")
    lines = [f"# {name}", "", NOTE, "", f"**{summary}**", "", *idea]
    for title, body in sections.items():
        shown = ["```text", *body, "```"] if title in _CODE else body
        lines += ["", f"## {title}", "", *shown]
    command = f"medssl pretrain --data CATALOG --objective {name} --encoder ENCODER --out RUN"
    lines += ["", "## Run it", "", "```sh", command, "```", ""]
    lines += [f"`--config {name}` starts from `configs/pretrain/{name}.yaml`.", ""]
    lines += _options_table(module.Config())
    worked = _worked(module)
    if worked:
        lines += ["", "## Formulas, with values checked by the tests"]
    for function, text in worked:
        lines += ["", f"### `{function}`", "", "```text", text, "```"]
    return "\n".join(lines) + "\n"


def parts(text: str) -> tuple[str, list[str], dict[str, list[str]]]:
    """Summary, idea and sections of a docstring.

    Raises:
        ValueError: a section is missing, empty or out of order.
    """
    summary, _, rest = text.partition("\n\n")
    idea: list[str] = []
    sections: dict[str, list[str]] = {}
    into = idea
    for line in rest.splitlines():
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            into = sections[title] = []
        else:
            into.append(line.removeprefix("    ") if sections else line)
    if tuple(sections) != SECTIONS or not all(map(_stripped, [idea, *sections.values()])):
        raise ValueError(f"the docstring needs an idea and then {', '.join(SECTIONS)}")
    return summary, _stripped(idea), {title: _stripped(body) for title, body in sections.items()}


def _options_table(config: BaseModel) -> list[str]:
    """Options of the objective itself, then those of its nested parts."""
    found = list(options(config))
    head = ["", "| option | default | meaning |", "|---|---|---|"]
    rows = [(key.count("."), f"| `{key}` | {shown} | {about} |") for key, shown, about in found]
    own = ["## Options", *head, *(row for depth, row in rows if depth == 1)]
    nested = [row for depth, row in rows if depth > 1]
    return [*own, "", "## Options of its parts", *head, *nested] if nested else own


def options(config: BaseModel, prefix: str = "objective") -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of every option, those of nested configs too."""
    for key, field in type(config).model_fields.items():
        value, path = getattr(config, key), f"{prefix}.{key}"
        about = " ".join((field.description or "").split()).replace("|", "\\|")
        if isinstance(value, BaseModel):
            yield path, "see below", about
            yield from options(value, path)
        else:
            yield path, f"`{_shown(value)}`", about


def index() -> str:
    """Table of all objectives: what they need and keep."""
    rows = [f"| [{e.name}]({e.name}.md) | {e.summary} | {_facts(e.name)} |"
            for e in OBJECTIVES.entries]  # fmt: skip
    head = "| name | what it does | encoders | views of a sample | state beside the encoder |"
    return "\n".join(["# Objectives", "", NOTE, "", head, "|---|---|---|---|---|", *rows, ""])


def _facts(name: str) -> str:
    with torch.device("meta"):
        tasks = {(kind, encoder): _task(name, encoder, crop, extra)
                 for kind, encoder, crop, extra in _KINDS}  # fmt: skip
    taken = {key: task for key, task in tasks.items() if task}
    kinds = sorted({kind for kind, _ in taken})
    only = "" if any("vit" not in encoder for _, encoder in taken) else " transformers"
    shown = taken[next(key for key in taken if "vit" in key[1])]
    state = ", ".join(_state(shown)) or "none"
    return f"{', '.join(kinds)}{only} | {_views(shown.views())} | {state}"


def _task(name: str, encoder: str, crop: tuple[int, ...], extra: dict[str, Any]) -> Any:
    """The objective on meta tensors, ``None`` where it refuses the encoder."""
    objective, (bridge, variant) = OBJECTIVES.module(name)[0], ENCODERS.module(encoder)
    net = bridge.build(variant, bridge.Config(**extra), 1)
    for teacher in _teachers(objective.Config, encoder, extra):
        config = objective.Config(**teacher)
        try:
            return objective.Objective(net, config, Setting(crop=crop, records=8, kind=net.kind))
        except ConfigError:
            continue
    return None


def _teachers(config: type[BaseModel], encoder: str, extra: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs to learn from, where one is needed: of the same encoder, and of an image encoder."""
    if "teacher" not in config.model_fields:
        return [{}]
    _, image, _, options = _KINDS[-1]
    return [{"teacher": _run(encoder, **extra)}, {"teacher": _run(image, **options)}]


def _run(name: str, **options: Any) -> str:
    """The folder of a run with random weights."""
    folder = Path(_RUNS.name) / name.replace("/", "_")
    if folder.is_dir():
        return str(folder)
    with torch.device("cpu"):
        encoder = build_encoder(name, options, 1)
        card = Card(
            encoder=Component.model_validate({"name": name, **options}),
            in_channels=1,
            channels=("grey",),
            contract=Contract(),
            modality="MR",
            patch_size=encoder.size_multiple,
        )
        save_model(folder, card, {"encoder": encoder})
    return str(folder)


def _views(spec: ViewSpec) -> str:
    full = spec.views[0].crop
    told = []
    for view in spec.views:
        masked = " with hidden tokens" if view.mask or view.targets else ""
        count = view.count * prod(view.tiles)
        told.append(f"{count} {'full' if view.crop == full else 'small'}{masked}")
    return " + ".join(told)


def _state(task: torch.nn.Module) -> list[str]:
    """What a checkpoint holds beside trained weights, statistics of norms and clocks."""
    teacher = any("teacher" in name for name, _ in task.named_children())
    skipped = ("encoder.", "teacher", "decoder.")
    words = {
        name.rpartition(".")[2] if name.startswith("targets") else name.partition(".")[0]
        for name, _ in task.named_buffers()
        if not name.startswith(skipped) and not _minor(name)
    }
    return (["teacher"] if teacher else []) + sorted(word.partition("_")[0] for word in words)


def _minor(name: str) -> bool:
    return any(word in name for word in ("running_", "num_batches", "progress", "updates"))


def _shown(value: object) -> str:
    """As it is written on the command line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return (
        str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    )


def _stripped(lines: list[str]) -> list[str]:
    return "\n".join(lines).strip("\n").splitlines()


def _worked(module: ModuleType) -> list[tuple[str, str]]:
    """Public functions of the file whose docstring shows a value."""
    tree = ast.parse(inspect.getsource(module))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    texts = [(node.name, ast.get_docstring(node) or "") for node in functions]
    return [(name, text) for name, text in texts if ">>>" in text]
