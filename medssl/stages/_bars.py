"""Progress bars of stages that count files or records."""

from __future__ import annotations

from typing import Self

import rich.progress
from rich.console import Console

from medssl.archive._reading import Progress


class Bars:
    """Progress on standard error, on a terminal only."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True, quiet=quiet)
        hidden = quiet or not console.is_terminal
        self.progress = rich.progress.Progress(console=console, disable=hidden, transient=True)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def updater(self, name: str) -> Progress:
        """A new bar, as the function that moves it."""
        bar = self.progress.add_task(name, total=None)

        def update(done: int, total: int) -> None:
            self.progress.update(bar, completed=done, total=total)

        return update
