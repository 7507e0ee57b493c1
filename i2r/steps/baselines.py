"""The baselines step, without training: everything foreground, priors at a threshold, prototype matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from i2r.config.networks import PRIORS, CamOptions
from i2r.data.episodes import EpisodeList, load_episodes, threshold_episodes
from i2r.data.transforms import binary
from i2r.engine.episode_loop import (
    COLUMNS,
    Tally,
    cam_classes,
    count_all,
    episode_row,
    finite,
    no_number,
    summary,
    walk,
    write_rows,
)
from i2r.engine.episode_pictures import Arrays, write_pictures
from i2r.engine.feature_cache import CachedEncoder, Draw, evaluation_draw
from i2r.engine.images import evaluation_reader
from i2r.engine.inputs import job_dataset, job_encoder, job_lists
from i2r.engine.trainer import seed_of, set_up
from i2r.files import write_json
from i2r.metrics import calibration
from i2r.metrics.prior_maps import (
    CAM_MEASURES,
    best_threshold,
    cam_measures,
    mean,
    prior_measures,
    prior_summary,
)
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.pmgm.priors import draw_embedding, object_regions, prior
from i2r.nets.pmgm.regions import cam_regions
from i2r.nets.resize import bilinear
from i2r.pipeline.jobs import Job
from i2r.steps.evaluate import without_episodes

FOREGROUND, PROTOTYPE = "foreground", "prototype"
CONSTANT = "constant"  # the prior that is the share of object pixels everywhere
EMBEDDED = "embedding"  # PMGM with a random embedding added to its prototypes, mean over the drawn ones

Maps = dict[str, Tensor]  # prior -> (B, S, S) in 0..1


def run(job: Job) -> dict[str, Any]:
    """Write scores.json, episodes.csv (a row for each method and episode) and pictures.npz.

    Thresholds are chosen on episodes of training classes and images, never on test episodes.
    """
    device = set_up(job.runtime, job.threads)
    episodes = load_episodes(job.inputs["episodes"] / "episodes.json")
    draws = [evaluation_draw(episode) for episode in episodes.episodes]
    if not draws:
        return without_episodes(job, no_number(episodes))
    dataset, options = job_dataset(job), cam_options(job)
    read = evaluation_reader(dataset, job.params["data"]["size"])
    cached = CachedEncoder(
        job_encoder(job, device, options), options, read, job.runtime.cache_gb, device, job.runtime.workers
    )
    embeddings = drawn_embeddings(job, cached.encoder.layout.channels[-1], device)
    learned = learn(job, cached, options, embeddings)
    tally = score(job, cached, draws, options, learned, embeddings)
    scoring = job.params["evaluate"]["scoring"]
    result = results(tally, dataset.classes, episodes, learned.thresholds, scoring)
    write_json(job.out / "scores.json", finite(result))
    rows, methods = tally["rows"], result["methods"]
    together = [{"method": method, **row} for method in methods for row in rows[method]]
    write_rows(job.out / "episodes.csv", together, ("method", *COLUMNS))

    best = max(methods, key=lambda method: methods[method]["miou"])

    def predicted(draw: Draw, inputs: EpisodeInputs) -> tuple[Arrays, Mapping[str, Any]]:
        priors = all_priors(inputs, options)
        logits = predictions(cached, [draw], inputs, priors, learned.thresholds)[best]
        arrays = {f"prior_{name}": maps[0].cpu().numpy() for name, maps in priors.items()}
        arrays["prediction"] = logits[0].argmax(0).byte().cpu().numpy()
        if options.uses_cam:
            arrays["cam"] = cam_regions(inputs, options).cam_query[0, 0].float().cpu().numpy()
        return arrays, {"method": best}

    most = job.params["evaluate"]["pictures"]
    write_pictures(job.out / "pictures.npz", draws, most, cached, dataset.classes, rows[best], predicted)
    return finite({f"miou_{method}": scores["miou"] for method, scores in methods.items()})


def cam_options(job: Job) -> CamOptions:
    """Options of the CAMs. Their prior only says whether CAMs are made: they are if there is a CAM head."""
    has_cam = "cam_head" in job.inputs
    some = next(name for name, entry in PRIORS.items() if entry.uses_cam == has_cam)
    return CamOptions(**job.params["network"], prior=some)


def prior_names(options: CamOptions) -> list[str]:
    """All priors; without CAMs only those that need none."""
    return [name for name, entry in PRIORS.items() if options.uses_cam or not entry.uses_cam]


def drawn_embeddings(job: Job, channels: int, device: torch.device) -> dict[str, Tensor]:
    """The random embeddings (4, channels) that the released code adds to prototypes, by name; as many as
    baselines.embeddings says, none where the network adds none. A fold has the same for all evaluation seeds."""
    found = {}
    for number in range(job.params["baselines"].get("embeddings", 0)):
        random = torch.Generator().manual_seed(seed_of(EMBEDDED, job.args["fold"], number))
        found[f"{EMBEDDED}-{number}"] = draw_embedding(channels, random).to(device)
    return found


class Learned(NamedTuple):
    """What is learned from episodes of the training classes, at S x S.

    Attributes:
        thresholds: for each prior without an embedding, the one with the best mIoU.
        probabilities: for each prior, the map of calibration.fit.
        share: of object pixels.
    """

    thresholds: dict[str, float]
    probabilities: dict[str, Tensor]
    share: float


def learn(job: Job, cached: CachedEncoder, options: CamOptions, embeddings: Mapping[str, Tensor]) -> Learned:
    """Thresholds and calibrations, on episodes of training classes and images."""
    number, seed = job.params["baselines"]["threshold_episodes"], job.args["eval_seed"]
    drawn = threshold_episodes(job_lists(job), seed, number, job.args["shot"])
    names = prior_names(options)

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: Tally) -> None:
        for name, maps in all_priors(inputs, options, embeddings).items():
            for draw, one, mask_s in zip(part, maps, inputs.mask_q, strict=True):
                prior_measures(tally[name], draw.cls, one, mask_s)

    draws = [evaluation_draw(episode) for episode in drawn]
    empty = {name: {} for name in (*names, *embeddings)}
    tally = walk(job, [cached], draws, empty, measure, f"thresholds {job.label}")
    return Learned(
        {name: best_threshold(tally[name])[0] for name in names},
        {name: calibration.fit(tally[name].values()) for name in empty},
        calibration.object_share(tally[names[0]].values()),
    )


def score(
    job: Job,
    cached: CachedEncoder,
    draws: Sequence[Draw],
    options: CamOptions,
    learned: Learned,
    embeddings: Mapping[str, Tensor],
) -> Tally:
    """Score all episodes; returns `rows` of each method, `hists` of each prior, `cam`, measures of CAM+, `drawn`, the
    measures of the prior with each embedding, and `no_plus`, for each episode the share of its supports whose object
    has no CAM+.

    The rows of FOREGROUND have the measures of the constant prior.
    """
    dataset, scoring = job_dataset(job), job.params["evaluate"]["scoring"]
    known = prior_names(options)

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: Tally) -> None:
        priors = all_priors(inputs, options, embeddings)
        predicted = predictions(cached, part, inputs, priors, learned.thresholds)
        plus = cam_regions(inputs, options).plus_query if options.uses_cam else None
        for place, draw in enumerate(part):
            mask_s = inputs.mask_q[place]
            row = episode_row(tally["done"] + place, draw)
            if plus is not None:
                read = {"class": draw.cls, "cam_classes": inputs.class_id[place].tolist()}
                tally["cam"].append(read | cam_measures(plus[place], mask_s))
            for method, logits in predicted.items():
                own = row | count_all(dataset, draw, logits[place], mask_s, scoring)
                name = method.removeprefix("prior-")
                if name in known:
                    probability = learned.probabilities[name]
                    own |= prior_measures(
                        tally["hists"][name], draw.cls, priors[name][place], mask_s, probability
                    )
                elif method == FOREGROUND:
                    constant = torch.full_like(mask_s, learned.share, dtype=torch.float32)
                    own |= prior_measures(tally["hists"][CONSTANT], draw.cls, constant, mask_s)
                    own["bce_calibrated"] = own["bce"]
                tally["rows"][method].append(own)
            for name in embeddings:
                read = (draw.cls, priors[name][place], mask_s, learned.probabilities[name])
                tally["drawn"][name].append(prior_measures(tally["hists"][name], *read))
        if embeddings:
            tally["no_plus"] += without_plus(inputs, options).tolist()

    methods = [FOREGROUND, *(f"prior-{name}" for name in known), PROTOTYPE]
    hists = {name: {} for name in (*known, CONSTANT, *embeddings)}
    empty = {"rows": {m: [] for m in methods}, "hists": hists, "cam": []}
    empty |= {"drawn": {name: [] for name in embeddings}, "no_plus": []}
    return walk(job, [cached], draws, empty, measure, f"baselines {job.label}")


def results(
    tally: Tally, names: Sequence[str], episodes: EpisodeList, thresholds: dict[str, float], scoring: str
) -> dict[str, Any]:
    """The content of scores.json, from the tally of `score`."""
    rows, drawn, seconds = tally["rows"], tally["drawn"], tally["seconds"]
    methods = {method: summary(own, names, episodes, seconds, scoring) for method, own in rows.items()}
    for name, threshold in thresholds.items():
        methods[f"prior-{name}"]["threshold"] = threshold
    priors = {}
    for name, hists in tally["hists"].items():
        own = drawn[name] if name in drawn else rows[FOREGROUND if name == CONSTANT else f"prior-{name}"]
        priors[name] = prior_summary(own, hists) | {"bce_calibrated": mean(own, "bce_calibrated")}
    result = {"methods": methods, "priors": priors}
    if drawn:
        each = [priors.pop(name) for name in drawn]
        priors[EMBEDDED] = {measure: mean(each, measure) for measure in each[0]}
        no_plus = 100 * sum(tally["no_plus"]) / len(tally["no_plus"])
        result[EMBEDDED] = {"draws": each, "supports_without_plus": no_plus}
    if tally["cam"]:
        result["cam"] = {name: 100 * mean(tally["cam"], name) for name in CAM_MEASURES}
        result["cam_classes"] = cam_classes(tally["cam"])
    return result


def all_priors(
    inputs: EpisodeInputs, options: CamOptions, embeddings: Mapping[str, Tensor] | None = None
) -> Maps:
    """The priors of `prior_names`, and PMGM's with each of the embeddings, for the queries at image size.

    Shots have equal weights.
    """
    regions = cam_regions(inputs, options) if options.uses_cam else None
    size = inputs.masks_s.shape[-2:]
    wanted = {name: (name, None) for name in prior_names(options)}
    wanted |= {name: ("pmgm", one) for name, one in (embeddings or {}).items()}
    return {
        name: bilinear(
            prior(kind, inputs, options, regions=regions, embedding=embedding, support=False)[0], size
        )
        for name, (kind, embedding) in wanted.items()
    }


def without_plus(inputs: EpisodeInputs, options: CamOptions) -> Tensor:
    """For each episode, the share of its supports whose object has no CAM+ on layer4's grid, (B,).

    Their prototype of CAM+ is zero, and with an embedding the embedding.
    """
    plus = cam_regions(inputs, options).plus_support
    objects = object_regions(inputs, plus, inputs.x4_s.shape[-2:])[:, :, 0]  # (B, K, h4, w4)
    return (objects.sum((-2, -1)) == 0).float().mean(1)


def predictions(
    cached: CachedEncoder,
    draws: Sequence[Draw],
    inputs: EpisodeInputs,
    priors: Maps,
    thresholds: dict[str, float],
) -> dict[str, Tensor]:
    """Scores (B, 2, S, S) of each method; as with logits, the larger of the two is the prediction.

    Of the priors, those that have a threshold are methods.
    """
    size = inputs.masks_s.shape[-2:]
    nothing = torch.zeros(len(draws), *size, device=inputs.x4_q.device)
    result = {FOREGROUND: torch.stack([nothing, nothing + 1], 1)}
    for name, threshold in thresholds.items():
        # slightly lower, so that a value equal to the threshold is foreground
        result[f"prior-{name}"] = torch.stack([nothing + (threshold - 1e-6), priors[name].float()], 1)
    result[PROTOTYPE] = bilinear(nearer_prototype(cached, draws, inputs), size)
    return result


def nearer_prototype(cached: CachedEncoder, draws: Sequence[Draw], inputs: EpisodeInputs) -> Tensor:
    """Cosines (B, 2, h4, w4) of the query's layer4 to the prototypes of background and foreground.

    A prototype is the mean over the cells of all shots of the unmasked supports' layer4, weighted by the mask at
    that grid; unknown pixels belong to neither prototype.
    """
    kept = cached.features([view for draw in draws for view in draw.supports])
    x4 = torch.stack([torch.cat([kept[view][0].x4 for view in draw.supports]) for draw in draws])
    masks = torch.stack(  # (B, K, S, S); x4 is (B, K, C, h, w)
        [torch.stack([binary(kept[view][1], draw.cls) for view in draw.supports]) for draw in draws]
    )
    sides = torch.stack([masks == 0, masks == 1], 2).float()  # (B, K, 2, S, S)
    weights = bilinear(sides, x4.shape[-2:])
    prototypes = torch.einsum("bkchw,bkphw->bpc", x4, weights)  # cosines need no division by the sum
    return torch.einsum("bpc,bchw->bphw", F.normalize(prototypes, dim=2), F.normalize(inputs.x4_q, dim=1))
