"""Finished jobs made up for the tests of report and tracking: the files of real ones, small and synthetic."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

NAMES = ["star", "gear", "key", "mug", "fish", "crescent", "leaf", "arrow", "heart", "bolt"]
NAMES += ["cross", "drop", "hand", "cup", "bell", "anchor", "comb", "tree", "boat", "wheel"]
PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
LEVEL = {"i2r": 0.34, "i2r-ordered": 0.55, "bam": 0.5, "i2r-no-pmgm": 0.45, "i2r-no-dicm": 0.52}
LEVEL |= {"i2r-no-support": 0.5, "i2r-decoder": 0.44}
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


def finish(
    results: Path, step: str, name: str, args: dict, params: dict, inputs: dict, files: dict, **metrics
) -> Path:
    """Write one finished job; `files` is name -> bytes. Returns its folder; the folder's name is its key."""
    spec = {
        "step": step,
        "args": args,
        "params": params,
        "inputs": {role: f"store/x/{path.name}" for role, path in inputs.items()},
    }
    key = hashlib.sha256(json.dumps([spec, name], sort_keys=True).encode()).hexdigest()[:12]
    folder = results / "store" / step / name / key
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    manifest = {
        "spec": {**spec, "key": key, "name": name, "data_root": None},
        "products": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
        "metrics": metrics,
        "environment": ENVIRONMENT,
        "times": {
            "started": "2026-11-22T18:00:00+00:00",
            "ended": "2026-11-22T18:00:42+00:00",
            "seconds": 42.0,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def episodes(rng: np.random.Generator, fold: int, level: float, count: int) -> pd.DataFrame:
    """Episodes of a fold whose IoU lies around `level`."""
    kept = [c for c in range(5 * fold + 1, 5 * fold + 6) if c != EXCLUDED["class"]]
    classes = rng.permutation(np.resize(kept, count))
    union = rng.integers(300, 900, count)
    share = np.clip(rng.normal(level + 0.03 * (classes % 5), 0.18), 0, 1)
    frame = pd.DataFrame({"index": range(count), "class": classes, "query": "q", "supports": "s"})
    return frame.assign(
        inter_fg=(union * share).astype(int), union_fg=union, inter_bg=8000, union_bg=8000 + union
    )


def scores(frame: pd.DataFrame) -> dict:
    """The scores.json of these episodes."""
    sums = frame.groupby("class")[["inter_fg", "union_fg"]].sum()
    iou = 100 * sums.inter_fg / sums.union_fg
    queries = frame["class"].value_counts()
    names = {c: {"name": NAMES[c - 1], "iou": float(v), "queries": int(queries[c])} for c, v in iou.items()}
    miou = float(iou.mean())
    return {
        "miou": miou, "fb_iou": miou / 2 + 45, "interval": [miou - 2, miou + 2], "classes": names,
        "excluded": [], "episodes": len(frame), "seconds_per_episode": 0.05,
    }  # fmt: skip


def pictures(
    rng: np.random.Generator, fold: int, level: float, cam: bool, side: int = 97
) -> dict[str, np.ndarray]:
    """The arrays of pictures.npz: a disk of another colour on noise, predicted a little beside the truth."""
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
            "supports": [f"u{i}"],
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


def csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def lines(steps: int, rng: np.random.Generator, floor: float = 0.5) -> bytes:
    """A metrics.jsonl of a training whose loss falls to `floor`."""
    rows = []
    for step in range(0, steps, 5):
        loss = floor + 1.5 * np.exp(-step / 80) + 0.1 * rng.standard_normal()
        row = {
            "step": step,
            "seconds": step * 0.1,
            "loss": loss,
            "main": loss / 2,
            "lr": 0.01,
            "mask_ratio": 1e-4,
        }
        rows.append(json.dumps(row))
    return ("\n".join(rows) + "\n").encode()


def make(
    results: Path, folds: tuple[int, ...] = (0, 1, 2, 3), count: int = 100, empty_fold: int | None = None
):
    """All finished jobs of the default experiment: {"<step>/<name>": folder}, as the report job gets them.

    `empty_fold`: a fold that has no class to score, as evaluate writes it.
    """
    results.mkdir(parents=True, exist_ok=True)
    rng, jobs, p = np.random.default_rng(0), {}, PARAMS
    scratch = results / "scratch.npz"

    def add(step: str, name: str, args: dict, sections: dict, inputs: dict, files: dict, **metrics) -> Path:
        files = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in files.items()}
        jobs[f"{step}/{name}"] = finish(results, step, name, args, sections, inputs, files, **metrics)
        return jobs[f"{step}/{name}"]

    index = {
        "classes": NAMES,
        "train": {"a": {"1": 900}},
        "val": {"b": {"1": 900}},
        "sizes": {},
        "digest": "d1" * 32,
    }
    data = add("data", "shapes", {}, {"data": p["data"]}, {}, {"index.json": index})
    both = {"data": p["data"], "backbone": p["backbone"]}
    backbone = add(
        "backbone", "shapes-small", {}, both, {"data": data},
        {"weights.safetensors": b"w", "metrics.jsonl": lines(100, rng)}, accuracy=0.94,
    )  # fmt: skip
    for fold in folds:
        args = {"fold": fold}
        drawn = {"index": data, "backbone": backbone}
        lists = add(
            "lists", f"shapes-fold{fold}", args, {"data": p["data"]}, {"data": data}, {"lists.json": {}}
        )
        tests = {**args, "shot": 1, "eval_seed": 0}
        listed = add(
            "episodes", f"shapes-1shot-fold{fold}-e0", tests, {"evaluate": p["evaluate"]}, {"lists": lists},
            {"episodes.json": []},
        )  # fmt: skip
        drawn = {"data": data, "lists": lists, "episodes": listed, "backbone": backbone}
        ablated = p["ablate"]["methods"] if fold in p["ablate"]["folds"] else []
        for method in p["run"]["methods"] + ablated:
            options = {**p["method"], **p["methods"][method]}
            args = {"method": method, "fold": fold, "shot": 1, "seed": 0}
            name = f"shapes-small-{method}-1shot-fold{fold}-seed0"
            train = add(
                "train", name, args, {**both, "method": options, "train": p["train"]}, drawn,
                {"weights.safetensors": b"w", "metrics.jsonl": lines(500, rng, 1 - LEVEL[method])}, loss=0.5,
            )  # fmt: skip
            frame = episodes(np.random.default_rng([fold, 1]), fold, LEVEL[method], count)
            result = scores(frame) | {
                "prior": PRIOR,
                "mask_ratio": [1e-4, 2e-4, 1e-4, 3e-4],
                "cam_classes": {str(5 * fold + 1): {"3": 20, "7": 5}},
            }  # fmt: skip
            if fold == 0:
                result["excluded"] = [EXCLUDED]
            files = {
                "scores.json": result, "episodes.csv": csv(frame),
                "pictures.npz": npz(scratch, pictures(rng, fold, LEVEL[method], options["network"] == "i2r")),
            }  # fmt: skip
            if fold == empty_fold:
                files = {"scores.json": {"miou": None, "why": "no class has 5 test images", "excluded": []}}
            add(
                "evaluate", f"{name}-e0", {**args, "eval_seed": 0},
                {**both, "method": options, "evaluate": p["evaluate"]}, {**drawn, "train": train}, files,
                miou=files["scores.json"]["miou"],
            )  # fmt: skip
        frames = {m: episodes(np.random.default_rng([fold, 1]), fold, v, count) for m, v in BASELINES.items()}
        methods = {m: scores(frame) for m, frame in frames.items()}
        priors = {
            m: {"bce": b + fold / 50, "ap": a + fold, "iou_best": i + fold, "threshold_best": 0.5}
            for m, (b, a, i) in MEASURES.items()
        }
        content = {"methods": methods, "priors": priors}
        if fold == empty_fold:
            content = {"miou": None, "why": "no class has 5 test images"}
        table = pd.concat([frame.assign(method=m) for m, frame in frames.items()])
        add(
            "baselines", f"shapes-small-1shot-fold{fold}-e0", tests, both, drawn,
            {"scores.json": content, "episodes.csv": csv(table[["method", *frame.columns]])},
        )  # fmt: skip
    return jobs
