"""The controls step: a trained network on episodes with wrong, absent, perfect and shuffled supports, and oracles.

Only what the supports show is changed, so the features are those of the evaluation. Without test-time augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from i2r.config.networks import ATTENTION_MASKS, CamOptions, NetworkOptions
from i2r.data.control_episodes import KINDS, Control, controls, images_by_class
from i2r.data.episodes import Episode, EpisodeList, load_episodes
from i2r.data.index_table import INDEX, read_index
from i2r.data.transforms import UNKNOWN, binary, unknown
from i2r.engine.attention_probe import AttentionProbe
from i2r.engine.episode_loop import Row, Tally, count, finite, walk, write_rows
from i2r.engine.feature_cache import CachedEncoder, Draw, evaluation_draw
from i2r.engine.images import SHUFFLED, View, evaluation_reader, shuffled_reader
from i2r.engine.inputs import NoTableError, job_dataset, job_encoder
from i2r.engine.trainer import set_up
from i2r.files import write_json
from i2r.metrics import segmentation
from i2r.nets.encoder import EpisodeInputs
from i2r.pipeline.jobs import Job
from i2r.steps.evaluate import evaluated_network, evaluation_options

SHOWN = ("shown_inter", "shown_union")  # pixels of the class that the supports show
COLUMNS = (
    "kind",
    "index",
    "class",
    "shown",
    "query",
    "supports",
    *segmentation.Counts._fields,
    *SHOWN,
    "marked",
)
ORACLES = ("objects", "test objects")


def run(job: Job) -> dict[str, Any]:
    """Write controls.csv, a row for each episode and control, and scores.json.

    scores.json: episodes of each control; what could not be done and why; and, for a network with cross-attention, what
    each attention mask does at test with the query's true mask.
    """
    device = set_up(job.runtime, job.threads)
    episodes = load_episodes(job.inputs["episodes"] / "episodes.json")
    planned = planned_controls(job, episodes)
    rows, left_out, masks = oracles(job, episodes), {}, {}
    if planned:
        network = evaluated(job, evaluation_options(job), device)
        rows += walked(job, network, [c for c in planned if c.kind != "table"], "controls")
        masks = masked(job, network, [c for c in planned if c.kind == "right"])
        try:
            table = evaluated(job, class_read_right(network.cached.options), device)
            rows += walked(job, table, [c for c in planned if c.kind == "table"], "table")
        except NoTableError as error:
            left_out["table"] = str(error)
    write_rows(job.out / "controls.csv", rows, COLUMNS)
    counted = {kind: sum(row["kind"] == kind for row in rows) for kind in (*KINDS, *ORACLES)}
    write_json(job.out / "scores.json", finite({"episodes": counted, "left_out": left_out, "masks": masks}))
    return {f"{kind.replace(' ', '_')}_episodes": number for kind, number in counted.items()}


class Evaluated(NamedTuple):
    """A trained network and its encoder, which can read images with shuffled masks as well."""

    meta_learner: nn.Module
    cached: CachedEncoder


def evaluated(job: Job, options: NetworkOptions, device: torch.device) -> Evaluated:
    """The network of the job.

    Raises:
        NoTableError: network.class_source is table, and there is none.
    """
    encoder = job_encoder(job, device, options)
    read = shuffled_reader(evaluation_reader(job_dataset(job), job.params["data"]["size"]))
    cached = CachedEncoder(encoder, options, read, job.runtime.cache_gb, device, job.runtime.workers)
    return Evaluated(evaluated_network(job, options, encoder).to(device), cached)


def class_read_right(options: NetworkOptions) -> NetworkOptions:
    """The options with the class of the CAM from the table.

    Raises:
        NoTableError: the network uses no CAM.
    """
    if not isinstance(options, CamOptions) or not options.uses_cam:
        raise NoTableError("the network uses no CAM")
    return options.model_copy(update={"class_source": "table"})


def planned_controls(job: Job, episodes: EpisodeList) -> list[Control]:
    """The controls of the first test episodes."""
    most, seed = job.params["evaluate"]["controls"], job.args["eval_seed"]
    images = images_by_class(read_index(job.inputs["data"] / INDEX)["val"], episodes.protocol["min_area"])
    first = enumerate(episodes.episodes[:most])
    return [one for index, episode in first for one in controls(episode, index, images, seed)]


def drawn(control: Control) -> Draw:
    """The control as a draw."""
    draw = evaluation_draw(control.episode)
    if control.kind == "shuffled":
        return draw._replace(supports=tuple(View(view.id, SHUFFLED) for view in draw.supports))
    return draw


def walked(job: Job, network: Evaluated, planned: Sequence[Control], label: str) -> list[Row]:
    """A row for each control."""
    dataset, scoring = job_dataset(job), job.params["evaluate"]["scoring"]

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: Tally) -> None:
        output = network.meta_learner(inputs)
        for place, draw in enumerate(part):
            control, logits = planned[tally["done"] + place], output.final_logits[place]
            mask = network.cached.features([draw.query])[draw.query][1]  # (S, S)
            asked = draw._replace(cls=control.asked)
            shown = count(dataset, draw, logits, inputs.mask_q[place], scoring)
            row = about(control) | count(dataset, asked, logits, binary(mask, control.asked), scoring)
            row |= {"shown_inter": shown["inter_fg"], "shown_union": shown["union_fg"]}
            row["marked"] = float((logits.argmax(0) == 1)[mask != unknown(mask)].float().mean())
            tally["rows"].append(row)

    draws = [drawn(control) for control in planned]
    return walk(job, [network.cached], draws, {"rows": []}, measure, f"{label} {job.label}")["rows"]


def masked(job: Job, network: Evaluated, planned: Sequence[Control]) -> dict[str, dict[str, float]]:
    """For each attention mask, which here knows the query's mask, mIoU (percent) and means of AttentionProbe.

    {} for a network without cross-attention.
    """
    if not AttentionProbe(network.meta_learner).blocks:
        return {}
    dataset, scoring = job_dataset(job), job.params["evaluate"]["scoring"]

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: Tally) -> None:
        with AttentionProbe(network.meta_learner) as probe:
            output = network.meta_learner(inputs)
        tally["probed"].append([len(part), probe.means()])
        for place, draw in enumerate(part):
            counts = count(dataset, draw, output.final_logits[place], inputs.mask_q[place], scoring)
            tally["rows"].append({"class": draw.cls} | counts)

    draws, found = [drawn(control) for control in planned], {}
    for mask in ("none", *ATTENTION_MASKS):
        network.meta_learner.test_mask = mask
        nothing = {"rows": [], "probed": []}
        tally = walk(job, [network.cached], draws, nothing, measure, f"mask-{mask} {job.label}")
        labels = [row["class"] for row in tally["rows"]]
        counts = [[row[name] for name in segmentation.Counts._fields] for row in tally["rows"]]
        found[mask] = {"miou": 100 * segmentation.score(sorted(set(labels)), labels, np.array(counts)).miou}
        numbers = [number for number, _ in tally["probed"]]
        for name in tally["probed"][0][1]:
            values = [means[name] for _, means in tally["probed"]]
            found[mask][name] = float(np.average(values, weights=numbers))
    return found


def about(control: Control) -> Row:
    """The columns of controls.csv that are not counts."""
    episode = control.episode
    names = {"query": episode.query, "supports": " ".join(episode.supports)}
    return {
        "kind": control.kind,
        "index": control.index,
        "class": control.asked,
        "shown": episode.cls,
    } | names


def oracles(job: Job, episodes: EpisodeList) -> list[Row]:
    """Without a network: all labelled objects of the query, and all of the fold's test classes, as the prediction."""
    dataset, rows = job_dataset(job), []
    for index, episode in enumerate(episodes.episodes[: job.params["evaluate"]["controls"]]):
        mask = torch.from_numpy(dataset.mask(episode.query))
        known = mask != unknown(mask)
        tested = torch.from_numpy(np.isin(mask.numpy(), episodes.classes))
        for kind, marked in zip(ORACLES, ((mask != 0) & known, tested & known), strict=True):
            rows.append(_oracle(kind, index, episode, marked, binary(mask, episode.cls)))
    return rows


def _oracle(kind: str, index: int, episode: Episode, marked: Tensor, target: Tensor) -> Row:
    counts = segmentation.binary_counts(marked.byte(), target)
    row = about(Control(kind, index, episode.cls, episode)) | counts._asdict()
    return row | {"marked": float(marked[target != UNKNOWN].float().mean())}
