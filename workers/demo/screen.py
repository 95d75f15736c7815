"""Shows a run of the demo: a progress bar on a terminal, plain lines anywhere else."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

LINE_EVERY = 10
"""Jobs between two plain lines."""


class Screen:
    """What is shown while the demo runs goes to standard error, so that standard output holds the result alone."""

    def __init__(self, *, jobs: int, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self._jobs = jobs
        self._shown = (0, 0)
        self._progress: Progress | None = None

    def __enter__(self) -> "Screen":
        if self._console.is_terminal and not self._console.quiet:
            self._progress = Progress(
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("jobs  {task.fields[takeovers]} taken over"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=self._jobs, takeovers=0)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, what: str) -> None:
        """Tell of a step."""
        self._console.print(what, soft_wrap=True)

    def count(self, *, done: int, takeovers: int) -> None:
        """Show how many jobs are done and how many leases were taken over."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, takeovers=takeovers)
            return
        before, taken_before = self._shown
        if done // LINE_EVERY > before // LINE_EVERY or takeovers > taken_before:
            self._console.print(f"  {done}/{self._jobs} jobs done, {takeovers} taken over", soft_wrap=True)
            self._shown = (done, takeovers)
