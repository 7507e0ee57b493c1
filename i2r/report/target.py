"""A target of the experiment: its methods, folds, shots and seeds, and the numbers over them."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pandas as pd

from i2r.metrics.statistics import Comparison, Samples, averaged, compare, seed_interval
from i2r.report.figures import colours
from i2r.report.results import Results, Scored, dataset_of

# Baselines without training, in the order of tables.
BASELINES = {
    "foreground": "everything foreground",
    "prior-pmgm": "prior PMGM, thresholded",
    "prior-ordered": "prior PMGM ordered (ours), thresholded",
    "prior-bam": "prior of BAM, thresholded",
    "prior-mean": "prior of one prototype, thresholded",
    "prototype": "prototype matching",
}

# Ends of the intervals of a number: over images, and over training seeds.
OVER_IMAGES, OVER_SEEDS = ("images low", "images high"), ("seeds low", "seeds high")
# Columns of Target.table: the ends of the 95 % intervals of the mean over query images and over training seeds, and
# its standard deviation over evaluation seeds.
SPREADS = ("mean low", "mean high", "mean seeds low", "mean seeds high", "mean evaluation deviation")

PLACE = ("shot", "fold", "seed", "eval_seed")  # of a run, as in Scored.place


def labels(results: Results) -> dict[str, str]:
    """Id -> its name in tables; duplicates get the method's name in brackets."""
    given = {name: method["label"] for name, method in results.methods.items()}
    often = Counter(given.values())
    found = {name: text if often[text] == 1 else f"{text} ({name})" for name, text in given.items()}
    hosts = {row["method"] for row in results.params["baselines"]}
    for item in results.scored:
        if item.baseline:
            text = BASELINES.get(item.baseline, item.baseline)
            found[item.id] = text if len(hosts) == 1 else f"{text}, on {found[item.row['method']]}"
    return found


class Target:
    """The numbers of one target.

    Attributes:
        form: the form in which it is shown.
        trained: names of its methods, in the order of the params.
        ids: its methods, then its baselines.
        impossible: method of the paper that cannot run in this experiment -> why.
        labels, colours: of methods, the same throughout the report.
    """

    def __init__(self, name: str, results: Results) -> None:
        values = results.params["targets"][name]
        self.name, self.results, self.form = name, results, values["form"]
        self.trained: list[str] = list(values["methods"])
        self.host: str | None = values["baselines"]
        self.folds: list[int] = list(values["folds"])
        self.shots: list[int] = list(values["shots"])
        self.seeds: list[int] = list(values["seeds"])
        self.impossible: dict[str, str] = values["impossible"]
        # of the test episodes of its baselines; another target on the same method can have others
        self.baseline_seeds = {
            row["eval_seed"] for row in results.params["baselines"] if row["target"] == name
        }
        self.labels = labels(results)
        self.colours = colours(list(results.methods))
        self._own = {
            (bool(row.get("job")), row["method"], *(row.get(name) for name in PLACE))
            for row in (*results.params["runs"], *results.params["baselines"])
            if row["target"] == name
        }
        self.items = [item for item in results.scored if self._has(item)]
        found = list(dict.fromkeys(item.baseline for item in self.items if item.baseline))
        order = [b for b in BASELINES if b in found] + [b for b in found if b not in BASELINES]
        self.ids = [*self.trained, *(f"{baseline}@{self.host}" for baseline in order)]

    @property
    def yardstick(self) -> str:
        """The grid that tables by fold show beside the main one: `original`, or `bam` where that is the main one."""
        return "bam" if set(self.scoring.values()) == {"original"} else "original"

    @property
    def scoring(self) -> dict[str, str]:
        """The grid of each method's main score; without methods, of the one on whose networks the baselines run."""
        ids = self.trained or [self.host]
        return {id: self.method(id)["params"]["evaluate"]["scoring"] for id in ids}

    def _has(self, item: Scored) -> bool:
        """Whether a score is of this target's own runs; another target can have other seeds of the same method."""
        return (bool(item.baseline), item.row["method"], *item.place.values()) in self._own

    @property
    def datasets(self) -> list[str]:
        """Data sets of its methods, in the order of the methods."""
        return list(dict.fromkeys(self.dataset(name) for name in self.trained))

    def method(self, id: str) -> dict[str, Any]:
        """Label, reading and params of a method; for a baseline, of the method whose networks it uses."""
        return self.results.methods[id.rpartition("@")[2]]

    def dataset(self, id: str) -> str:
        return dataset_of(self.method(id))

    def backbone(self, id: str) -> str:
        return self.method(id)["params"]["backbone"]["name"]

    def of(self, dataset: str) -> list[str]:
        """Its ids on a data set."""
        return [id for id in self.ids if self.dataset(id) == dataset]

    def items_of(self, id: str, shot: int, fold: int) -> list[Scored]:
        """The scores of a method or baseline in a fold."""
        return [i for i in self.items if i.id == id and i.row["shot"] == shot and i.row["fold"] == fold]

    def over(self, dataset: str, shot: int) -> list[int]:
        """Folds over which means are taken: all except those in which no class is scored."""
        found = []
        for fold in self.folds:
            items = [item for id in self.of(dataset) for item in self.items_of(id, shot, fold)]
            if not items or any(item.scores.get("miou") is not None for item in items):
                found.append(fold)
        return found

    def samples(self, id: str, shot: int, fold: int, measure: str = "miou") -> Samples | None:
        """Bootstrap samples of a measure of `Results.samples`, averaged over the runs of a fold; None if a run has
        none."""
        drawn = [self.results.samples(item, measure) for item in self.items_of(id, shot, fold)]
        return averaged(drawn) if drawn and all(one is not None for one in drawn) else None

    def mean_samples(self, id: str, shot: int, measure: str = "miou") -> Samples | None:
        """`samples` averaged over folds."""
        drawn = [self.samples(id, shot, fold, measure) for fold in self.over(self.dataset(id), shot)]
        return averaged(drawn) if drawn and all(one is not None for one in drawn) else None

    def by_seed(self, id: str, shot: int, seed: str = "seed", value: str = "miou") -> dict[int, float]:
        """Mean over folds for each training seed (or, with `eval_seed`, each evaluation seed) that has all folds."""
        over, cells = self.over(self.dataset(id), shot), defaultdict(lambda: defaultdict(list))
        for fold in over:
            for item in self.items_of(id, shot, fold):
                if item.row.get(seed) is not None and item.scores.get(value) is not None:
                    cells[item.row[seed]][fold].append(item.scores[value])
        return {
            number: float(np.mean([np.mean(scores) for scores in folds.values()]))
            for number, folds in sorted(cells.items())
            if len(folds) == len(over)
        }

    def means(self, id: str, shot: int, value: str = "miou") -> dict[int | str, float]:
        """A score by fold, and the `mean` of the folds of `over`.

        That of a fold is the mean of its runs (training and evaluation seeds), NaN unless all have a number.
        """
        over = self.over(self.dataset(id), shot)
        found: dict[int | str, float] = {}
        for fold in self.folds:
            numbers = [item.scores.get(value) for item in self.items_of(id, shot, fold)]
            known = numbers and all(number is not None for number in numbers)
            found[fold] = float(np.mean(numbers)) if known else np.nan
        found["mean"] = float(np.mean([found[fold] for fold in over])) if over else np.nan
        return found

    def interval(self, id: str, shot: int, measure: str = "miou") -> tuple[float, float]:
        """The 95 % interval over images of a measure's mean over folds; NaN if a run has none."""
        drawn = self.mean_samples(id, shot, measure)
        return (np.nan, np.nan) if drawn is None else drawn.interval()

    def table(self, dataset: str, shot: int, value: str = "miou") -> pd.DataFrame:
        """Ids by folds, in percent: the columns of `means`, and SPREADS; only mIoU has intervals."""
        rows = {}
        for id in self.of(dataset):
            row: dict[Any, float] = self.means(id, shot, value)
            scored = value == "miou" and not np.isnan(row["mean"])
            ends = self.interval(id, shot) if scored else (np.nan, np.nan)
            evaluated = list(self.by_seed(id, shot, "eval_seed", value).values())
            spread = float(np.std(evaluated, ddof=1)) if len(evaluated) > 1 else np.nan
            trained = seed_interval(list(self.by_seed(id, shot, value=value).values()))
            row |= dict(zip(SPREADS, (*ends, *trained, spread), strict=True))
            rows[id] = row
        columns = [*self.folds, "mean", *SPREADS]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype(float)

    def panels(self, dataset: str, shot: int) -> dict[str, pd.DataFrame]:
        """`table` as panels of a figure: title -> columns value, low, high by id; the mean is last."""
        table = self.table(dataset, shot)
        found = {}
        for fold in self.folds:
            ends = {
                id: drawn.interval()
                for id in table.index
                if (drawn := self.samples(id, shot, fold)) is not None
            }
            panel = pd.DataFrame.from_dict(ends, orient="index", columns=["low", "high"]).astype(float)
            found[f"Fold {fold}"] = panel.reindex(table.index).assign(value=table[fold])
        names = {"mean": "value", "mean low": "low", "mean high": "high"}
        if len(self.folds) > 1:
            found["Mean"] = table[list(names)].rename(columns=names)
        return found

    def difference(
        self, ours: str, theirs: str, shot: int, value: str = "miou"
    ) -> tuple[float, float, float]:
        """Difference of two means over folds (points of mIoU or FB-IoU), paired, with its 95 % interval over images.

        NaN for different data sets; the interval is NaN unless both were scored on the same episodes.
        """
        nothing = (np.nan, np.nan, np.nan)
        if self.dataset(ours) != self.dataset(theirs):
            return nothing
        table = self.table(self.dataset(ours), shot, value)
        gain = table.at[ours, "mean"] - table.at[theirs, "mean"]
        a, b = self.mean_samples(ours, shot, value), self.mean_samples(theirs, shot, value)
        if a is None or b is None or not self.same_episodes(ours, theirs, shot):
            return gain, np.nan, np.nan
        return gain, *(a - b).interval()

    def seed_differences(self, ours: str, theirs: str, shot: int, value: str = "miou") -> list[float]:
        """Differences of two means over folds, for each training seed that both have; a baseline fits any seed."""
        first, second = self.by_seed(ours, shot, value=value), self.by_seed(theirs, shot, value=value)
        if "@" in theirs:
            second = dict.fromkeys(first, self.table(self.dataset(theirs), shot, value).at[theirs, "mean"])
        return [first[seed] - second[seed] for seed in first if seed in second]

    def comparison(
        self, ours: str, theirs: str, shot: int, margin: float | None = None, value: str = "miou"
    ) -> Comparison:
        """A trained method compared with another or a baseline; without seeds if that is not possible."""
        a, b = self.mean_samples(ours, shot, value), self.mean_samples(theirs, shot, value)
        known = a is not None and b is not None and self.dataset(ours) == self.dataset(theirs)
        if not known or not self.same_episodes(ours, theirs, shot):
            return Comparison(np.nan, np.nan, np.nan, np.nan, 0, np.nan)
        if margin is None:
            margin = self.results.params["report"]["equivalence"]
        return compare(a - b, self.seed_differences(ours, theirs, shot, value), margin)

    def same_episodes(self, ours: str, theirs: str, shot: int) -> bool:
        """Whether two methods or baselines were scored on the same episodes, so that they can be compared in pairs."""
        return self.episode_keys(ours, shot) == self.episode_keys(theirs, shot)

    def episode_keys(self, id: str, shot: int) -> set[str | None]:
        """Keys of the episodes that a method was scored on."""
        items = (item for fold in self.folds for item in self.items_of(id, shot, fold))
        return {item.job.inputs.get("episodes") for item in items}

    def trainings(self, id: str, shot: int) -> int:
        """Number of training seeds behind a method's numbers."""
        return len({i.row["seed"] for fold in self.folds for i in self.items_of(id, shot, fold)} - {None})
