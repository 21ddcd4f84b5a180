"""Who may import whom (docs/ARCHITECTURE.md), read from the source text."""

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

BELOW_STAGES = {
    "core", "readers", "archive", "views", "encoders", "objectives", "heads", "training",
    "evaluation", "inference", "export", "pages",
}  # fmt: skip
ALLOWED = {
    "core": set(),
    "readers": {"core"},
    "archive": {"core", "readers"},
    "views": {"core"},
    "encoders": {"core"},
    "objectives": {"core", "encoders"},
    "heads": {"core", "encoders"},
    "training": {"core"},
    "evaluation": {"core"},
    "inference": {"core", "heads"},
    "export": {"core", "encoders", "heads"},
    "pages": {"core"},
    "stages": BELOW_STAGES,
    "cli": {"core", "stages"},
    "pipelines": {"core", "stages"},
    "measuring": {"stages", *BELOW_STAGES},
    "": {"core", "readers", "stages"},  # medssl/_api.py
    "__main__": {"cli"},
}
# Pipelines that time, check or describe single rooms.
MEASURING = (
    "bench_", "_bench_", "check_", "_references", "gpu_check", "_video_", "_scenes",
    "_objective_pages",
)  # fmt: skip
TORCH = {"torch", "torchvision", "lightning", "monai", "timm", "segmentation_models_pytorch"}
TORCH_FREE = {"readers", "archive", "cli"}


def imported(tree):
    """Dotted names that a module imports outside ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield from (f"{dots}{node.module or ''}.{alias.name}" for alias in node.names)
        yield from imported(node)


def violations(root):
    """``file: import`` for every import that the table does not allow."""
    found = []
    for file in [*root.glob("medssl/**/*.py"), *root.glob("pipelines/*.py")]:
        parts = file.relative_to(root).parts
        room = "pipelines" if parts[0] == "pipelines" else parts[1] if len(parts) > 2 else ""
        if room == "pipelines" and file.name.startswith(MEASURING):
            room = "measuring"
        if file.name == "__main__.py":
            room = "__main__"
        names = imported(ast.parse(file.read_text()))
        bad = (name for name in names if not _fine(room, name.split(".")))
        found += [f"{'/'.join(parts)}: {name}" for name in bad]
    return found


def _fine(room, words):
    if words[0] == "":  # relative
        return False
    if words[0] in TORCH:
        return room not in TORCH_FREE
    if words[0] in {"tests", "examples"} or (
        words[0] == "pipelines" and room not in {"pipelines", "measuring"}
    ):
        return False
    rooms = ALLOWED.keys() - {"", "__main__", "pipelines", "measuring"}
    inner = words[1] if words[0] == "medssl" and len(words) > 1 else ""
    return inner not in rooms or inner == room or inner in ALLOWED[room]


def test_every_room_keeps_to_the_import_table():
    assert violations(ROOT) == []


def test_every_room_is_in_the_table():
    rooms = {p.name for p in (ROOT / "medssl").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms <= ALLOWED.keys()


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("medssl/core/x.py", "import medssl.readers.nifti"),
        ("medssl/readers/x.py", "from medssl.archive.store import Store"),
        ("medssl/readers/x.py", "from medssl import archive"),
        ("medssl/readers/x.py", "from ..archive import store"),
        ("medssl/training/x.py", "def f():\n    from medssl.objectives.mae import Mae"),
        ("medssl/archive/x.py", "import torch"),
        (
            "medssl/readers/x.py",
            "try:\n    from monai.data import Dataset\nexcept OSError:\n    pass",
        ),
        ("medssl/objectives/x.py", "from medssl.heads import segmentation"),
        ("medssl/cli/x.py", "from medssl.training.loop import fit"),
        ("medssl/stages/x.py", "from medssl.cli.main import app"),
        ("medssl/core/x.py", "from tests.support import ROOT"),
        ("pipelines/x.py", "from medssl.training.loop import fit"),
    ],
)
def test_planted_violations_are_seen(tmp_path: Path, place, line):
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert len(violations(tmp_path)) == 1


def test_what_is_allowed_is_not_reported(tmp_path: Path):
    file = tmp_path / "medssl" / "stages" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text("import torch\nfrom medssl.core import config\nfrom medssl.heads import a")
    assert violations(tmp_path) == []
