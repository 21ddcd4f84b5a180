"""Write the generated pages: the README's table, the reason codes, one page per objective."""

from __future__ import annotations

from pathlib import Path

from medssl.core import reasons
from medssl.core.registry import OBJECTIVES
from medssl.stages import info
from pipelines import _objective_pages

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- medssl info: start -->\n", "<!-- medssl info: end -->"


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    found = {readme: f"{before}{START}{info.as_markdown()}{END}{after}"}
    found[ROOT / "docs" / "reasons.md"] = reasons.as_markdown()
    folder = ROOT / "docs" / "objectives"
    for name in OBJECTIVES.names():
        module, _ = OBJECTIVES.module(name)
        found[folder / f"{name}.md"] = _objective_pages.page(name, module)
    found[folder / "README.md"] = _objective_pages.index()
    return found


def main() -> None:
    """Write what has changed."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
