"""The commands of `i2r data` that prepare, index and describe a data set."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

from i2r.cli_types import positive, protocol, side, whole
from i2r.config.data_set import GENERATED, SOURCES
from i2r.pipeline.spec import JobError

RULES = ("bam", "hsnet")


def prepare(args: argparse.Namespace) -> None:
    """Make the folder that a source reads."""
    from i2r.data.prepare import prepare_coco, prepare_voc

    if args.what == "voc":
        if args.voc is None:
            raise JobError("--voc: name the folder of VOC 2012")
        print(prepare_voc(args.voc, args.sbd, args.out, args.workers))
    else:
        if args.coco is None:
            raise JobError("--coco: name the folder with annotations/, train2014/ and val2014/")
        crowds = "class" if args.what == "coco-crowds" else "unknown"
        print(prepare_coco(args.coco, args.out, crowds, args.workers))


def index(args: argparse.Namespace) -> None:
    """Check every image and mask of a data set and write its index."""
    from i2r.data.index_table import write_index
    from i2r.data.sources import open_source

    options = {"train_list": args.train_list, "val_list": args.val_list}
    saved = args.out.with_name(f".{args.out.stem}.checked.jsonl")
    made = open_source(args.source).index(
        options, args.root, args.root, faulty=args.faulty, workers=args.workers, saved=saved
    )
    write_index(args.out, {"source": args.source, **made})
    saved.unlink(missing_ok=True)
    for why in made.get("left_out", {}).values():
        print(f"left out: {why}")
    print(f"{args.out}: {len(made['train'])} training and {len(made['val'])} validation images")
    print(f"digest {made['digest']}")


def lists(args: argparse.Namespace) -> None:
    """Write the lists of all folds."""
    from i2r.data.counts import differences
    from i2r.data.dataset import Dataset
    from i2r.data.index_table import read_index, read_summary
    from i2r.data.list_folder import write_lists
    from i2r.data.sources import open_source
    from i2r.data.vanished import vanished

    if (args.size is None) != (args.root is None):
        raise JobError(
            "--size and --root: give both, to find the objects that vanish at this side, or neither"
        )
    found, lost = read_index(args.index, *(("sizes",) if args.size else ())), None
    if args.size:
        source = open_source(found["source"])
        dataset = Dataset(args.index, read_summary(args.index), args.root, source)
        lost = partial(vanished, found, dataset.mask, size=args.size, workers=args.workers)
    how = {"min_area": args.min_area, "novel": args.novel, "draw": args.draw, "folds": args.folds}
    for fold in write_lists(found, args.out, args.rule, lost, **how):
        text = f"fold {fold['fold']}: {len(fold['train'])} training and {len(fold['test'])} test images"
        gone = sum(map(len, fold.get("vanished", {}).values()))
        print(f"{text}; {gone} objects have no pixel at {args.size} px" if args.size else text)
    if wrong := differences(found, found["source"]):
        text = "BAM's rule does not give the published counts: " + "; ".join(wrong)
        if args.counts == "assert":
            raise JobError(f"{text}. `--counts print` prints this and continues")
        print(text)


def episodes(args: argparse.Namespace) -> None:
    """Draw the test episodes of a fold."""
    from i2r.data.episodes import describe_excluded, evaluation_episodes, save_episodes
    from i2r.data.list_folder import read_lists

    kind, number = args.protocol
    made = evaluation_episodes(
        read_lists(args.lists, args.fold),
        args.seed,
        args.episodes or number,
        args.shot,
        args.min_images,
        kind,
    )
    save_episodes(args.out, made, seed=args.seed, shots=args.shot)
    queries = Counter(episode.cls for episode in made.episodes)
    counted = ", ".join(f"{cls}: {queries[cls]}" for cls in made.classes)
    print(f"{args.out}: {len(made.episodes)} episodes; queries of each class {counted or 'none'}")
    if why := describe_excluded(made):
        print(why)


def describe(args: argparse.Namespace) -> None:
    """Describe a data set."""
    from i2r.data.describe import describe as describe_index
    from i2r.data.describe import sample_pictures
    from i2r.data.index_table import read_index
    from i2r.files import write_text

    found = read_index(args.index, "sizes")
    text = describe_index(found, args.min_area, args.episodes)
    print(text)
    if args.out:
        write_text(args.out / "data.md", text)
        if args.root:
            sample_pictures(found, args.root, args.out / "samples.png")


def compare_lists(args: argparse.Namespace) -> None:
    """Say what differs between two lists, such as a fold's and BAM's."""
    from i2r.data.list_folder import compare_lists as compared

    print(compared(args.ours, args.theirs))


def _clear(function: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """The command, with wrong values and files as messages instead of tracebacks."""

    @wraps(function)
    def run(args: argparse.Namespace) -> None:
        try:
            function(args)
        except ValueError as error:
            raise JobError(str(error)) from None

    return run


def add(tasks: argparse._SubParsersAction) -> None:
    """Register the commands below `i2r data`."""
    several = argparse.ArgumentParser(add_help=False)
    several.add_argument(
        "--workers", type=whole, default=os.cpu_count(), help="processes (default: one a core)"
    )

    _add_folders(tasks, several)
    _add_lists(tasks, several)
    _add_looks(tasks)


def _add_folders(tasks: argparse._SubParsersAction, several: argparse.ArgumentParser) -> None:
    """From what was downloaded to an index. `several`: the parser of --workers."""
    sources = [name for name in SOURCES if name != GENERATED]
    task = tasks.add_parser(
        "prepare", help="make the folder of a data set from its archives", parents=[several]
    )
    task.add_argument("what", choices=("voc", "coco", "coco-crowds"), help="the data source")
    task.add_argument(
        "--voc", type=Path, metavar="DIR", help="VOC 2012, or a folder prepared for BAM, PFENet or HSNet"
    )
    task.add_argument("--sbd", type=Path, metavar="DIR", help="SBD, with its list train_noval.txt")
    task.add_argument("--coco", type=Path, metavar="DIR", help="COCO 2014")
    task.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder to make")
    task.set_defaults(function=_clear(prepare))

    task = tasks.add_parser("index", help="check every image and mask, and write an index", parents=[several])
    task.add_argument("--source", choices=sources, required=True, help="the data source")
    task.add_argument("--root", type=Path, metavar="DIR", required=True, help="folder of the data set")
    task.add_argument("--out", type=Path, metavar="FILE.parquet", required=True, help="index to write")
    task.add_argument("--train-list", metavar="FILE", help="below the root (default: that of the source)")
    task.add_argument("--val-list", metavar="FILE", help="below the root (default: that of the source)")
    task.add_argument(
        "--faulty",
        choices=("stop", "leave_out"),
        default="stop",
        help="what to do with bad pairs (default: stop)",
    )
    task.set_defaults(function=_clear(index))


def _add_lists(tasks: argparse._SubParsersAction, several: argparse.ArgumentParser) -> None:
    """From an index to episodes. `several`: the parser of --workers."""
    task = tasks.add_parser("lists", help="write the lists of all folds", parents=[several])
    task.add_argument("--index", type=Path, metavar="FILE", required=True, help="what `i2r data index` wrote")
    task.add_argument(
        "--rule", choices=RULES, default="bam", help="whose code's rule makes the lists (default: bam)"
    )
    task.add_argument(
        "--min-area",
        type=whole,
        metavar="N",
        help="pixels of a class that an image must have (default: that of the rule)",
    )
    task.add_argument(
        "--novel",
        choices=("drop", "keep"),
        help="training images that show a test class (default: that of the rule)",
    )
    task.add_argument(
        "--draw",
        choices=("present", "large"),
        help="classes of a query that an episode can ask for: all, or those with min-area pixels (default: present)",
    )
    task.add_argument(
        "--folds",
        choices=("contiguous", "interleaved"),
        help="how the classes are divided (default: as usual for the source)",
    )
    task.add_argument(
        "--counts",
        choices=("assert", "print"),
        default="assert",
        help="if the lists are not as long as published: stop, or print it (default: assert)",
    )
    task.add_argument(
        "--size", type=side, metavar="S", help="side of the network: find objects without a pixel left there"
    )
    task.add_argument("--root", type=Path, metavar="DIR", help="the data set, for --size")
    task.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder to write")
    task.set_defaults(function=_clear(lists))

    task = tasks.add_parser("episodes", help="draw the test episodes of a fold")
    task.add_argument("--lists", type=Path, metavar="DIR", required=True, help="what `i2r data lists` wrote")
    task.add_argument("--fold", type=whole, required=True, help="the test fold")
    task.add_argument("--shot", type=positive, default=1, help="supports of an episode (default: 1)")
    task.add_argument("--seed", type=whole, default=0, help="evaluation seed (default: 0)")
    task.add_argument(
        "--protocol",
        type=protocol,
        default="bam-1000",
        help="bam-1000, hsnet-1000, balanced-1000 or full (default: bam-1000)",
    )
    task.add_argument("--episodes", type=positive, metavar="N", help="instead of the protocol's number")
    task.add_argument(
        "--min-images",
        type=whole,
        default=1,
        metavar="N",
        help="test images that a class must have (default: 1)",
    )
    task.add_argument("--out", type=Path, metavar="FILE.json", required=True, help="file to write")
    task.set_defaults(function=_clear(episodes))


def _add_looks(tasks: argparse._SubParsersAction) -> None:
    """What only looks at an index or a list."""
    task = tasks.add_parser(
        "describe", help="print images, classes, areas, and expected queries of each class"
    )
    task.add_argument("--index", type=Path, metavar="FILE", required=True, help="what `i2r data index` wrote")
    task.add_argument(
        "--min-area",
        type=whole,
        default=2048,
        metavar="N",
        help="pixels of a class that an image must have (default: 2048)",
    )
    task.add_argument(
        "--episodes",
        type=positive,
        default=1000,
        metavar="N",
        help="test episodes, for the expected queries (default: 1000)",
    )
    task.add_argument("--root", type=Path, metavar="DIR", help="the data set, for sample pictures")
    task.add_argument("--out", type=Path, metavar="DIR", help="write data.md and samples.png there")
    task.set_defaults(function=_clear(describe))

    task = tasks.add_parser(
        "compare-lists", help="print what differs between two lists, such as a fold's and BAM's"
    )
    task.add_argument("ours", type=Path, help="a list of `i2r data lists`")
    task.add_argument("theirs", type=Path, help="the list to compare it with")
    task.set_defaults(function=_clear(compare_lists))
