"""The plan: which jobs the params ask for, what each is made with, and where its products lie.

Pure and fast: it runs each time the Snakefile is read, so it imports neither torch nor mlflow. A job's key is a hash
of its step, its arguments, the params it uses, the version of the step's code and the keys of its inputs; what
changes no number (folders, devices, workers) is in its spec, but not in its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from i2r.config.schema import FROM_ONE_SHOT, CamOptions, Params, ParamsError
from i2r.files import read_json, sha256, write_json
from i2r.pipeline.jobs import VERSIONS, key_of

Spec = dict[str, Any]

RESULTS = Path("results")
RESERVED = ("store", "specs", "state", "parked", "logs", "mlruns", "mlartifacts")  # other folders of results/

# The steps of each stage, and where each keeps its products below results/store.
STAGES = {
    "data": ("data", "lists", "episodes"),
    "backbone": ("backbone",),
    "base_learner": ("base_learner",),
    "cam_head": ("cam_head",),
    "train": ("train",),
    "evaluate": ("evaluate", "baselines"),
    "ablate": ("ablate/train", "ablate/evaluate"),
    "report": (),  # results/<experiment>
}

# What each step leaves beside its manifest; `data` also VOC/ where the data set is generated.
PRODUCTS = {
    "data": ["index.json"],
    "lists": ["lists.json"],
    "episodes": ["episodes.json"],
    "backbone": ["weights.safetensors", "metrics.jsonl"],
    "base_learner": ["weights.safetensors", "scores.json", "metrics.jsonl"],
    "cam_head": ["weights.safetensors", "scores.json", "metrics.jsonl"],
    "train": ["weights.safetensors", "metrics.jsonl"],
    "evaluate": ["scores.json", "episodes.csv", "pictures.npz"],
    "baselines": ["scores.json", "episodes.csv", "pictures.npz"],
    "report": [
        *("metrics.json", "curves.csv", "table.md", "ablation.md", "priors.md", "summary.md", "summary.html"),
        *("table.csv", "ablation.csv", "priors.csv", "metrics.csv", "per_class.csv", "figures"),
    ],
}


# What the baselines without training read of a method: they make every prior, whatever it has.
CAM = [name for name in CamOptions.model_fields if name != "prior"]


@dataclass(frozen=True)
class Plan:
    """All jobs of one experiment, each after its inputs, the report last."""

    params: Params
    jobs: list[Spec]

    def of(self, stage: str) -> list[Spec]:
        return [spec for spec in self.jobs if spec["stage"] == stage]

    @property
    def report(self) -> Spec:
        return self.jobs[-1]

    def files(self, stage: str) -> list[str]:
        """Every file that the jobs of a stage leave."""
        return [file for spec in self.of(stage) for file in outputs(spec)]


def outputs(spec: Spec, results: Path = RESULTS) -> list[str]:
    """Manifest and declared products of a job."""
    folder = results / spec["folder"]
    return [str(folder / name) for name in (spec["manifest"], *spec["products"])]


def spec_path(folder: str, results: Path = RESULTS) -> Path:
    """Where the spec of the job with this folder below results lies: store/<place>/<name>/<key>."""
    place, _, key = folder.removeprefix("store/").rsplit("/", 2)
    return results / "specs" / place / f"{key}.json"


def inputs(path: str | Path, results: Path = RESULTS) -> list[str]:
    """Every file that the job of a spec file needs: by its spec, so that params edited meanwhile have no say."""
    folders = read_json(path)["inputs"].values()
    return [file for folder in folders for file in outputs(read_json(spec_path(folder, results)), results)]


def write_specs(plan: Plan, results: Path = RESULTS) -> None:
    """Write the spec of every job where it is not there as it should be."""
    for spec in plan.jobs:
        path = results / spec["spec"]
        if not path.is_file() or read_json(path) != spec:
            write_json(path, spec)


def name_by_content(uses: dict[str, Any], args: dict[str, Any]) -> dict[str, str]:
    """Put the sha256 of each file of weights in the place of its path, and return the paths: "section.name": path.

    Raises:
        ParamsError: there is no such file, or its name has a placeholder that the job knows nothing of.
    """
    files = {}
    for section, name in (("base_learner", "weights"), ("method", "weights"), ("method", "start")):
        pattern = uses.get(section, {}).get(name)
        if pattern is None or pattern == FROM_ONE_SHOT:
            continue
        key = f"methods.{args['method']}.{name}" if section == "method" else f"{section}.{name}"
        try:
            path = Path(pattern.format(**args))
        except (KeyError, IndexError, ValueError):
            raise ParamsError(f"{key}: {pattern!r} may hold {{fold}}, {{shot}} and {{seed}} only") from None
        if not path.is_file():
            raise ParamsError(f"{key}: no such file: {path}")
        stat = path.stat()
        uses[section] = uses[section] | {name: _digest(path, stat.st_size, stat.st_mtime_ns)}
        files[f"{section}.{name}"] = str(path)
    return files


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    """sha256 of a file, once for many jobs."""
    return sha256(path)


def make_plan(params: Params) -> Plan:
    """The jobs that the params ask for.

    Raises:
        ParamsError: if the experiment has the name of a folder that results/ needs, or a file of weights is missing.
    """
    if params.experiment in RESERVED:
        raise ParamsError(
            f"experiment: {params.experiment!r} is the name of a folder in results/; take another"
        )
    jobs: dict[str, Spec] = {}
    # files of weights enter where they are used, by their content
    sections = params.model_dump(
        mode="json", exclude={"method": {"weights", "start"}, "base_learner": {"weights"}}
    )
    data_root = sections["data"].pop("root")  # `digest` says which data it is; without one the folder has to
    dataset, backbone = params.data.source, params.backbone.name
    if params.backbone.digest:  # likewise
        sections["backbone"]["weights"] = params.backbone.digest
    # all that is read of a backbone once it is made
    made = {**sections["backbone"], "weights": None, "digest": None, "pretrain": None}

    def pick(section: str, *names: str) -> dict[str, Any]:
        return {name: sections[section][name] for name in names}

    def add(
        step: str, name: str, inputs: dict[str, Spec], place: str = "", /, args=None, **uses: Any
    ) -> Spec:
        """Plan a job, unless it is planned already; `uses` are the params that it depends on."""
        files = name_by_content(uses, args or {})
        spec = {
            "step": step,
            "name": name,
            "args": args or {},
            "params": uses,
            "version": VERSIONS[step],
            "inputs": {role: job["folder"] for role, job in inputs.items()},
            "products": list(PRODUCTS[step]),
            "manifest": "manifest.json",
            "runtime": sections["runtime"],
            "data_root": data_root,
        }
        if files:
            spec["files"] = files
        place = place or step
        spec["key"] = key = key_of(spec)
        spec["stage"] = next((stage for stage, places in STAGES.items() if place in places), step)
        spec["folder"] = f"store/{place}/{name}/{key}"
        spec["spec"] = f"specs/{place}/{key}.json"
        return jobs.setdefault(key, spec)

    def in_fold(fold: int) -> dict[str, Spec]:
        """What every job of a fold needs."""
        name, args, shared = f"{dataset}-{backbone}-fold{fold}", {"fold": fold}, {"data": sections["data"]}
        rule = pick("data", "novel", "min_area", "min_class_images")
        lists = add("lists", f"{dataset}-fold{fold}", {"data": data}, args=args, data=rule)
        needs = {"data": data, "lists": lists, "backbone": network}
        learned = ["base_learner"] if params.cam_head.mode == "none" else ["base_learner", "cam_head"]
        for step in learned:
            uses = {"backbone": made, step: sections[step]}
            if step == "base_learner" and params.base_learner.weights:
                uses[step] = sections[step] | {"weights": params.base_learner.weights}
            needs[step] = add(step, name, dict(needs), args=args, **shared, **uses)
        return needs

    def in_test(fold: int, shot: int, eval_seed: int) -> dict[str, Spec]:
        """What every evaluation of a fold needs."""
        needs, args = in_fold(fold), {"fold": fold, "shot": shot, "eval_seed": eval_seed}
        name = f"{dataset}-{shot}shot-fold{fold}-eval{eval_seed}"
        uses = {"evaluate": pick("evaluate", "episodes")}
        return needs | {"episodes": add("episodes", name, {"lists": needs["lists"]}, args=args, **uses)}

    def network_of(
        method: str, fold: int, shot: int, seed: int
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Name, arguments and params of a method's network."""
        name = f"{dataset}-{backbone}-{method}-{shot}shot-fold{fold}-seed{seed}"
        args = {"method": method, "fold": fold, "shot": shot, "seed": seed}
        shared = {"data": sections["data"], "backbone": made}
        shared["method"] = params.resolve(method).model_dump(mode="json", exclude_none=True)
        if shot == 1 and shared["method"].get("start") == FROM_ONE_SHOT:
            del shared["method"]["start"]
        return name, args, shared

    def train(method: str, fold: int, shot: int, seed: int, place: str) -> dict[str, Spec]:
        """Plan a training; {} for a method whose weights are a file."""
        name, args, shared = network_of(method, fold, shot, seed)
        if "weights" in shared["method"]:
            return {}
        needs = in_fold(fold)
        if shared["method"].get("start") == FROM_ONE_SHOT:
            needs["start"] = train(method, fold, 1, seed, place)["train"]
        where = place and f"{place}/train"
        uses = shared | {"train": params.training(method).model_dump(mode="json")}
        return {"train": add("train", name, needs, where, args=args, **uses)}

    def evaluate(method: str, fold: int, shot: int, seed: int, place: str = "") -> None:
        """Plan a training and its evaluations."""
        name, args, shared = network_of(method, fold, shot, seed)
        trained = train(method, fold, shot, seed, place)
        for eval_seed in params.evaluate.seeds:
            needs = in_test(fold, shot, eval_seed) | trained
            add(
                "evaluate",
                f"{name}-eval{eval_seed}",
                needs,
                place and f"{place}/evaluate",
                args=args | {"eval_seed": eval_seed},
                **shared,
                evaluate=pick("evaluate", "scoring", "tta"),
                report=shown,
            )

    shown = pick("report", "pictures", "bootstrap")
    if dataset == "shapes":
        data = add("data", dataset, {}, data=pick("data", "source", "shapes"))
        data["products"] = [*PRODUCTS["data"], "VOC"]
    else:
        which = {"digest": params.data.digest} if params.data.digest else {"root": data_root}
        data = add("data", dataset, {}, data=pick("data", "source", "train_list", "val_list") | which)
    if backbone == "small":  # the one that is pretrained here, on crops of the data at the episodes' size
        uses = {"backbone": sections["backbone"], "data": pick("data", "size")}
        network = add("backbone", f"{dataset}-{backbone}", {"data": data}, **uses)
    else:
        network = add("backbone", backbone, {}, backbone=sections["backbone"] | {"pretrain": None})
        if params.backbone.digest:
            network["files"] = {"backbone.weights": params.backbone.weights}

    run, ablate = params.run, params.ablate
    for fold, shot in product(run.folds, run.shots):
        for eval_seed in params.evaluate.seeds:
            args = {"fold": fold, "shot": shot, "eval_seed": eval_seed}
            uses = {"data": sections["data"], "backbone": made, "baselines": sections["baselines"]}
            uses |= {"method": pick("method", *CAM), "evaluate": pick("evaluate", "scoring"), "report": shown}
            add(
                "baselines",
                f"{dataset}-{backbone}-{shot}shot-fold{fold}-eval{eval_seed}",
                in_test(fold, shot, eval_seed),
                args=args,
                **uses,
            )
        for method, seed in product(run.methods, run.seeds):
            evaluate(method, fold, shot, seed)
    for method, shot, fold, seed in product(ablate.methods, run.shots, ablate.folds, ablate.seeds):
        evaluate(method, fold, shot, seed, "ablate")

    reported = {f"{spec['step']}/{spec['name']}": spec for spec in jobs.values()}
    uses = {name: value for name, value in sections.items() if name != "runtime"}
    uses["methods"] = {
        name: {k: v for k, v in sections["methods"][name].items() if k not in ("weights", "start")}
        for name in (*run.methods, *ablate.methods)
    }
    report = add("report", params.experiment, reported, **uses)
    report |= {"folder": params.experiment, "manifest": f"report-{report['key']}.json"}
    return Plan(params, list(jobs.values()))
