"""Progress of long tasks: a bar on a terminal, otherwise a line from time to time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY = 10.0  # seconds between lines


@contextmanager
def progress(name: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items done, out of `total`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    started = said = time.monotonic()
    terminal = console.is_terminal

    def show(done: int) -> None:
        nonlocal said
        bar.update(task, completed=done)
        now = time.monotonic()
        if not terminal and now - said > _EVERY:
            said = now
            console.print(f"{name}: {done:,} of {total:,} ({done / (now - started):,.0f} a second)")

    with Progress(*columns, console=console, transient=True, disable=not terminal) as bar:
        task = bar.add_task(name, total=total)
        yield show
