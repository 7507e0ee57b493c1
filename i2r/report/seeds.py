"""How many training seeds the paper's gains would need, from the deviations measured so far."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np

from i2r.metrics.statistics import seeds_needed
from i2r.paper.published import claimed
from i2r.pipeline.plan import Plan


def seeds_said(plan: Plan, root: Path, names: Iterable[str]) -> list[str]:
    """A sentence for each claim of the targets in the form of Table 3; results that are not there are not missed.

    Args:
        root: the folder results/.
        names: of targets.
    """
    said = []
    for name in names:
        target = plan.params.values.targets[name]
        if (target.form or name) != "table3":
            continue
        spec = next(job for job in plan.target(name) if job.step == "report")
        methods = {id: spec.params["methods"][id] for id in target.methods}
        claims = claimed({id: (method["params"], method["reading"]) for id, method in methods.items()})
        for (adding, ours, theirs, gain), shot in product(claims, target.shots):
            found = _differences(plan, root, name, ours, theirs, shot) if len(target.seeds) > 1 else []
            shots = f", {shot}-shot" if len(target.shots) > 1 else ""
            what = f"{name}: adding {adding} ({ours} against {theirs}{shots}) gives {gain:+.2f} in the paper"
            if len(found) < 2:
                said.append(
                    f"{what}; two training seeds must be evaluated to say how many a test of it needs"
                )
                continue
            deviation = float(np.std(found, ddof=1))
            needed = seeds_needed(gain, deviation)
            count = f"{needed} training seeds" if needed else "more than 1000 training seeds"
            said.append(
                f"{what}; with the deviation of {deviation:.1f} over {len(found)} seeds, a test of it needs {count}"
            )
    return said


def _differences(plan: Plan, root: Path, name: str, ours: str, theirs: str, shot: int) -> list[float]:
    """Differences of two methods of a target for each training seed that both have."""
    from i2r.report.results import Results  # imports matplotlib, which takes a second
    from i2r.report.target import Target

    spec = next(job for job in plan.target(name) if job.step == "report")
    folders = {role: root / "store" / given.step / given.key for role, given in spec.inputs.items()}
    return Target(name, Results(spec.params, folders)).seed_differences(ours, theirs, shot)
