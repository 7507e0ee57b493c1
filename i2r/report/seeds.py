"""How many training seeds the paper's gains would need, from the deviations measured so far."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

from i2r.metrics.statistics import seeds_needed
from i2r.pipeline.plan import Plan
from i2r.report.forms import table3
from i2r.report.results import Results
from i2r.report.target import Target


def seeds_said(plan: Plan, root: Path) -> list[str]:
    """A sentence for each claim of the plan's ablation targets; results that are not there yet are not missed.

    Args:
        root: the folder results/.
    """
    said = []
    for name, values in plan.params.values.targets.items():
        if (values.form or name) != "table3":
            continue
        spec = next(job for job in plan.target(name) if job.step == "report")
        folders = {role: root / "store" / given.step / given.key for role, given in spec.inputs.items()}
        target = Target(name, Results(spec.params, folders))
        for dataset, shot in product(target.datasets, target.shots):
            for adding, ours, theirs, gain in table3.claimed(target, table3.methods(target, dataset)):
                found = target.seed_differences(ours, theirs, shot)
                what = f"{name}: adding {adding} ({ours} against {theirs}): the paper has {gain:+.2f}"
                if len(found) < 2:
                    said.append(
                        f"{what}; no deviation yet, because fewer than two training seeds are evaluated"
                    )
                    continue
                deviation = float(np.std(found, ddof=1))
                needed = seeds_needed(gain, deviation)
                count = f"{needed} training seeds" if needed else "more than 1000 training seeds"
                said.append(
                    f"{what}; with a deviation of {deviation:.1f} over {len(found)} seeds it needs {count}"
                )
    return said
