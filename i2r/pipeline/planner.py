"""Planning the jobs of methods and targets, each with the params and inputs that its result depends on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from i2r.config.experiment import Target
from i2r.config.load import Params
from i2r.config.methods import Method
from i2r.config.schema import BACKBONES, FROM_ONE_SHOT, BaseLearner
from i2r.pipeline.fetched import ROLE, fetch_params, table_of
from i2r.pipeline.identity import by_content, data_identity
from i2r.pipeline.spec import RESULTS, Input, Spec, make_spec
from i2r.pipeline.steps import BEST, BY_CHECKPOINT, KEPT, LAST, STEPS


@dataclass
class Planner:
    """Collects jobs by key, so that equal jobs are planned once."""

    params: Params
    jobs: dict[str, Spec] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)  # key -> label -> method that gave it
    rows: dict[str, tuple[list[dict], list[dict]]] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)

    # --- jobs ------------------------------------------------------------------------------------------------

    def add(
        self,
        step: str,
        args: dict,
        params: dict,
        inputs: dict[str, Spec],
        label: str,
        method: str,
        **more: Any,
    ) -> Spec:
        values = self.params.values
        if STEPS[step].torch:
            params = params | {"threads": values.threads}
        refs = {role: Input(spec.step, spec.key) for role, spec in inputs.items()}
        runtime = values.runtime.model_dump(mode="json")
        spec = make_spec(step, args, params, refs, label, runtime=runtime, threads=values.threads, **more)
        self.labels.setdefault(spec.key, {}).setdefault(label, method)
        return self.jobs.setdefault(spec.key, spec)

    def closure(self, keys: Iterable[str]) -> Iterator[str]:
        """Keys of these jobs and of everything that they need, in the order of the plan."""
        needed, todo = set(), list(keys)
        while todo:
            key = todo.pop()
            if key not in needed:
                needed.add(key)
                todo += [given.key for given in self.jobs[key].inputs.values()]
        return (key for key in self.jobs if key in needed)

    def fetched(self, method: Method) -> dict[str, Spec]:
        """The job that fetches a method's data set, if it is the official one."""
        official = method.params.data.official
        if official is None:
            return {}
        uses = fetch_params(official.archives, official.folder, self.params.values.runtime)
        label, root = dataset(method), self.root(method)
        return {ROLE: self.add("fetch", {}, uses, {}, label, method.name, data_root=root)}

    def root(self, method: Method) -> str | None:
        """The folder of a method's data set."""
        data = method.params.data
        return data.root if data.official is None else str(self.data_folder / data.official.folder)

    @property
    def data_folder(self) -> Path:
        return Path(self.params.values.runtime.data_root)

    def data(self, method: Method) -> Spec:
        data = method.params.data
        if data.source == "shapes":
            # left out where they are not used, so that results from before they existed keep their keys
            unused = {name for name in ("lookalikes", "drawn") if not getattr(data.shapes, name)}
            shapes = data.shapes.model_dump(exclude=unused)
            step = STEPS["data"]
            uses = {"source": data.source, "shapes": shapes}
            products = (*step.products, *step.folders, *step.sometimes)
        else:
            uses = data_identity(data, RESULTS / "state" / "content", f"methods.{method.name}.data")
            uses |= {"faulty": data.faulty} if data.faulty != "stop" else {}
            uses |= {"counts": data.counts} if data.counts != "assert" else {}
            products = STEPS["data"].products
        return self.add(
            "data",
            {},
            {"data": uses},
            self.fetched(method),
            dataset(method),
            method.name,
            products=products,
            data_root=self.root(method),
        )

    def backbone(self, method: Method) -> Spec:
        values = method.params.backbone.model_dump(mode="json", exclude={"digest", "precision"})
        uses = {"backbone": values}
        if values["name"] != "small":
            del values["pretrain"]
        needs = {}
        if values["weights"] is None and (archive := BACKBONES[values["name"]].archive):
            needs = self.published_weights(archive, values, method)
        if digest := method.params.backbone.digest:  # with a digest the file is not needed for planning
            files, values["weights"] = {"backbone.weights": values["weights"]}, digest
        else:
            files = by_content(uses, "backbone", ("weights",), {}, f"methods.{method.name}.backbone.weights")
        return self.add("backbone", {}, uses, needs, values["name"], method.name, files=files)

    def published_weights(self, name: str, values: dict[str, Any], method: Method) -> dict[str, Spec]:
        """The job that fetches weights. Those that were placed by hand and have no checksum count by content."""
        runtime = self.params.values.runtime
        uses = fetch_params((name,), "", runtime)
        archive = table_of(runtime)[name]
        path = archive.made(self.data_folder)
        if not archive.url and not archive.checksum and path.is_file():
            values["weights"] = str(path)
            return {}
        return {ROLE: self.add("fetch", {}, uses, {}, name, method.name, data_root=str(path))}

    def in_fold(self, method: Method, fold: int) -> dict[str, Spec]:
        """Data, lists and backbone of a fold."""
        data, sections = self.data(method), method.params
        label = f"{dataset(method)}-fold{fold}"
        # lists depend on the size only where images are reduced to it, because objects can vanish then
        same = {} if sections.data.reduces else {"data": ("size",)}
        uses, root = STEPS["lists"].params(sections, same), self.root(method)
        lists = self.add("lists", {"fold": fold}, uses, {"data": data}, label, method.name, data_root=root)
        return {"data": data, "lists": lists, "backbone": self.backbone(method)} | self.fetched(method)

    def frozen(self, method: Method, fold: int, base_learner: bool, cam_head: bool) -> dict[str, Spec]:
        """The frozen networks that are needed in a fold, with data and lists."""
        sections, needs, args = method.params, self.in_fold(method, fold), {"fold": fold}
        label, root = f"{dataset(method)}-{sections.backbone.name}-fold{fold}", self.root(method)
        changed = sections.base_learner.trains == "all"
        common = dict(needs)
        if base_learner or changed:
            uses = STEPS["base_learner"].params(sections)
            files = by_content(uses, "base_learner", ("weights",), args, "base_learner.weights")
            products = (*STEPS["base_learner"].products, *_other_weights(sections.base_learner))
            needs["base_learner"] = self.add(
                "base_learner",
                args,
                uses,
                common,
                label,
                method.name,
                data_root=root,
                files=files,
                products=products,
            )
        if cam_head and sections.cam_head.mode != "none":
            # left out where it does not count or is `fold`, so that results from before it keep their keys
            learns = sections.cam_head.mode == "retrained" and sections.cam_head.list == "all"
            uses = STEPS["cam_head"].params(sections, {} if learns else {"cam_head": ("list",)})
            given = common | ({"base_learner": needs["base_learner"]} if changed else {})
            needs["cam_head"] = self.add("cam_head", args, uses, given, label, method.name, data_root=root)
        return needs

    def tested(self, method: Method, fold: int, base_learner: bool, cam_head: bool) -> dict[str, Spec]:
        """What an evaluation needs in a fold: the frozen networks, and the method's own data and lists."""
        networks = self.networks_of(method)
        needs = self.frozen(networks, fold, base_learner, cam_head)
        if networks is method:
            return needs
        return self.in_fold(method, fold) | {r: needs[r] for r in ("base_learner", "cam_head") if r in needs}

    def networks_of(self, method: Method) -> Method:
        """The method whose networks this one evaluates."""
        return self.params.methods[method.trained_as] if method.trained_as else method

    def train(self, method: Method, fold: int, shot: int, seed: int) -> Spec | None:
        """The training of a run; None for a method that evaluates a weights file."""
        sections, args = method.params, {"fold": fold, "shot": shot, "seed": seed}
        if sections.train.weights:
            return None
        network = sections.network
        needs = self.frozen(method, fold, network.uses_base_learner, network.uses_cam)
        # values that are not used are left out, so that results from before they existed keep their keys
        unused = () if sections.train.validate_every else ("validate_every", "validation_episodes")
        unused += () if sections.train.paste else ("paste",)
        uses = STEPS["train"].params(sections, {"train": ("weights", *unused)})
        one_shot = sections.train.start == FROM_ONE_SHOT
        if one_shot:
            uses["train"]["start"] = FROM_ONE_SHOT if shot > 1 else None
            if shot > 1:
                needs["start"] = self.train(method, fold, 1, seed)
        files = (
            {}
            if one_shot
            else by_content(uses, "train", ("start",), args, f"methods.{method.name}.train.start")
        )
        label = f"{method.name}-{shot}shot-fold{fold}-seed{seed}"
        more = (BEST,) if sections.train.validate_every else ()
        more += (KEPT,) if sections.train.checkpoints else ()
        return self.add(
            "train",
            args,
            uses,
            needs,
            label,
            method.name,
            data_root=self.root(method),
            files=files,
            products=(*STEPS["train"].products, *more),
        )

    def episodes(self, method: Method, lists: Spec, fold: int, shot: int, eval_seed: int) -> Spec:
        args = {"fold": fold, "shot": shot, "eval_seed": eval_seed}
        label = f"{dataset(method)}-{shot}shot-fold{fold}-eval{eval_seed}"
        # the usual protocol is left out, so that results from before the others keep their keys
        usual = {"evaluate": ("protocol",)} if method.params.evaluate.protocol == "bam" else {}
        uses = STEPS["episodes"].params(method.params, usual)
        return self.add("episodes", args, uses, {"lists": lists}, label, method.name)

    def evaluate(
        self, method: Method, fold: int, shot: int, seed: int, eval_seed: int, step: str = "evaluate"
    ) -> tuple[Spec, Spec | None]:
        """An evaluation, or the controls beside it, and its training."""
        sections, network = method.params, method.params.network
        trained = self.train(self.networks_of(method), fold, shot, seed)
        needs = self.tested(method, fold, network.uses_base_learner, network.uses_cam)
        needs["episodes"] = self.episodes(method, needs.pop("lists"), fold, shot, eval_seed)
        args = {"fold": fold, "shot": shot, "eval_seed": eval_seed}
        # the usual checkpoint is left out, as the usual protocol of the episodes is
        unused = () if network.uses_cam else ("delta",)
        unused += ("checkpoint",) if sections.evaluate.checkpoint == "last" else ()
        uses, files = STEPS[step].params(sections, {"evaluate": unused}), {}
        if trained:
            needs["train"] = trained
        else:
            uses["train"] = {"weights": sections.train.weights}
            where = f"methods.{method.name}.train.weights"
            files = by_content(uses, "train", ("weights",), args | {"seed": seed}, where)
        label = f"{method.name}-{shot}shot-fold{fold}-seed{seed}-eval{eval_seed}"
        every = step == "evaluate" and sections.evaluate.checkpoint == "all"
        evaluation = self.add(
            step,
            args,
            uses,
            needs,
            label,
            method.name,
            data_root=self.root(method),
            files=files,
            products=(*STEPS[step].products, *((BY_CHECKPOINT,) if every else ())),
        )
        return evaluation, trained

    def baseline(self, method: Method, fold: int, shot: int, eval_seed: int) -> Spec:
        sections = method.params
        needs = self.tested(method, fold, base_learner=False, cam_head=True)
        needs["episodes"] = self.episodes(method, needs["lists"], fold, shot, eval_seed)
        args = {"fold": fold, "shot": shot, "eval_seed": eval_seed}
        label = f"{method.name}-{shot}shot-fold{fold}-eval{eval_seed}"
        # left out where no embedding is drawn, so that results from before it keep their keys
        draws = sections.network.uses_cam and getattr(sections.network, "embedding", False)
        unused = {} if draws else {"baselines": ("embeddings",)}
        uses = STEPS["baselines"].params(sections, unused)
        return self.add("baselines", args, uses, needs, label, method.name, data_root=self.root(method))

    # --- targets ---------------------------------------------------------------------------------------------

    def runs(self, name: str, target: Target) -> list[dict[str, Any]]:
        """One row for each evaluation of a target."""
        rows = []
        grid = product(target.shots, target.methods, target.folds, target.seeds)
        for shot, method_name, fold, seed in grid:
            method = self.params.methods[method_name]
            seeds = target.evaluation_seeds or method.params.evaluate.seeds
            for eval_seed in seeds:
                place = (method, fold, shot, seed, eval_seed)
                evaluation, trained = self.evaluate(*place)
                row = {"target": name, "method": method_name, "fold": fold, "shot": shot, "seed": seed}
                row |= {"eval_seed": eval_seed, "train": trained and _role(trained)}
                row |= {"evaluate": _role(evaluation), "controls": None}
                if method.params.evaluate.controls and not target.ablation and eval_seed == seeds[0]:
                    row["controls"] = _role(self.evaluate(*place, step="controls")[0])
                rows.append(row)
        return rows

    def baselines(self, name: str, target: Target) -> list[dict[str, Any]]:
        if target.baselines is None:
            return []
        method, rows = self.params.methods[target.baselines], []
        for fold, shot in product(target.folds, target.shots):
            for eval_seed in target.evaluation_seeds or method.params.evaluate.seeds:
                job = self.baseline(method, fold, shot, eval_seed)
                rows.append(
                    {"target": name, "method": method.name, "fold": fold, "shot": shot}
                    | {"eval_seed": eval_seed, "job": _role(job)}
                )
        return rows

    def rows_of(self, targets: Iterable[str]) -> tuple[list[dict], list[dict]]:
        """The runs and the baselines of several targets whose reports are planned."""
        both = [self.rows[name] for name in targets]
        return [row for runs, _ in both for row in runs], [row for _, own in both for row in own]

    def add_report(self, name: str, targets: list[str], runs: list[dict], baselines: list[dict]) -> Spec:
        """The report on some targets."""
        values = self.params.values
        self.rows[name] = runs, baselines
        roles = {role for row in runs for role in (row["train"], row["evaluate"], row["controls"])}
        roles |= {row["job"] for row in baselines}
        own = [spec.key for spec in self.jobs.values() if _role(spec) in roles]
        # not those that fetch: a report must not need the data to be here
        behind = [self.jobs[key] for key in self.closure(own) if not STEPS[self.jobs[key].step].network]
        shown = {_role(spec): spec for spec in behind}
        methods = {row["method"] for row in (*runs, *baselines)}
        params = {
            "experiment": values.experiment,
            "reading": values.reading,
            "report": values.report.model_dump(mode="json"),
            "targets": {
                t: values.targets[t].model_dump(mode="json")
                | {"form": values.targets[t].form or t, "impossible": self.params.impossible.get(t, {})}
                for t in targets
            },
            "methods": {
                m.name: {"label": m.label, "reading": m.reading, "params": _without_paths(m)}
                for m in self.params.methods.values()
                if m.name in methods
            },
            "runs": runs,
            "baselines": baselines,
        }
        spec = self.add("report", {}, params, shown, name, "", options=list(self.params.options))
        self.reports[name] = spec.key
        return spec


def _other_weights(options: BaseLearner) -> tuple[str, ...]:
    """The file of the weights that a base learner keeps beside those that are used; it has none without validation."""
    if options.weights or not options.validate_every:
        return ()
    return (LAST,) if options.checkpoint == "best" else (BEST,)


def dataset(method: Method) -> str:
    """Short name of a method's data set."""
    data = method.params.data
    if data.source == "shapes":
        return "shapes-drawn" if data.shapes.drawn else "shapes"
    if data.official:
        return data.official.folder
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(data.root)).name).strip(".-") or data.source


def _role(spec: Spec) -> str:
    """The job's role as an input of the report."""
    return f"{spec.step}/{spec.key}"


def _without_paths(method: Method) -> dict[str, Any]:
    """A method's sections for the report, without paths, which differ between machines."""
    sections = method.params.model_dump(mode="json")
    del sections["data"]["root"], sections["backbone"]["weights"]
    sections["data"]["name"] = dataset(method)
    return sections
