"""The commands `i2r import-checkpoint` and `i2r predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from i2r.cli_types import side
from i2r.pipeline.spec import JobError

ENSEMBLE = {"auto": None, "on": True, "off": False}
CHECKPOINTS = ("iir-base", "bam-base", "bam", "i2r-released")


def import_checkpoint(args: argparse.Namespace) -> None:
    """Convert a published checkpoint to a file of this project."""
    from i2r.nets.io.published import import_checkpoint

    report = import_checkpoint(args.kind, args.file, args.out, args.size, ENSEMBLE[args.ensemble])
    counts = ", ".join(f"{len(report[name])} {name}" for name in ("used", "ignored", "missing"))
    print(f"wrote {args.out}; keys: {counts}; each in {args.out.with_suffix('.keys.json')}")
    if report["ensemble"]:
        print(report["ensemble"])


def predict(args: argparse.Namespace) -> None:
    """Segment one image."""
    from i2r.predict import load, write_prediction

    supports, masks = args.support[::2], args.support[1::2]
    if len(supports) != len(masks):
        raise JobError(f"--support: give an image and a mask for each shot, got {len(args.support)} files")
    found = load(args.weights, args.device).predict(args.query, supports, masks)
    write_prediction(found, args.query, supports, masks, args.out)
    share = 100 * found.mask.mean()
    print(
        f"{share:.1f} % of {args.query} is the object; wrote mask.png, prediction.npz, picture.png to {args.out}"
    )


def add(verbs: argparse._SubParsersAction) -> None:
    """Register the commands."""
    verb = verbs.add_parser("import-checkpoint", help="convert a published checkpoint")
    verb.add_argument("--kind", choices=CHECKPOINTS, required=True, help="whose published code wrote it")
    verb.add_argument(
        "--size",
        metavar="S",
        type=side,
        default=473,
        help="side of the network's input (default: 473; COCO: 641)",
    )
    verb.add_argument(
        "--ensemble",
        choices=ENSEMBLE,
        default="auto",
        help="whether its network combines with the base learner (default: auto, found from the weights)",
    )
    verb.add_argument("file", metavar="FILE", type=Path, help=".pth, .ckpt or .safetensors")
    verb.add_argument("out", metavar="OUT.safetensors", type=Path, help="file to write")
    verb.set_defaults(function=import_checkpoint)

    verb = verbs.add_parser("predict", help="segment an image, given other images with masks")
    verb.add_argument(
        "--support",
        nargs="+",
        metavar=("IMAGE", "MASK"),
        type=Path,
        action="extend",
        required=True,
        help="two files per shot; a mask is 1 on the object, 0 on background, 255 where unknown",
    )
    verb.add_argument("--query", metavar="IMAGE", type=Path, required=True, help="the image to segment")
    verb.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        required=True,
        help="file from import-checkpoint or from a training",
    )
    verb.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for mask.png, prediction.npz and picture.png",
    )
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    verb.set_defaults(function=predict)
