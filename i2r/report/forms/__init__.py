"""The forms in which the report shows targets. docs/extending.md describes how to add one."""

from __future__ import annotations

from collections.abc import Callable

from i2r.report.forms import table1, table3, table4
from i2r.report.forms.shown import Shown
from i2r.report.target import Target

FORMS: dict[str, Callable[[Target], Shown]] = {
    "table1": table1.show,
    "table3": table3.show,
    "table4": table4.show,
}
