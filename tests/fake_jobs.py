"""Synthetic finished jobs for the tests of report and tracking, with the files of real ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from i2r.config.load import resolve
from i2r.config.schema import GRIDS
from i2r.data.describe import SAMPLES
from i2r.data.index_table import INDEX, write_index
from i2r.data.lists import fold_lists
from i2r.pipeline.jobs import run_job
from i2r.pipeline.plan import REPORT, Plan, make_plan
from i2r.pipeline.spec import Spec, write_spec
from i2r.pipeline.steps import BEST, BY_CHECKPOINT

NAMES = ["star", "gear", "key", "mug", "fish", "crescent", "leaf", "arrow", "heart", "bolt"]
LEFT_OUT = {"train_000099": "JPEGImages/train_000099.jpg: damaged, part of the image is missing"}
NAMES += ["cross", "drop", "hand", "cup", "bell", "anchor", "comb", "tree", "boat", "wheel"]
METHODS: dict[str, dict[str, Any]] = {
    "i2r": {"label": "I²R"},
    "i2r-ordered": {"label": "I²R, ordered prior", "network": {"prior": "ordered"}},
    "bam": {"label": "BAM", "network": "bam"},
    "no-pmgm": {"label": "without PMGM", "network": {"prior": "bam"}},
    "no-mask": {"label": "without DICM", "network": {"mask": "none"}},
    "no-support": {"network": {"mask": "none", "support_branch": False}},
    "decoder": {"network": {"prior": "bam", "mask": "none", "support_branch": False}},
}
TARGETS: dict[str, dict[str, Any]] = {
    "table1": {"methods": ["i2r", "i2r-ordered", "bam"], "folds": [0, 1], "baselines": "i2r"},
    "table3": {
        "methods": ["i2r", "i2r-ordered", "no-pmgm", "no-mask", "no-support", "decoder"],
        "folds": [0],
        "ablation": True,
    },
    "table4": {"methods": ["i2r"], "folds": [0, 1], "baselines": "i2r"},
}
BASELINES = {"foreground": 0.1, "prior-pmgm": 0.22, "prior-ordered": 0.24, "prior-bam": 0.31}
BASELINES |= {"prior-mean": 0.29, "prototype": 0.26}
MEASURES = {"pmgm": (0.41, 45, 33), "ordered": (0.47, 47, 34), "bam": (0.9, 55, 36), "mean": (0.8, 57, 37)}
PRIOR = {"bce": 0.4, "ap": 50.0, "iou_best": 35.0, "share_cam": 2.0, "precision_cam": 40.0, "recall_cam": 6.0}
EXCLUDED = {"class": 2, "name": "gear", "images": 1}
ENVIRONMENT = {
    "python": "3.11.9",
    "torch": "2.13.0",
    "platform": "Linux x86_64",
    "device": "cpu",
    "commit": "c0ffee0",
}
COST = {"seconds": 42.0, "cpu_seconds": 40.0, "gpu_seconds": 0.0, "memory_mb": 700, "gpu_memory_mb": None}
COST |= {"cpu_joules": None, "gpu_joules": None}


def finish(results: Path, spec: Spec, files: dict[str, bytes], **metrics) -> Path:
    """Write one finished job with these products; returns its folder."""
    folder = results / spec.folder
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    manifest = {
        "spec": spec.values(),
        "products": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
        "sizes": {file: len(content) for file, content in files.items()},
        "inputs": {},
        "code": "0" * 16,
        "metrics": metrics,
        "environment": ENVIRONMENT,
        "times": {
            "started": "2026-11-22T18:00:00+00:00",
            "ended": "2026-11-22T18:00:42+00:00",
            "seconds": 42.0,
        },
        "cost": COST,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def episodes(rng: np.random.Generator, fold: int, level: float, count: int) -> pd.DataFrame:
    """Episodes of a fold with an IoU around `level`."""
    kept = [c for c in range(5 * fold + 1, 5 * fold + 6) if c != EXCLUDED["class"]]
    classes = rng.permutation(np.resize(kept, count))
    union = rng.integers(300, 900, count)
    share = np.clip(rng.normal(level + 0.03 * (classes % 5), 0.18), 0, 1)
    shown = data_set()["val"]
    images = {cls: [name for name, pixels in shown.items() if str(cls) in pixels] for cls in kept}
    queries = [str(rng.choice(images[cls])) for cls in classes]
    frame = pd.DataFrame({"index": range(count), "class": classes, "query": queries, "supports": "s"})
    return frame.assign(
        inter_fg=(union * share).astype(int), union_fg=union, inter_bg=8000, union_bg=8000 + union
    )


def controls(rng: np.random.Generator, fold: int, level: float, count: int) -> pd.DataFrame:
    """Controls of a network that finds what the supports show: a tenth is left with supports of another class."""
    frame = episodes(rng, fold, level, count).assign(shown=1, marked=0.1)
    shown = frame.assign(shown_inter=frame["inter_fg"], shown_union=frame["union_fg"])
    kinds = {"right": 1.0, "present": 0.1, "absent": 0.0, "itself": 1.1, "objects": 0.9, "test objects": 1.0}
    parts = [
        shown.assign(kind=kind, inter_fg=(share * frame["inter_fg"]).astype(int))
        for kind, share in kinds.items()
    ]
    return pd.concat(parts)


def on_all_grids(frame: pd.DataFrame, scoring: str, tta: str = "none") -> pd.DataFrame:
    """The episodes with the counts of the other yardsticks, on each of which another share of the object is found."""
    shares = {grid: 0.9 - 0.1 * at for at, grid in enumerate(GRIDS) if grid != scoring}
    if tta != "none":
        shares["without_tta"] = 0.5
    for name, share in shares.items():
        found = {count: frame[count] for count in ("inter_fg", "union_fg", "inter_bg", "union_bg")}
        found["inter_fg"] = (share * frame["inter_fg"]).astype(int)
        frame = frame.assign(**{f"{count}_{name}": values for count, values in found.items()})
    return frame


def scores(frame: pd.DataFrame, scoring: str) -> dict:
    """The scores.json of these episodes, with their yardsticks."""
    main, others = plain_scores(frame), {}
    for column in (name for name in frame if name.startswith("inter_fg_")):
        name = column.removeprefix("inter_fg_")
        others[name] = plain_scores(frame.assign(inter_fg=frame[column]))
    both = others | {scoring: main}
    sticks = {name: {score: own[score] for score in ("miou", "fb_iou")} for name, own in both.items()}
    return main | {"yardsticks": sticks}


def plain_scores(frame: pd.DataFrame) -> dict:
    """The scores of one yardstick."""
    sums = frame.groupby("class")[["inter_fg", "union_fg"]].sum()
    iou = 100 * sums.inter_fg / sums.union_fg
    queries = frame["class"].value_counts()
    names = {c: {"name": NAMES[c - 1], "iou": float(v), "queries": int(queries[c])} for c, v in iou.items()}
    miou = float(iou.mean())
    return {
        "miou": miou, "fb_iou": miou / 2 + 45, "classes": names,
        "excluded": [], "episodes": len(frame), "seconds_per_episode": 0.05,
    }  # fmt: skip


def pictures(
    rng: np.random.Generator, fold: int, level: float, cam: bool, side: int = 97
) -> dict[str, np.ndarray]:
    """The arrays of pictures.npz: a disc on noise, with a slightly shifted prediction."""
    y, x = np.mgrid[:side, :side]
    arrays: dict[str, np.ndarray] = {}
    place = np.random.default_rng(fold)
    for i in range(5):
        both = []
        for _ in range(2):
            cy, cx, radius = place.integers(30, 67), place.integers(30, 67), place.integers(14, 26)
            mask = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            image = place.integers(60, 140, (side, side, 3)) + place.integers(-40, 40, 3)
            image[mask] = image[mask] // 2 + place.integers(60, 160, 3)
            both.append((np.clip(image, 0, 255).astype(np.uint8), mask, cy, cx, radius))
        (support, support_mask, *_), (query, truth, cy, cx, radius) = both
        shift = 30 * (1 - level) * rng.random()
        prediction = (y - cy - shift) ** 2 + (x - cx) ** 2 < radius**2
        iou = (truth & prediction).sum() / (truth | prediction).sum()
        label = truth.astype(np.uint8)
        label[
            ((y - cy) ** 2 + (x - cx) ** 2 >= radius**2) & ((y - cy) ** 2 + (x - cx) ** 2 < (radius + 2) ** 2)
        ] = 255
        near = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius**2))
        meta = {
            "class": 5 * fold + 1 + i,
            "name": NAMES[5 * fold + i],
            "query": f"v{i}",
            "supports": f"u{i}",
            "iou": 100 * iou,
        }
        arrays |= {
            f"query_{i}": query, f"support_{i}": support, f"support_mask_{i}": support_mask.astype(np.uint8),
            f"truth_{i}": label, f"prediction_{i}": prediction.astype(np.uint8),
            f"prior_{i}": (near[4::8, 4::8] * 0.8 + 0.2 * rng.random((12, 12))).astype(np.float32),
            f"meta_{i}": np.array(json.dumps(meta)),
        }  # fmt: skip
        if cam:
            arrays[f"cam_{i}"] = (near**3).astype(np.float32)
    return arrays


def npz(path: Path, arrays: dict[str, np.ndarray]) -> bytes:
    np.savez_compressed(path, **arrays)
    content = path.read_bytes()
    path.unlink()
    return content


def data_set() -> dict:
    """The index of 30 training and 30 validation images; each shows two classes, and every second one a mug too."""
    index: dict = {"source": "shapes", "classes": NAMES, "digest": "d1" * 32, "sizes": {}, "files": {}}
    for at, split in enumerate(("train", "val")):
        index[split] = {}
        for number in range(30):
            name = f"{split}_{number:06d}"
            shown = {number % 20 + 1: 2900, (number + 7) % 20 + 1: 2500} | ({4: 2100} if number % 2 else {})
            index[split][name] = {str(cls): shown[cls] for cls in sorted(shown)}
            index["sizes"][name], index["files"][name] = [96, 80 + number % 16], [str(at), str(number)]
    return index


def objects(index: dict) -> pd.DataFrame:
    """The table of objects of an index: one object of each class, of which a tenth is covered in every third image."""
    rows = [
        (image, int(cls), pixels, pixels if number % 3 else pixels * 9 // 10)
        for split in ("train", "val")
        for number, (image, shown) in enumerate(index[split].items())
        for cls, pixels in shown.items()
    ]
    return pd.DataFrame(rows, columns=["image", "class", "pixels", "visible"])


def png(scratch: Path) -> bytes:
    """The picture of samples."""
    Image.new("RGB", (1440, 256), "seagreen").save(scratch, "png")
    content = scratch.read_bytes()
    scratch.unlink()
    return content


def parquet(scratch: Path, index: dict) -> bytes:
    write_index(scratch, index)
    content = scratch.read_bytes()
    scratch.unlink()
    return content


def csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def lines(steps: int, rng: np.random.Generator, floor: float = 0.5) -> bytes:
    """A metrics.jsonl of a training whose loss falls to `floor`."""
    rows = []
    for step in range(0, steps, 5):
        loss = floor + 1.5 * np.exp(-step / 80) + 0.1 * rng.standard_normal()
        row = {
            "step": step,
            "seconds": 0.1,
            "loss": loss,
            "main": loss / 2,
            "lr": 0.01,
            "mask_ratio": 1e-4,
        }
        rows.append(json.dumps(row))
    return ("\n".join(rows) + "\n").encode()


def level_of(spec: Spec) -> float:
    """The score of a synthetic network, computed from its options, so that methods with the same jobs agree."""
    network = spec.params["network"]
    level = {"pmgm": 0.34, "ordered": 0.55, "bam": 0.45}.get(network.get("prior"), 0.4)
    if network["name"] == "bam":
        level = 0.5
    level += 0.06 * (network.get("support_branch") is False) + 0.03 * (network.get("mask") == "none")
    level += 0.02 * (spec.params["backbone"]["name"] != "small") + 0.01 * spec.args.get("seed", 0)
    return level + 0.02 * (spec.args["shot"] - 1)


def by_checkpoint(spec: Spec, count: int) -> pd.DataFrame:
    """Counts of checkpoints on the episodes of an evaluation.

    The best on held-out classes is better than the last in odd folds and worse in even ones; of those at a third and at
    two thirds of the steps, one is better and one worse than the last.
    """
    fold, seed, last = spec.args["fold"], spec.args["eval_seed"], level_of(spec)
    odd = 1 if fold % 2 else -1
    odd *= 1 + int(spec.inputs["train"].key, 16) % 11 / 50  # so that training seeds differ
    levels = {"10": last - 0.06 * odd, "9": last + 0.03 * odd, "best": last + 0.04 * odd, "last": last}
    return pd.concat(
        episodes(np.random.default_rng([fold, seed]), fold, level, count).assign(checkpoint=name)
        for name, level in levels.items()
    )


def evaluate_products(
    spec: Spec, rng: np.random.Generator, drawn: np.random.Generator, scratch: Path, count: int
) -> dict:
    """Of an evaluation; `rng` is its own, `drawn` that of all evaluations on the same episodes."""
    fold = spec.args["fold"]
    level = level_of(spec)
    how = spec.params["evaluate"]
    table = on_all_grids(episodes(drawn, fold, level, count), how["scoring"], how["tta"])
    scored = scores(table, how["scoring"]) | {"prior": PRIOR}
    if "mask" in spec.params["network"]:
        scored["mask_ratio"] = [1e-4, 2e-4, 1e-4, 3e-4]
    scored["excluded"] = [EXCLUDED] if fold == 0 else []
    shown = pictures(rng, fold, level, cam=spec.params["network"].get("prior") != "bam")
    files = {"scores.json": scored, "episodes.csv": csv(table), "pictures.npz": npz(scratch, shown)}
    every = {BY_CHECKPOINT: csv(by_checkpoint(spec, count))} if BY_CHECKPOINT in spec.products else {}
    return files | every


def baselines_products(spec: Spec, drawn: np.random.Generator, scratch: Path, count: int) -> dict:
    """Of a job of the baselines; `drawn` as for an evaluation."""
    args, fold = spec.args, spec.args["fold"]
    scoring = spec.params["evaluate"]["scoring"]
    tables = {
        name: on_all_grids(
            episodes(np.random.default_rng([fold, args["eval_seed"]]), fold, level, count), scoring
        )
        for name, level in BASELINES.items()
    }
    priors = {
        m: {
            "bce": b + fold / 50 + args["eval_seed"] / 100,
            "bce_calibrated": b / 2,
            "bce_background": b + 0.1,
        }
        | {"ap": a + fold, "iou_best": i + fold, "threshold_best": 0.5}
        for m, (b, a, i) in MEASURES.items()
    }
    scored = {"methods": {m: scores(table, scoring) for m, table in tables.items()}, "priors": priors}
    if draws := spec.params["baselines"].get("embeddings"):
        each = [priors["pmgm"] | {"bce": 0.5 + number / 10} for number in range(draws)]
        priors["embedding"] = priors["pmgm"] | {"bce": float(np.mean([one["bce"] for one in each]))}
        scored["embedding"] = {"draws": each, "supports_without_plus": 30.0}
    scored["cam"] = {"share_cam": 1.4, "precision_cam": 45.0, "recall_cam": 4.0}
    scored["cam_classes"] = {str(5 * fold + 1): {"3": 20, "7": 5}}
    for name, (bce, ap, _) in MEASURES.items():
        noise = drawn.normal(0, 0.05, count)
        measures = {
            "bce": bce + noise,
            "bce_calibrated": bce / 2 + noise,
            "bce_background": bce + 0.1 + noise,
        }
        tables[f"prior-{name}"] = tables[f"prior-{name}"].assign(**measures, ap=ap / 100 + noise)
    table = pd.concat([table.assign(method=m) for m, table in tables.items()])
    return {"scores.json": scored, "episodes.csv": csv(table), "pictures.npz": npz(scratch, {})}


def products(spec: Spec, rng: np.random.Generator, scratch: Path, count: int, empty_fold: int | None) -> dict:
    """Synthetic products of a job: file -> bytes, or values to write as JSON."""
    args, fold = spec.args, spec.args.get("fold")
    drawn = np.random.default_rng([fold or 0, args.get("eval_seed", 0)])  # the same for every method
    match spec.step:
        case "data":
            index = data_set()
            if spec.params["data"].get("faulty") == "leave_out":
                index["left_out"] = LEFT_OUT
            files = {
                INDEX: parquet(scratch, index),
                SAMPLES: png(scratch),
                "objects.csv": csv(objects(index)),
            }
            return {name: content for name, content in files.items() if name in spec.products}
        case "fetch":
            return {"fetched.json": {}}
        case "lists":
            rule = {name: value for name, value in spec.params["data"].items() if name != "size"}
            rule["folds"] = "contiguous"
            return {"lists.json": fold_lists(data_set(), fold, **rule)}
        case "episodes":
            return {"episodes.json": {}}
        case "backbone" | "base_learner" | "cam_head":
            files = {"weights.safetensors": b"w", "metrics.jsonl": lines(100, rng)}
            return files | ({} if spec.step == "backbone" else {"scores.json": {"miou": 50.0}})
        case "train":
            kept = {name: b"w" for name in ("weights.safetensors", BEST) if name in spec.products}
            return kept | {"metrics.jsonl": lines(500, rng, 1 - level_of(spec))}
        case "controls" if fold == empty_fold:
            table = controls(drawn, fold, 0.5, count)[:0]
            return {"scores.json": {"episodes": {}, "left_out": {}}, "controls.csv": csv(table)}
        case "evaluate" | "baselines" if fold == empty_fold:
            nothing = pd.DataFrame(
                columns=["index", "class", "query", "inter_fg", "union_fg", "inter_bg", "union_bg"]
            )
            scored = {"miou": None, "why": "no class has 5 test images", "excluded": [EXCLUDED]}
            return {"scores.json": scored, "episodes.csv": csv(nothing), "pictures.npz": npz(scratch, {})}
        case "evaluate":
            return evaluate_products(spec, rng, drawn, scratch, count)
        case "controls":
            table = controls(drawn, fold, level_of(spec), count)
            return {"scores.json": {"episodes": {}, "left_out": {}}, "controls.csv": csv(table)}
        case "baselines":
            return baselines_products(spec, drawn, scratch, count)
    raise ValueError(spec.step)


def experiment(**changes: Any) -> dict[str, Any]:
    """Params of a small experiment, with sections changed or replaced."""
    sections = {"data": {"source": "shapes", "size": 97}, "backbone": {"name": "small"}}
    sections |= {"network": {"ensemble": False}, "train": {"steps": 500}, "base_learner": {"steps": 10}}
    sections |= {"report": {"pictures": 2, "bootstrap": 50}, "experiment": "fake"}
    return sections | {"methods": METHODS, "targets": TARGETS} | changes


def planned(**changes: Any) -> Plan:
    """The plan of an experiment."""
    return make_plan(resolve([("params", experiment(**changes))]))


def make(results: Path, count: int = 60, empty_fold: int | None = None, **changes: Any) -> Plan:
    """Finish all jobs of an experiment except its reports.

    Args:
        empty_fold: a fold in which no class is scored.
        changes: values of the experiment, see `experiment`.
    """
    results.mkdir(parents=True, exist_ok=True)
    plan, rng = planned(**changes), np.random.default_rng(0)
    for spec in plan.jobs.values():
        write_spec(spec, results)
        if spec.step in ("report", "track"):
            continue
        files = products(spec, rng, results / "scratch.npz", count, empty_fold)
        files = {name: v if isinstance(v, bytes) else json.dumps(v).encode() for name, v in files.items()}
        finish(results, spec, files, loss=0.5)
    return plan


def report_of(plan: Plan, name: str = REPORT) -> Spec:
    """The report on a target, or on all targets."""
    return next(s for s in plan.target(name) if s.step == "report" and name in plan.labels[s.key])


def report(results: Path, count: int = 60, empty_fold: int | None = None, **changes: Any) -> Path:
    """Make a synthetic experiment, run its report, and return the report's folder."""
    spec = report_of(make(results, count, empty_fold, **changes))
    run_job(spec.path(results))
    return results / spec.folder
