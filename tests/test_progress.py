"""Progress lines of long tasks, and how a time is written."""

from __future__ import annotations

import io

import pytest

from i2r import progress


@pytest.fixture
def now(monkeypatch):
    """The seconds since the start, which a test sets."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0.2, "0 s"), (9.4, "9 s"), (59.6, "1 min 0 s"), (90, "1 min 30 s")),
        *((3599.7, "1 h 0 min"), (7199, "2 h 0 min"), (7530, "2 h 6 min"), (360000, "100 h 0 min")),
    ],
)
def test_a_time_names_its_units(seconds, said):
    assert progress.duration(seconds) == said


def test_a_line_in_a_log_has_rate_time_left_and_values(now):
    log = io.StringIO()
    with progress.Progress("train fold 0", 500, "step", start=100, stream=log) as shown:
        now[0] = 9.0
        shown.update(10, loss=0.5)  # too early for a line
        now[0] = 10.0
        shown.update(30, loss=0.41234)
        now[0] = 100.0
        shown.done = 500
    assert log.getvalue().splitlines() == [
        "train fold 0 140/500 28% 4.0 step/s 1 min 30 s left loss 0.4123",
        "train fold 0 500/500 100% 4.0 step/s in 1 min 40 s loss 0.4123",
    ]


def test_what_was_stopped_is_not_called_done(now):
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress.Progress("voc2012", 2 * 10**9, "B", stream=log) as shown:
        now[0] = 4000.0
        shown.done = 10**9
        raise KeyboardInterrupt
    assert log.getvalue() == "voc2012 1.0 GB/2.0 GB 50% 250.0 kB/s stopped after 1 h 7 min\n"
