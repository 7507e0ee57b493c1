"""Conversion of published checkpoints of I2R and BAM to files of this project.

| kind         | published as                                 | becomes                                      |
| ------------ | -------------------------------------------- | -------------------------------------------- |
| iir-base     | I2R's base network: ResNet, classifier, base learner | layer*, fc, ppm, cls                 |
| bam-base     | BAM's base network: dilated ResNet or VGG, base learner | layer*, ppm, cls                  |
| bam          | BAM, complete                                | a network file (nets/io/network_file.py)     |
| i2r-released | I2R, complete                                | a network file                               |

The files of base networks can be used as `backbone.weights` and as `base_learner.weights`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, equal

from i2r.config import schema
from i2r.config.networks import NETWORKS, network_options
from i2r.config.readings import says
from i2r.files import write_json
from i2r.nets.backbone.base import build_backbone
from i2r.nets.io.network_file import build_network, describe, save_network
from i2r.nets.io.weights import (
    WeightsError,
    load_backbone_tensors,
    open_base_learner,
    read_tensors,
    without_values,
    write_tensors,
)

_BASE = (("layer", "layer"), ("ppm.", "ppm."), ("cls.", "cls."), ("encoder.", "layer"))
_ENCODER = {"layer": "encoder.backbone.layer", "fc.": "encoder.backbone.fc."} | {
    name: f"encoder.base_learner.{name}" for name in ("ppm.", "cls.")
}
_SHARED = (
    ("learner_base.0.", "encoder.base_learner.ppm."),
    ("learner_base.1.", "encoder.base_learner.cls."),
    *((name, f"meta_learner.{name}") for name in ("down_query.", "down_supp.", "init_merge.", "kshot_rw.")),
    *((name, f"meta_learner.ensemble.{name}") for name in ("gram_merge.", "cls_merge.")),
)

# kind: prefixes of the published names and their replacements (None: never used by the published code).
# Several names can map to one tensor, which the published modules contain several times.
NAMES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "iir-base": (*_BASE, ("fc.", "fc.")),
    "bam-base": _BASE,
    "bam": (
        ("layer", "encoder.backbone.layer"),
        *_SHARED,
        *((name, f"meta_learner.{name}") for name in ("ASPP_meta.", "res1_meta.", "res2_meta.", "cls_meta.")),
    ),
    "i2r-released": (
        *((f"PSPNet_.{name}", _ENCODER[ours]) for name, ours in (*_BASE, ("fc.", "fc."))),
        *((f"cam_net.model.{name}", _ENCODER[ours]) for name, ours in (*_BASE, ("fc.", "fc."))),
        *_SHARED,
        ("cam_mask_init.", "meta_learner.cam_mask_init."),
        ("S_block_res2_meta.", None),
        *((name, f"meta_learner.decoder.{name}") for name in ("Q_", "S_", "CrossAttn.")),
    ),
}

# kind: names by which it is recognised
MARKS = {
    "iir-base": ("layer0.0.weight", "fc.weight", "cls.4.weight"),
    "bam-base": ("layer0.0.weight", "cls.4.weight"),
    "bam": ("layer0.0.weight", "learner_base.1.4.weight", "ASPP_meta.layer6_0.0.weight"),
    "i2r-released": (
        "PSPNet_.layer0.0.weight",
        "PSPNet_.fc.weight",
        "PSPNet_.cls.4.weight",
        "Q_block.0.Wq.weight",
    ),
}

# published name: ours, of the ensemble's weights
MERGES = {name: f"meta_learner.ensemble.{name}.weight" for name in ("gram_merge", "cls_merge")}

# Options of the published networks in which the readings do not differ; blocks, cross and ensemble are found from the
# weights.
READING = {"i2r-released": ("i2r", "released"), "bam": ("bam", "bam")}  # kind: network and reading
COMMON = {
    "cam": "xgradcam",
    "cam_layer": "layer3",
    "cam_backend": "native",
    "delta": 0.7,
    "support_branch": True,
    "width": 256,
    "dropout": 0.1,
    "reduce_dropout": 0.5,
}


class Renamed(NamedTuple):
    """A published state dict under our names."""

    tensors: dict[str, Tensor]
    used: dict[str, str]  # published name: ours
    ignored: dict[str, str]  # published name: why


def import_checkpoint(
    kind: str, path: str | Path, out: str | Path, size: int = 473, ensemble: bool | None = None
) -> dict[str, Any]:
    """Convert a published checkpoint to a file of this project, and write a report to OUT.keys.json.

    Args:
        kind: one of NAMES.
        path: .pth, .ckpt (both read without running any code in them) or .safetensors; an enclosing `state_dict` and
            the prefix `module.` are removed.
        out: .safetensors.
        size: side of the network's input, for a network file.
        ensemble: whether a network file combines its prediction with the base learner's; None: see `find_ensemble`.

    Returns:
        The report: {"kind", "used": {published name: our name}, "ignored": {published name: reason}, "missing": our
        names, "network": metadata of a network file, see network_file.describe, "ensemble": whether it has one, and
        why}. Only batch counters may be missing, and are set to 0.

    Raises:
        WeightsError: the file is unreadable, does not have the layout of this kind, or lacks the ensemble that it
            should have.
    """
    if Path(out).suffix != ".safetensors":
        raise WeightsError(f"{out}: the file to write must end in .safetensors")
    renamed = rename(kind, read_tensors(path), path)
    about = why = None
    if kind in READING:
        has, why = find_ensemble(renamed.tensors, ensemble)
        if ensemble and not has:
            raise WeightsError(f"{path}: {why}")
        about = network_about(kind, renamed.tensors, size, has)
        renamed = without_ensemble(renamed) if not has else renamed
        network = build_network(renamed.tensors, about, path)
        state = network.state_dict()
        save_network(state, about, out)
    else:
        state = _base_state(renamed.tensors, path)
        write_tensors(out, state)
    report = {
        "kind": kind,
        "used": renamed.used,
        "ignored": renamed.ignored,
        "missing": sorted(set(state) - set(renamed.tensors)),
        "network": about,
        "ensemble": why,
    }
    write_json(Path(out).with_suffix(".keys.json"), report)
    return report


def rename(kind: str, tensors: Mapping[str, Tensor], source: str | Path) -> Renamed:
    """Translate published names to ours.

    Raises:
        WeightsError: the names are not those of this kind, or two copies of one tensor differ.
    """
    result = Renamed({}, {}, {})
    unknown = [name for name in tensors if _pair(kind, name) is None]
    absent = [name for name in MARKS[kind] if name not in tensors]
    if unknown or absent:
        found = [f"without {', '.join(absent)}"] * bool(absent)
        found += [f"with {len(unknown)} unknown names ({', '.join(unknown[:3])} ...)"] * bool(unknown)
        fits = [other for other in NAMES if _fits(other, tensors)]
        hint = f"; it has the layout of {fits[0]}" if fits else ""
        raise WeightsError(f"{source}: not the layout of {kind}: {' and '.join(found)}{hint}")
    for name, tensor in tensors.items():
        start, place = _pair(kind, name)
        if place is None:
            result.ignored[name] = "never used by the published network"
            continue
        ours = place + name.removeprefix(start)
        if ours not in result.tensors:
            result.tensors[ours], result.used[name] = tensor, ours
        elif equal(result.tensors[ours], tensor):
            result.ignored[name] = f"copy of {ours}"
        else:
            raise WeightsError(f"{source}: {name} differs from another copy of the same tensor ({ours})")
    return result


def _pair(kind: str, name: str) -> tuple[str, str | None] | None:
    """The entry of NAMES whose prefix a name has; the longest, if there are several."""
    pairs = [pair for pair in NAMES[kind] if name.startswith(pair[0])]
    return max(pairs, key=lambda pair: len(pair[0]), default=None)


def _fits(kind: str, tensors: Mapping[str, Tensor]) -> bool:
    return all(name in tensors for name in MARKS[kind]) and all(_pair(kind, name) for name in tensors)


def find_ensemble(tensors: Mapping[str, Tensor], wanted: bool | None = None) -> tuple[bool, str]:
    """Whether a published network combines its prediction with the base learner's, and a sentence that says why.

    I2R's published module always has the ensemble's weights, but uses them for PASCAL only. They start at [1, 0], where
    the ensemble changes nothing. Without it they get no gradient, so the second number, the weight of the Gram distance
    or of the base map, stays 0.

    Args:
        tensors: under our names.
        wanted: the answer, if it is known; None: found from the weights.
    """
    weights = {name: tensors[key] for name, key in MERGES.items() if key in tensors}
    if len(weights) < len(MERGES):
        absent = ", ".join(name for name in MERGES if name not in weights)
        return False, f"ensemble off: the file has no {absent}"
    if wanted is not None:
        return wanted, f"ensemble {'on' if wanted else 'off'}: as requested"
    if all(weight.flatten()[1] == 0 for weight in weights.values()):
        return (
            False,
            f"ensemble off: {' and '.join(weights)} give no weight to the base learner, as before any training",
        )
    return True, f"ensemble on: {' and '.join(weights)} have been trained"


def without_ensemble(renamed: Renamed) -> Renamed:
    """The same without the ensemble's weights."""
    unused = set(MERGES.values())
    return Renamed(
        {name: tensor for name, tensor in renamed.tensors.items() if name not in unused},
        {name: ours for name, ours in renamed.used.items() if ours not in unused},
        renamed.ignored
        | {name: "the ensemble is off" for name, ours in renamed.used.items() if ours in unused},
    )


def network_about(
    kind: str, tensors: Mapping[str, Tensor], size: int, ensemble: bool | None = None
) -> dict[str, Any]:
    """The metadata of a network file of these tensors, which determine backbone, blocks and shots.

    ensemble: None: see `find_ensemble`.
    """
    blocks, cross = (
        _count(tensors, rf"meta_learner\.decoder\.{name}\.(\d+)\.") for name in ("Q_block", "CrossAttn")
    )
    found = {"ensemble": find_ensemble(tensors, ensemble)[0]} | (
        {"blocks": blocks, "cross": cross} if blocks else {}
    )
    options = network_options(published_options(kind) | found)
    shot_layer = tensors.get("meta_learner.kshot_rw.0.weight")
    shots = 1 if shot_layer is None else shot_layer.shape[1]
    return describe(backbone_name(tensors, "encoder.backbone."), options, shots, size)


def published_options(kind: str) -> dict[str, Any]:
    """Values of the section `network` for a published network."""
    name, reading = READING[kind]
    said = {key.removeprefix("network."): value for key, value in says(reading).items()}
    known = NETWORKS[name].model_fields
    return {"name": name} | {key: value for key, value in (COMMON | said).items() if key in known}


def backbone_name(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """The name, as in params, of the backbone of the tensors `prefix`layer*."""
    if f"{prefix}layer1.0.conv1.weight" not in tensors:
        return "vgg16-bam"
    depth = "101" if _count(tensors, rf"{re.escape(prefix)}layer3\.(\d+)\.") > 6 else "50"
    deep_stem = tensors[f"{prefix}layer0.0.weight"].shape[-1] == 3
    return f"resnet{depth}{'-bam' if deep_stem else ''}"


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that the pattern finds in the names; 0 if it finds none."""
    return max((int(match[1]) + 1 for name in tensors if (match := re.match(pattern, name))), default=0)


def _base_state(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The state of a base network, checked against its backbone and base learner."""
    learner = {name: tensor for name, tensor in tensors.items() if name.startswith(("ppm.", "cls."))}
    rest = {name: tensor for name, tensor in tensors.items() if name not in learner}
    which = schema.Backbone(name=backbone_name(tensors), weights=None, stride_at="3x3")
    with without_values():
        backbone = build_backbone(which)
    load_backbone_tensors(backbone, rest, which.name, source)
    return {**backbone.state_dict(), **open_base_learner(learner, source).state_dict()}
