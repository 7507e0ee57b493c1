"""Progress of long tasks: rate and time left, readable in a terminal and in a log file.

In a log file rich prints nothing until the end and tqdm keeps rewriting one line, so neither is used.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


def duration(seconds: float) -> str:
    """`2 h 5 min`, `1 min 30 s` or `9 s`: how every page and message writes a time."""
    seconds = round(seconds)
    if seconds >= 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def bytes_text(size: float) -> str:
    """`1.4 GB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


class Progress:
    """A line such as `train fold 0 120/500 24% 3.1 step/s 2 min 3 s left loss 0.41` on stderr.

    In a terminal the line is rewritten twice a second; in a log there is one line every `every` seconds and one
    at the end. `start` is the number done before a resumed task started; it does not count for the rate. With the
    unit `B`, numbers are shown as kB, MB or GB.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        unit: str = "",
        *,
        start: int = 0,
        every: float = 10.0,
        stream: TextIO | None = None,
    ):
        self.label, self.total, self.unit = label, total, unit
        self.done, self.start = start, start
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.5 if self.terminal else every
        self.values: dict[str, object] = {}
        self.began = self.shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(last=True, stopped=kind is not None)

    def update(self, n: int = 1, **values: object) -> None:
        """Count `n` more; `values` (numbers or strings) are shown at the end of the line."""
        self.done += n
        self.values.update(values)
        if time.monotonic() - self.shown >= self.every:
            self._show()

    def line(self, *, last: bool = False, stopped: bool = False) -> str:
        """The current line."""
        elapsed = max(time.monotonic() - self.began, 1e-9)
        rate = (self.done - self.start) / elapsed
        number = bytes_text if self.unit == "B" else str
        parts = [self.label, f"{number(self.done)}/{number(self.total)}" if self.total else number(self.done)]
        if self.total:
            parts.append(f"{100 * self.done // self.total}%")
        if rate:
            unit = self.unit or "it"
            if self.unit == "B":
                parts.append(f"{bytes_text(rate)}/s")
            else:
                parts.append(f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}")
        if last:
            parts.append(f"{'stopped after' if stopped else 'in'} {duration(elapsed)}")
        elif self.total and rate:
            parts.append(f"{duration(max(self.total - self.done, 0) / rate)} left")
        parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.values.items()]
        return " ".join(parts)

    def _show(self, *, last: bool = False, stopped: bool = False) -> None:
        self.shown = time.monotonic()
        text = self.line(last=last, stopped=stopped)
        # \x1b[K clears what a longer line left behind
        end = "\n" if last or not self.terminal else ""
        self.stream.write(f"\r{text}\x1b[K{end}" if self.terminal else f"{text}\n")
        self.stream.flush()
