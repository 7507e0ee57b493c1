"""Evaluation and baselines: scores follow from the episodes, even after an interruption."""

import csv
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learning import BAM, make_job, run_params, trained

from i2r.config.base import ParamsError
from i2r.config.networks import PRIORS, CamOptions
from i2r.config.schema import GRIDS
from i2r.data.episodes import load_episodes
from i2r.data.index_table import read_index
from i2r.engine import episode_loop
from i2r.engine.episode_pictures import in_turn
from i2r.engine.feature_cache import CachedEncoder, Draw, evaluation_draw
from i2r.engine.images import View
from i2r.engine.inputs import job_dataset, job_encoder
from i2r.metrics import segmentation as scores
from i2r.metrics.prior_maps import cam_measures
from i2r.nets.encoder import Encoder
from i2r.steps import baselines, evaluate, train


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("done"), "evaluate", inputs)
    evaluate.run(job)
    return job


@pytest.fixture(scope="module")
def compared(inputs, tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("compared"), "baselines", inputs)
    baselines.run(job)
    return job


def read(job):
    return json.loads((job.out / "scores.json").read_text())


def table(job):
    with (job.out / "episodes.csv").open() as file:
        return list(csv.DictReader(file))


def without_times(result):
    return {name: value for name, value in result.items() if name != "seconds_per_episode"}


def test_scores_follow_from_the_episodes(done):
    result, rows = read(done), table(done)
    assert result["episodes"] == len(rows) == 12
    labels = [int(row["class"]) for row in rows]
    counts = np.array([[int(row[name]) for name in scores.Counts._fields] for row in rows])
    again = scores.score([int(c) for c in result["classes"]], labels, counts)
    assert result["miou"] == pytest.approx(100 * again.miou)
    assert result["fb_iou"] == pytest.approx(100 * again.fb_iou)
    assert "interval" not in result
    for c, entry in result["classes"].items():
        assert entry["queries"] == labels.count(int(c))
        assert (entry["iou"] is None) == (entry["queries"] == 0)
    dataset = job_dataset(done)
    for row in rows:  # every known pixel of the original counts in one of the unions
        mask = dataset.mask(row["query"])
        assert int(row["union_fg"]) + int(row["inter_bg"]) == (mask != 255).sum()
        assert row["query"] not in row["supports"].split()


def marking_half(job):
    """Evaluate with logits shifted so that half of each query is marked: after six steps a network marks nothing."""

    def shifted(network, inputs, output):
        lead = output.final_logits[:, 0] - output.final_logits[:, 1]
        output.final_logits[:, 1] += lead.flatten(1).median(1).values[:, None, None]

    build = evaluate.build_meta_learner
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluate, "build_meta_learner", lambda *args: hooked(build(*args), shifted))
        evaluate.run(job)


def hooked(network, hook):
    network.register_forward_hook(hook)
    return network


@pytest.fixture(scope="module")
def half(inputs, tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("half"), "evaluate", inputs)
    marking_half(job)
    return job


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid != "original"])
def test_every_grid_is_counted_beside_the_main_one(inputs, half, compared, tmp_path, grid):
    """An evaluation has for each other grid what an evaluation on that grid has, and so do the baselines."""
    for step, run, beside in (("evaluate", marking_half, half), ("baselines", baselines.run, compared)):
        alone = make_job(tmp_path, step, inputs, evaluate={"scoring": grid})
        run(alone)
        for name in scores.Counts._fields:
            assert [row[name] for row in table(alone)] == [row[f"{name}_{grid}"] for row in table(beside)]
        assert f"inter_fg_{grid}" not in table(alone)[0]
        of_alone, of_beside = (read(job).get("methods", {"": read(job)}) for job in (alone, beside))
        for method, own in of_alone.items():
            assert set(own["yardsticks"]) == set(GRIDS)
            assert own["yardsticks"] == of_beside[method]["yardsticks"]
            assert own["yardsticks"][grid] == {name: own[name] for name in ("miou", "fb_iou")}
        assert any(own["miou"] != of_beside[method]["miou"] for method, own in of_alone.items())


def test_test_time_augmentation_is_scored_with_and_without_it(inputs, half, tmp_path):
    job = make_job(tmp_path, "evaluate", inputs, evaluate={"tta": "scales"})
    marking_half(job)
    plain, both = read(half), read(job)
    assert both["yardsticks"]["without_tta"] == {name: plain[name] for name in ("miou", "fb_iou")}
    for with_tta, without in zip(table(job), table(half), strict=True):
        for name in scores.Counts._fields:
            assert with_tta[f"{name}_without_tta"] == without[name]
    assert "without_tta" not in plain["yardsticks"] and "inter_fg_without_tta" not in table(half)[0]
    assert both["miou"] != plain["miou"]


def test_measures_of_prior_cam_and_mask(done):
    result = read(done)
    assert result["prior"]["bce"] > 0 and 0 < result["prior"]["ap"] <= 100
    assert 0 < result["prior"]["iou_best"] <= 100 and 0 <= result["prior"]["threshold_best"] < 1
    assert 0 <= result["prior"]["share_cam"] <= 100
    assert len(result["mask_ratio"]) == 1  # one block with cross-attention
    assert 0 < result["mask_ratio"][0] <= 1 / 13**2 + 1e-6  # one cell a column at most
    assert sum(n for counts in result["cam_classes"].values() for n in counts.values()) == 12


def test_pictures(done):
    arrays = np.load(done.out / "pictures.npz")
    assert sum(name.startswith("meta_") for name in arrays) == 3
    meta = json.loads(str(arrays["meta_0"]))
    row = table(done)[meta["index"]]
    assert (meta["query"], meta["class"]) == (row["query"], int(row["class"]))
    assert arrays["query_0"].shape == (97, 97, 3) and arrays["query_0"].dtype == np.uint8
    for name in ("truth", "prediction", "prior", "cam", "support_mask"):
        assert arrays[f"{name}_0"].shape == (97, 97)
    assert set(np.unique(arrays["prediction_0"])) <= {0, 1}


def test_interrupted_and_resumed_equals_whole(inputs, done, tmp_path, monkeypatch):
    job = make_job(tmp_path, "evaluate", inputs)
    update = episode_loop.Progress.update

    def stop(self, n=1, **values):
        update(self, n, **values)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(episode_loop.Progress, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(job)
    monkeypatch.setattr(episode_loop.Progress, "update", update)
    assert torch.load(job.state / "evaluate" / "state.pt", weights_only=True)["done"] == episode_loop.CHUNK
    evaluate.run(job)
    assert without_times(read(job)) == without_times(read(done))
    assert table(job) == table(done)


def test_memory_changes_nothing(inputs, done, tmp_path):
    job = make_job(tmp_path, "evaluate", inputs, runtime={"cache_gb": 0.0})
    evaluate.run(job)
    assert without_times(read(job)) == without_times(read(done))


def test_images_encoded_together_score_the_same_episodes(inputs, done, tmp_path, monkeypatch):
    """As on a GPU: the 16 and fewer new images of a batch in groups of five."""
    encoded, images = [], Encoder.images
    monkeypatch.setattr(
        CachedEncoder, "together", property(lambda _: 5 * 97**2, lambda *_: None), raising=False
    )
    monkeypatch.setattr(Encoder, "images", lambda *args: (encoded.append(len(args[1])), images(*args))[1])
    job = make_job(tmp_path, "evaluate", inputs)
    evaluate.run(job)
    assert max(encoded) == 5
    for row, alone in zip(table(job), table(done), strict=True):
        assert all(row[name] == alone[name] for name in ("index", "class", "query", "supports"))
        counts = [[int(one[name]) for name in scores.Counts._fields] for one in (row, alone)]
        assert np.abs(np.subtract(*counts)).max() <= 2  # pixels whose logits are equal but for rounding


def test_bam_is_scored_by_the_same_way(inputs, tmp_path):
    trained = make_job(tmp_path, "train", inputs, network=BAM)
    train.run(trained)
    job = make_job(tmp_path, "evaluate", {**inputs, "train": trained.out}, network=BAM)
    evaluate.run(job)
    result = read(job)
    assert result["episodes"] == 12 and "cam_classes" not in result and "mask_ratio" not in result


def test_fold_without_a_class_makes_no_number(inputs, tmp_path):
    empty = {"fold": 0, "classes": [], "excluded": [{"class": 1, "name": "x", "images": 0}], "episodes": []}
    empty["protocol"] = {"draw": "present"}
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "episodes.json").write_text(json.dumps(empty))
    for step, run in (("evaluate", evaluate.run), ("baselines", baselines.run)):
        job = make_job(tmp_path, step, {**inputs, "episodes": tmp_path / "episodes"})
        assert run(job)["miou"] is None
        assert json.loads((job.out / "scores.json").read_text())["protocol"] == empty["protocol"]
        assert read(job)["miou"] is None and "fold 0" in read(job)["why"]
        assert read(job)["excluded"] == empty["excluded"] and table(job) == []


def test_loading_processes_change_nothing(inputs, done, compared, tmp_path):
    for step, run, alone in (("evaluate", evaluate.run, done), ("baselines", baselines.run, compared)):
        job = make_job(tmp_path, step, inputs, runtime={"workers": 2})
        run(job)
        assert table(job) == table(alone)
        a, b = np.load(job.out / "pictures.npz"), np.load(alone.out / "pictures.npz")
        assert a.files == b.files and all((a[name] == b[name]).all() for name in a.files)


@pytest.mark.parametrize("tta", ["scales", "released"])
def test_passes_of_test_time_augmentation_read_ahead(inputs, tmp_path, tta):
    made = []
    for workers in (0, 2):
        options = {"evaluate": {"tta": tta}, "runtime": {"workers": workers}}
        job = make_job(tmp_path, "evaluate", inputs, name=f"workers{workers}", **options)
        evaluate.run(job)
        made.append(table(job))
    assert made[0] == made[1]


def test_the_threshold_at_test_needs_no_other_training(inputs, done, tmp_path):
    job = make_job(tmp_path, "evaluate", inputs, evaluate={"delta": 0.3})
    evaluate.run(job)
    assert read(job)["prior"]["share_cam"] > read(done)["prior"]["share_cam"]


def test_the_mask_at_test_needs_no_other_training(inputs, tmp_path):
    """Compares logits, because after six training steps the predicted masks may be equal."""
    logits = []
    for mask in ("none", "cyctr"):
        job = make_job(tmp_path, "evaluate", inputs, name=mask, evaluate={"mask": mask})
        options = evaluate.evaluation_options(job)
        encoder = job_encoder(job, torch.device("cpu"), options)
        draws = [evaluation_draw(e) for e in load_episodes(inputs["episodes"] / "episodes.json").episodes[:2]]
        cached = evaluate.encoder_passes(job, encoder, options, torch.device("cpu"))[0]
        with torch.no_grad():
            logits.append(
                evaluate.evaluated_network(job, options, encoder)(cached.inputs(draws)).final_logits
            )
    assert not torch.allclose(*logits)


def test_a_mask_at_test_needs_an_attention():
    with pytest.raises(ParamsError, match=r"evaluate\.mask: cyctr, but the network bam has no attention"):
        run_params(network=BAM, evaluate={"mask": "cyctr"})


def test_a_network_without_prior_and_cam_is_scored(inputs, tmp_path):
    network = {"name": "hsnet", "channels": [4, 4, 4]}
    common = {"network": network, "train": {"steps": 1, "batch": 1}}
    bare = {
        role: folder for role, folder in inputs.items() if role not in ("base_learner", "cam_head", "train")
    }
    trained = make_job(tmp_path, "train", bare, **common)
    assert train.run(trained)["loss"] > 0
    job = make_job(tmp_path, "evaluate", {**bare, "train": trained.out}, **common)
    metrics = evaluate.run(job)
    assert metrics["episodes"] == 12 and not any(name.startswith("prior") for name in metrics)
    assert "prior" not in read(job) and "cam_classes" not in read(job)
    assert "prediction_0" in np.load(job.out / "pictures.npz").files


def test_baselines_without_a_cam_head_go_without_its_priors(inputs, tmp_path):
    bare = {role: folder for role, folder in inputs.items() if role != "cam_head"}
    job = make_job(tmp_path, "baselines", bare)
    baselines.run(job)
    result = read(job)
    assert set(result["methods"]) == {"foreground", "prototype", "prior-bam", "prior-mean"}
    assert set(result["priors"]) == {"bam", "mean", "constant"} and "cam" not in result


def test_baselines(compared):
    result = read(compared)
    names = {"foreground", "prototype", "prior-pmgm", "prior-ordered", "prior-bam", "prior-mean"}
    assert set(result["methods"]) == names
    assert set(result["priors"]) == {"pmgm", "ordered", "bam", "mean", "constant"}
    constant = result["priors"]["constant"]
    assert constant["bce"] == constant["bce_calibrated"] and 0 < constant["bce"] < 0.7
    rows = table(compared)
    assert len(rows) == 12 * len(names)
    dataset = job_dataset(compared)
    for row in rows:
        if row["method"] == "foreground":
            mask = dataset.mask(row["query"])
            assert int(row["inter_fg"]) == (mask == int(row["class"])).sum()
            assert int(row["union_fg"]) == (mask != 255).sum()
    for name in PRIORS:
        measures = result["priors"][name]
        own = result["methods"][f"prior-{name}"]
        assert 0 <= own["threshold"] < 1
        # the best threshold on the test episodes is an upper bound for the chosen one, up to differences of the grids
        assert own["miou"] <= measures["iou_best"] + 2
    arrays = np.load(compared.out / "pictures.npz")
    assert {"prediction_0", "prior_bam_0", "meta_0"} <= set(arrays)


def test_the_released_prior_is_measured_with_each_of_the_drawn_embeddings(inputs, compared, tmp_path):
    """An embedding moves the prototypes, so every draw has numbers of its own; those without one do not change."""
    job = make_job(tmp_path, "baselines", inputs, network={"embedding": True}, baselines={"embeddings": 3})
    baselines.run(job)
    result, plain = read(job), read(compared)
    draws = result["embedding"]["draws"]
    assert len(draws) == 3 and len({draw["bce"] for draw in draws}) == 3
    for measure in ("bce", "bce_calibrated", "bce_background", "ap", "iou_best"):
        mean = result["priors"]["embedding"][measure]
        assert mean == pytest.approx(np.mean([draw[measure] for draw in draws]))
    assert {name: result["priors"][name] for name in plain["priors"]} == plain["priors"]
    assert set(result["methods"]) == set(plain["methods"])
    assert 0 <= result["embedding"]["supports_without_plus"] <= 100
    again = make_job(
        tmp_path, "baselines", inputs, "again", network={"embedding": True}, baselines={"embeddings": 3}
    )
    baselines.run(again)
    assert read(again)["embedding"] == result["embedding"]


def test_supports_without_cam_plus_are_counted_on_the_grid_of_the_prototypes(inputs):
    """Of three supports, CAM+ covers the object, covers the rest of the image, and is empty."""
    options = CamOptions(prior="pmgm", delta=0.5, delta_compare=">=", class_source="episode")
    masks = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    masks[..., :16, :] = 1
    cam = torch.zeros(1, 3, 33, 33)
    cam[0, 0, :10], cam[0, 1, 25:] = 1, 1
    made = SimpleNamespace(cam_q=cam, cam_s=cam, masks_s=masks, x4_s=torch.zeros(1, 3, 8, 5, 5))
    assert baselines.without_plus(made, options).tolist() == pytest.approx([2 / 3])


def test_baselines_know_nothing_of_the_test_when_they_choose(inputs, compared, tmp_path):
    """With other test episodes the thresholds are the same."""
    episodes = json.loads((inputs["episodes"] / "episodes.json").read_text())
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "episodes.json").write_text(
        json.dumps(episodes | {"episodes": episodes["episodes"][3:5]})
    )
    job = make_job(tmp_path, "baselines", {**inputs, "episodes": tmp_path / "episodes"})
    baselines.run(job)
    for name in PRIORS:
        key = f"prior-{name}"
        assert read(job)["methods"][key]["threshold"] == read(compared)["methods"][key]["threshold"]


def test_pictures_cover_the_classes_in_turn():
    draws = [Draw(cls, View("q"), (View("s"),)) for cls in (1, 1, 2, 1, 3, 2)]
    assert in_turn(draws, 4) == [0, 2, 4, 1]


def test_cam_measures():
    mask = torch.tensor([[1, 1, 0, 255]])
    measures = cam_measures(torch.tensor([[[True, False, True, True]]]), mask)
    assert measures == {
        "share_cam": pytest.approx(2 / 3),
        "precision_cam": pytest.approx(0.5),
        "recall_cam": pytest.approx(0.5),
    }
    empty = cam_measures(torch.zeros(1, 1, 4, dtype=torch.bool), mask)
    assert np.isnan(empty["precision_cam"]) and empty["recall_cam"] == 0


def test_nearer_prototype_finds_a_marked_region():
    """With one feature vector on the object and another elsewhere, every cell is classified correctly."""

    class Kept:
        def features(self, views):
            return {view: (type("Features", (), {"x4": self.x4})(), self.mask) for view in views}

    kept = Kept()
    kept.mask = torch.zeros(8, 8, dtype=torch.uint8)
    kept.mask[:, 4:] = 6
    kept.x4 = torch.zeros(1, 2, 8, 8)
    kept.x4[0, 0, :, :4], kept.x4[0, 1, :, 4:] = 2.0, 3.0
    query = torch.zeros(1, 2, 8, 8)
    query[0, 0, 2:], query[0, 1, :2] = 1.0, 1.0
    inputs = type("Inputs", (), {"x4_q": query})()
    maps = baselines.nearer_prototype(kept, [Draw(6, View("q"), (View("s"),))], inputs)
    assert torch.equal(maps[0].argmax(0)[:2], torch.ones(2, 8, dtype=torch.long))
    assert not maps[0].argmax(0)[2:].any()


def test_an_object_too_small_to_be_seen_at_the_networks_size(inputs, tmp_path):
    """With data.draw: present a query's object can vanish when its mask is resized."""
    folders = {name: tmp_path / name for name in ("lists", "episodes")}
    made = {name: json.loads((inputs[name] / f"{name}.json").read_text()) for name in folders}
    index = read_index(inputs["data"] / "index.parquet")
    first = made["episodes"]["episodes"][0]
    cls = str(first["class"])
    first["query"] = next(name for name, pixels in index["val"].items() if cls not in pixels)
    lists, trained = made["lists"], str(made["lists"]["train_classes"][0])
    for name in lists["train"]:  # most queries of the training show nothing of their class
        lists["train_of"][name] = [int(trained)]
    for name, folder in folders.items():
        folder.mkdir()
        (folder / f"{name}.json").write_text(json.dumps(made[name]))
    job = make_job(tmp_path, "train", {**inputs, **folders})
    assert np.isfinite(train.run(job)["loss"])
    evaluated = make_job(tmp_path, "evaluate", {**inputs, **folders, "train": job.out})
    assert np.isfinite(evaluate.run(evaluated)["miou"])
    scored = baselines.run(make_job(tmp_path, "baselines", {**inputs, **folders}))
    assert all(np.isfinite(value) for value in scored.values())
