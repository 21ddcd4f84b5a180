"""Write the generated pages: the README's table, the reason codes, one page per objective."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

from medssl.core import reasons
from medssl.core.config import Config
from medssl.core.registry import OBJECTIVES
from medssl.stages import info

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- medssl info: start -->\n", "<!-- medssl info: end -->"


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    found = {readme: f"{before}{START}{info.as_markdown()}{END}{after}"}
    found[ROOT / "docs" / "reasons.md"] = reasons.as_markdown()
    for name in OBJECTIVES.names():
        module, _ = OBJECTIVES.module(name)
        found[ROOT / "docs" / "objectives" / f"{name}.md"] = objective_page(name, module)
    return found


def objective_page(name: str, module: ModuleType) -> str:
    """Summary, algorithm, options and worked examples, all from the objective's own file."""
    config: type[Config] = module.Config
    lines = [
        f"# {name}",
        "",
        "<!-- written by `make docs` from the objective's file; change that -->",
        "",
        inspect.getdoc(module) or "",
        "",
        "```",
        f"medssl pretrain --data CATALOG --objective {name} --encoder ENCODER --out RUN",
        "```",
        "",
        "## Options",
        "",
        "| option | default | meaning |",
        "|---|---|---|",
    ]
    for key, field in config.model_fields.items():
        about = " ".join((field.description or "").split())
        lines.append(f"| `objective.{key}` | `{field.default}` | {about} |")
    lines += ["", "## Formulas, with values checked by the tests", ""]
    for function, text in documented_functions(module):
        lines += [f"### `{function}`", "", "```text", text, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def documented_functions(module: ModuleType) -> list[tuple[str, str]]:
    """Public functions of the file whose docstring shows a value."""
    tree = ast.parse(inspect.getsource(module))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    texts = [(node.name, ast.get_docstring(node) or "") for node in functions]
    return [(name, text) for name, text in texts if ">>>" in text]


def main() -> None:
    """Write what has changed."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
