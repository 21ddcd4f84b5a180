"""One live line on a terminal; one plain line per tenth of the work elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from medssl.core.errors import BudgetExceededError
from medssl.core.runlog import Run
from medssl.evaluation.health import STATES

_SHOWN = (
    ("loss", "loss {:.4f}"),
    ("val_dice", "val Dice {:.3f}"),
    ("samples_per_s", "{:.1f} samples/s"),
    ("data_wait_pct", "data wait {:.0f} %"),
    ("peak_memory_mb", "peak {:.0f} MB"),
)


class TrainingLine:
    """Progress of a training on standard error."""

    def __init__(self, stage: str, steps: int, start: int, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.stage, self.steps, self.tenth = stage, steps, 10 * start // max(steps, 1)
        self.shown: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}  {task.fields[line]}  ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.bar = self.progress.add_task(stage, total=steps, completed=start, line="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the newest figures."""
        self.shown.update(values)
        shown = [form.format(self.shown[key]) for key, form in _SHOWN if key in self.shown]
        if "health/state" in self.shown:
            shown.append(STATES[int(self.shown["health/state"])])
        line = "  ".join(shown)
        self.progress.update(self.bar, completed=step, line=line)
        tenth = 10 * step // self.steps
        if not self.console.is_terminal and tenth > self.tenth:
            self.tenth = tenth
            self.console.print(f"{self.stage} step {step}/{self.steps}  {line}")


def logger(
    run: Run, line: TrainingLine, failure_budget: float
) -> Callable[[int, Mapping[str, float]], None]:
    """Writes and shows the figures of a step; stops the run when too many samples were replaced."""

    def log(step: int, values: Mapping[str, float]) -> None:
        run.log(step, values)
        line.update(step, values)
        if values.get("replaced", 0.0) > failure_budget:
            share = f"{100 * values['replaced']:.1f} %"
            what = f"{share} of the samples had to be replaced, budget {100 * failure_budget:.1f} %"
            raise BudgetExceededError(what, fix="delete the store folder; it will be rebuilt")

    return log


def no_log(step: int, values: Mapping[str, float]) -> None:
    """Ranks other than 0 write nothing."""
