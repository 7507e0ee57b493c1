"""Training: a resumed run equals an uninterrupted one; cache size and loading processes change nothing."""

import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
from learning import BAM, ROOT, make_job, prepare
from safetensors.torch import load_file, save_file
from torch import nn

from i2r.config import load
from i2r.config.networks import network_options
from i2r.config.schema import Backbone
from i2r.config.training import Schedule
from i2r.data.index_table import INDEX, read_index
from i2r.engine import images
from i2r.engine import trainer as learn
from i2r.engine.feature_cache import CachedEncoder, Draw, Memory
from i2r.engine.images import ReadAhead, View, evaluation_reader
from i2r.engine.inputs import base_labels, job_dataset, job_encoder
from i2r.errors import InputError
from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import encode_episode
from i2r.pipeline.jobs import JobError
from i2r.steps import backbone, base_learner, cam_head, train

AUGMENT = {
    "views": 0,
    "scale": [0.9, 1.1],
    "fit": True,
    "rotate": 10.0,
    "rotate_p": 0.5,
    "blur_p": 0.5,
    "flip_p": 0.5,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


def weights_of(folder):
    return load_file(folder / "weights.safetensors")


def weights(job):
    return weights_of(job.out)


def stop_at(monkeypatch, number):
    """Send a signal after this many steps."""
    update = learn.Progress.update

    def stop(self, n=1, **values):
        update(self, n, **values)
        if self.unit == "step" and self.done == number:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(learn.Progress, "update", stop)


def lines(job):
    rows = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: v for name, v in row.items() if not name.endswith("_s") and name != "seconds"} for row in rows
    ]


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a), [n for n in a if not torch.equal(a[n], b[n])]


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """An uninterrupted training."""
    job = make_job(tmp_path_factory.mktemp("whole"), "train", inputs)
    train.run(job)
    return job


def test_training_learns_and_logs(whole):
    rows = lines(whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "main", "aux1", "aux2", "lr", "mask_ratio"} <= rows[0].keys()
    assert rows[0]["lr"] == 0.01 and rows[-1]["lr"] < rows[0]["lr"]
    assert all(torch.isfinite(t).all() for t in weights(whole).values())


def test_stopped_by_a_signal_and_resumed_equals_whole(inputs, whole, tmp_path, monkeypatch):
    job = make_job(tmp_path, "train", inputs)
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    assert torch.load(job.state / "state.pt", weights_only=True)["step"] == 3
    assert not (job.out / "weights.safetensors").exists()
    with (job.out / "metrics.jsonl").open("a") as file:  # a line after the saved state, as after kill -9
        file.write('{"step": 4, "loss": 0}\n')
    monkeypatch.undo()
    train.run(job)
    same(weights(job), weights(whole))
    assert lines(job) == lines(whole)


@pytest.mark.parametrize("views", [1, 0])
def test_killed_and_resumed_equals_whole(inputs, tmp_path, views):
    """kill -9 during the training, with the state saved after every step."""
    changes = {
        "runtime": {"save_every": 1e-6},
        "train": {"augment": {**AUGMENT, "views": views}, "steps": 12},
    }
    job = make_job(tmp_path, "train", inputs, **changes)
    process = multiprocessing.get_context("fork").Process(target=train.run, args=(job,))
    process.start()
    log = job.out / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 1 <= torch.load(job.state / "state.pt", weights_only=True)["step"] < 12
    train.run(job)
    through = make_job(tmp_path, "train", inputs, name="through", **changes)
    train.run(through)
    same(weights(job), weights(through))
    assert lines(job) == lines(through)


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("sampling", [{}, {"sampling": "pairs", "paste": 0.7}])
def test_loading_processes_change_nothing(inputs, tmp_path, views, sampling):
    """With fresh views for every step, and with cached ones."""
    made = []
    for workers in (0, 2):
        changes = {
            "runtime": {"workers": workers},
            "train": {"augment": {**AUGMENT, "views": views}, "steps": 3, **sampling},
        }
        job = make_job(tmp_path, "train", inputs, name=f"workers{workers}", **changes)
        train.run(job)
        made.append(weights(job))
    same(*made)


def test_memory_changes_nothing(inputs, whole, tmp_path):
    job = make_job(tmp_path, "train", inputs, runtime={"cache_gb": 0.0})
    train.run(job)
    same(weights(job), weights(whole))


def test_memory_is_bounded_and_drops_the_oldest():
    memory, made = Memory(3 * 400), []

    def get(key):
        memory.get("toy", [key], lambda new: [(made.append(key), torch.zeros(100))[1] for key in new])

    for key in (1, 2, 3, 1, 4, 1, 2):
        get(key)
    assert memory.size <= 3 * 400
    assert made == [1, 2, 3, 4, 2]  # 1 was used again before 4 was added, so 2 was removed


def test_kept_features_equal_an_encoded_episode(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs)
    options = network_options(job.params["network"])
    encoder, dataset = job_encoder(job, torch.device("cpu"), options), job_dataset(job)
    read = evaluation_reader(dataset, 97)
    cached = CachedEncoder(encoder, options, read, 1.0, torch.device("cpu"))
    listed = json.loads((inputs["lists"] / "lists.json").read_text())
    cls, names = next((int(c), ids) for c, ids in listed["train_by_class"].items() if len(ids) > 3)
    draws = [
        Draw(cls, View(names[0]), (View(names[1]), View(names[2])), 3),
        Draw(cls, View(names[3]), (View(names[0]), View(names[1])), 3),
    ]
    ours = cached.inputs(draws)

    def stack(part):
        return torch.stack([part(draw) for draw in draws])

    def binary(view):
        mask = read(view)[1]
        return torch.where(mask == 255, mask, (mask == cls).to(mask.dtype))

    direct = encode_episode(
        encoder,
        stack(lambda d: read(d.query)[0]),
        stack(lambda d: torch.stack([read(v)[0] for v in d.supports])),
        stack(lambda d: torch.stack([binary(v) for v in d.supports])),
        options,
        stack(lambda d: binary(d.query)),
        torch.tensor([3, 3]),
    )
    for name, value in vars(direct).items():
        torch.testing.assert_close(
            getattr(ours, name), value, atol=1e-4, rtol=1e-4, check_dtype=False, msg=name
        )


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tmp_path):
    job = make_job(tmp_path, "train", {})
    model = nn.Linear(1, 1)

    def losses(step):
        return {"loss": model(torch.ones(1, 1)).sum() * (float("nan") if step == 2 else 1.0)}

    schedule = Schedule(
        optimiser="sgd", warmup=0.0, steps=5, batch=1, lr=0.1, momentum=0.0, weight_decay=0.0, power=1.0
    )
    with pytest.raises(JobError, match=r"^toy: the loss is nan at step 2, .*; train\.lr below 0\.1 may help"):
        learn.fit(job, model, schedule, losses, label="toy")


def test_long_trainings_log_means(tmp_path):
    job = make_job(tmp_path, "train", {})
    model = nn.Linear(1, 1)
    schedule = Schedule(
        optimiser="sgd", warmup=0.0, steps=1201, batch=1, lr=1e-6, momentum=0.0, weight_decay=0.0, power=1.0
    )

    def losses(step):
        return {"loss": model(torch.ones(1, 1)).sum(), "step_number": step}

    learn.fit(job, model, schedule, losses, label="toy")
    rows = lines(job)
    assert len(rows) == 401 and rows[0]["step"] == 3 and rows[0]["step_number"] == 1.0
    assert rows[-1]["step"] == 1201 and rows[-1]["step_number"] == 1200.0


def test_unreadable_state_and_missing_gpu_are_sentences(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(JobError, match=r"state\.pt"):
        learn.SavedState(tmp_path, 1.0).load()
    if not torch.cuda.is_available():
        runtime = make_job(tmp_path, "train", {}, runtime={"device": "cuda"}).runtime
        with pytest.raises(InputError, match=r"runtime\.device"):
            learn.set_up(runtime, 1)


def test_base_labels():
    mask = torch.tensor([[0, 6, 7, 20, 1, 255]], dtype=torch.uint8)
    assert base_labels(mask, [6, 7, 20]).tolist() == [[0, 1, 2, 3, 0, -1]]
    many = torch.tensor([[0, 255, 256, 1000, 7, -1]], dtype=torch.int16)  # 255 is a class here
    classes = [*range(8, 257), 1000]
    assert base_labels(many, classes).tolist() == [[0, 248, 249, 250, 0, -1]]


def test_base_learner_and_cam_head_left_scores(inputs):
    base = json.loads((inputs["base_learner"] / "scores.json").read_text())
    assert len(base["classes"]) == 15 and set(base["classes"]) == {str(c) for c in range(6, 21)}
    cam = json.loads((inputs["cam_head"] / "scores.json").read_text())
    assert cam["mode"] == "pretrained" and cam["agreement"] is None
    same(
        load_file(inputs["cam_head"] / "weights.safetensors"),
        {
            n: t
            for n, t in load_file(inputs["backbone"] / "weights.safetensors").items()
            if n.startswith("fc.")
        },
    )


def test_a_backbone_without_classifier_is_taken_but_gives_no_cam(tmp_path, inputs):
    """BAM's VGG-16 has no classifier; a step that needs one says so."""
    torch.manual_seed(0)
    features = build_backbone(Backbone(name="vgg16-bam"))
    names = {name: t for name, t in features.state_dict().items() if not name.startswith("fc.")}
    save_file(names, tmp_path / "vgg.safetensors")
    changes = {
        "backbone": {"name": "vgg16-bam", "weights": str(tmp_path / "vgg.safetensors")},
        "cam_head": {"mode": "none"},
        "network": {"prior": "bam"},
    }
    job = make_job(tmp_path, "backbone", {}, **changes)
    assert backbone.run(job)["classes"] == 0
    same(weights(job), names)
    later = {**{name: inputs[name] for name in ("data", "lists")}, "backbone": job.out}
    job = make_job(tmp_path, "cam_head", later, **changes)
    job.params["cam_head"]["mode"] = "pretrained"
    with pytest.raises(JobError, match="no classifier"):
        cam_head.run(job)


def changed_backbone(inputs, folder):
    """Inputs of a CAM head on a backbone that the base learner has changed."""
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    job = make_job(folder, "base_learner", earlier, **LEARNS_ALL)
    base_learner.run(job)
    return {**earlier, "base_learner": job.out}


LEARNS_ALL = {"base_learner": {"trains": "all", "steps": 2}, "cam_head": {"mode": "untouched"}}


def test_a_changed_backbone_gets_a_retrained_classifier_or_keeps_its_own(tmp_path, inputs):
    later = changed_backbone(inputs, tmp_path)
    names = weights_of(later["base_learner"]).keys()
    assert any(n.startswith("layer3.") for n in names) and not any(n.startswith("fc.") for n in names)
    kept = make_job(tmp_path, "cam_head", later, name="kept", **LEARNS_ALL)
    metrics = cam_head.run(kept)
    assert 0 <= metrics["agreement"] <= 100
    own = weights_of(inputs["backbone"])
    same(weights(kept), {name: own[name] for name in ("fc.weight", "fc.bias")})
    mode = {"mode": "retrained", "steps": 60}
    again = make_job(tmp_path, "cam_head", later, name="retrained", **{**LEARNS_ALL, "cam_head": mode})
    learned = cam_head.run(again)
    rows = lines(again)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert 0 <= learned["agreement"] <= 100
    for job, found in ((kept, metrics), (again, learned)):
        assert json.loads((job.out / "scores.json").read_text())["agreement"] == found["agreement"]


def test_a_retrained_classifier_learns_from_all_images_or_those_of_the_fold(tmp_path, inputs, monkeypatch):
    """Each image with each of its training classes; with all, also images that have an object of a test class."""
    later = changed_backbone(inputs, tmp_path)
    index = read_index(inputs["data"] / INDEX)
    lists = json.loads((inputs["lists"] / "lists.json").read_text())
    shown = {name: {int(c) for c in pixels} for name, pixels in index["train"].items()}
    base, test = set(lists["train_classes"]), set(lists["test_classes"])
    expected = {
        "all": {(name, c) for name, classes in shown.items() for c in classes & base},
        "fold": {(name, c) for name, classes in lists["train_of"].items() for c in classes},
    }
    assert expected["fold"] < expected["all"]
    for which, pairs in expected.items():
        read = spy(monkeypatch, cam_head, "averages")
        options = {"mode": "retrained", "list": which, "steps": "1 epochs", "batch": 4}
        job = make_job(tmp_path, "cam_head", later, name=which, **{**LEARNS_ALL, "cam_head": options})
        cam_head.run(job)
        learned = read[0][3]  # the second call is for the held-out images
        assert len(learned) == len(pairs) and set(learned) == pairs
        assert any(shown[name] & test for name, _ in learned) == (which == "all")
        assert len(lines(job)) == len({name for name, _ in pairs}) // 4
        monkeypatch.undo()


def test_an_unchanged_backbone_agrees_with_itself(tmp_path, inputs):
    """If the base learner's file has the unchanged backbone, all predicted classes agree."""
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    job = make_job(tmp_path, "cam_head", earlier, **LEARNS_ALL)
    assert cam_head.run(job)["agreement"] == 100


@pytest.mark.parametrize("trains", ["head", "all"])
def test_base_learner_killed_and_resumed_equals_whole(inputs, tmp_path, trains, monkeypatch):
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    options = {"trains": trains, "steps": 4, "batch": 2}
    changes = {"base_learner": options}
    if trains == "all":
        changes["cam_head"] = {"mode": "untouched"}
    through = make_job(tmp_path, "base_learner", earlier, name="through", **changes)
    base_learner.run(through)
    job = make_job(tmp_path, "base_learner", earlier, **changes)
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        base_learner.run(job)
    monkeypatch.undo()
    base_learner.run(job)
    same(weights(job), weights(through))
    assert lines(job) == lines(through)


@pytest.mark.parametrize("trains", ["head", "all"])
def test_base_learner_reads_the_same_by_any_number_of_processes(inputs, tmp_path, trains):
    earlier, made = {name: inputs[name] for name in ("data", "lists", "backbone")}, []
    for workers in (0, 2):
        changes = {
            "base_learner": {"trains": trains, "steps": 2, "batch": 4},
            "runtime": {"workers": workers},
        }
        if trains == "all":
            changes["cam_head"] = {"mode": "untouched"}
        job = make_job(tmp_path, "base_learner", earlier, name=f"workers{workers}", **changes)
        base_learner.run(job)
        made.append((weights(job), (job.out / "scores.json").read_text()))
    same(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]


def spy(monkeypatch, module, name):
    """Arguments of the calls of a function."""
    calls, function = [], getattr(module, name)

    def spied(*args, **named):
        calls.append(args)
        return function(*args, **named)

    monkeypatch.setattr(module, name, spied)
    return calls


@pytest.mark.parametrize("trains", ["head", "all"])
def test_base_learner_trains_on_all_images_or_those_of_the_fold(inputs, tmp_path, trains, monkeypatch):
    """With all, objects of test classes are background, and an epoch is a pass over the whole list."""
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    index = read_index(inputs["data"] / "index.parquet")
    lists = json.loads((inputs["lists"] / "lists.json").read_text())
    val = {name: {int(c) for c in pixels} for name, pixels in index["val"].items()}
    expected = {
        "all": (set(index["train"]), len(val)),
        "fold": (
            set(lists["train"]),
            sum(bool(found & set(lists["train_classes"])) for found in val.values()),
        ),
    }
    assert expected["all"][0] > expected["fold"][0] and expected["all"][1] > expected["fold"][1]
    changes = {"cam_head": {"mode": "untouched"}} if trains == "all" else {}
    for which, (names_of, scored) in expected.items():
        names = spy(monkeypatch, base_learner, "name_of")
        labels = spy(monkeypatch, base_learner, "base_labels")
        options = {"trains": trains, "list": which, "steps": "1 epochs", "batch": 4}
        job = make_job(tmp_path, "base_learner", earlier, name=which, base_learner=options, **changes)
        assert base_learner.run(job)["images"] == scored
        assert len(lines(job)) == len(names_of) // 4
        assert {args[0][0] for args in names} <= names_of and len(names[0][0]) == len(names_of)
        seen = {int(c) for masks, _ in labels[: len(lines(job))] for c in masks.unique()} - {0, 255}
        assert bool(seen & set(lists["test_classes"])) == (which == "all")
        monkeypatch.undo()


def test_steps_of_the_published_base_learner():
    learner = load.load(ROOT / "workflow/presets/pascal.yaml").methods["bam"].params.base_learner
    whole = learner.over(5953)
    assert (learner.steps, learner.batch, whole.steps) == ("100 epochs", 12, 49608)
    ends = whole.validations(5953)
    assert len(ends) == 100 and ends[:2] == (496, 992) and ends[-1] == 49608
    few = whole.model_copy(update={"validate_every": 30}).validations(5953)
    assert few == (14882, 29765, 44647, 49608)
    assert whole.model_copy(update={"validate_every": 0}).validations(5953) == (49608,)


VALIDATED = {"list": "fold", "steps": 12, "batch": 12, "validate_every": 1, "lr": 0.2}


@pytest.mark.parametrize("trains", ["head", "all"])
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_base_learner_keeps_the_best_and_the_last_weights(inputs, tmp_path, trains, checkpoint, monkeypatch):
    """A validation changes nothing in the training, and the scores are those of the weights that are used."""
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    changes = {"cam_head": {"mode": "untouched"}} if trains == "all" else {}
    given, measure = iter([5.0, 7.0, 7.0, None, 6.0, 1.0, 0.0, 0.0]), base_learner.score

    def score(*args):
        return measure(*args) | {"miou": next(given)}

    options = VALIDATED | {"trains": trains, "checkpoint": checkpoint}
    job = make_job(tmp_path, "base_learner", earlier, base_learner=options, **changes)
    monkeypatch.setattr(base_learner, "score", score)
    base_learner.run(job)
    monkeypatch.undo()
    scores = json.loads((job.out / "scores.json").read_text())
    steps = [row["step"] for row in scores["validations"]]
    assert len(steps) > 3 and steps[-1] == 12
    assert [row["score"] for row in scores["validations"]][:4] == [5.0, 7.0, 7.0, None]
    assert (scores["checkpoint"], scores["best_step"]) == (checkpoint, steps[1])
    other = {"best": "last", "last": "best"}[checkpoint]
    both = {checkpoint: weights(job), other: load_file(job.out / f"{other}.safetensors")}
    assert not (job.out / f"{checkpoint}.safetensors").exists()
    plain = make_job(
        *(tmp_path, "base_learner", earlier, "plain"), base_learner=options | {"validate_every": 0}, **changes
    )
    base_learner.run(plain)
    same(both["last"], weights(plain))
    assert any(not torch.equal(both["best"][name], tensor) for name, tensor in both["last"].items())
    assert not (plain.out / "last.safetensors").exists() and not (plain.out / "best.safetensors").exists()
    used = json.loads((plain.out / "scores.json").read_text())["classes"] == scores["classes"]
    assert used == (checkpoint == "last")


@pytest.mark.parametrize("stop", [2, 5, 12])
def test_validated_base_learner_killed_and_resumed_equals_whole(inputs, tmp_path, monkeypatch, stop):
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    changes = {"base_learner": VALIDATED | {"trains": "all"}, "cam_head": {"mode": "untouched"}}
    through = make_job(tmp_path, "base_learner", earlier, name="through", **changes)
    base_learner.run(through)
    job = make_job(tmp_path, "base_learner", earlier, **changes)
    stop_at(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        base_learner.run(job)
    monkeypatch.undo()
    base_learner.run(job)
    for file in ("weights.safetensors", "last.safetensors"):
        same(load_file(job.out / file), load_file(through.out / file))
    assert (job.out / "scores.json").read_text() == (through.out / "scores.json").read_text()
    assert lines(job) == lines(through)


def test_base_learner_stops_when_validations_bring_nothing_better(inputs, tmp_path, monkeypatch):
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    measure, given = base_learner.score, iter([1.0, 3.0, 2.0, 3.0])
    monkeypatch.setattr(base_learner, "score", lambda *a: measure(*a) | {"miou": next(given, 0.0)})
    job = make_job(
        *(tmp_path, "base_learner", earlier), base_learner=VALIDATED | {"steps": 400, "patience": 2}
    )
    base_learner.run(job)
    scores = json.loads((job.out / "scores.json").read_text())
    assert [row["score"] for row in scores["validations"]] == [1.0, 3.0, 2.0, 3.0]
    assert scores["best_step"] == scores["validations"][1]["step"]
    assert lines(job)[-1]["step"] == scores["validations"][-1]["step"]


def test_images_of_the_base_learner_are_read_by_loading_processes(inputs, tmp_path, monkeypatch):
    """For training and for validation; on a GPU one process would read for hours."""

    def within(function):
        def read(*args):
            assert torch.utils.data.get_worker_info() is not None
            return function(*args)

        return read

    monkeypatch.setattr(base_learner, "train_pixels", within(base_learner.train_pixels))
    monkeypatch.setattr(images, "evaluation_view", within(images.evaluation_view))
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    for trains in ("head", "all"):
        changes = {"cam_head": {"mode": "untouched"}} if trains == "all" else {}
        options = VALIDATED | {"trains": trains, "steps": 2}
        job = make_job(
            *(tmp_path, "base_learner", earlier, trains),
            **changes, base_learner=options, runtime={"workers": 1},
        )  # fmt: skip
        base_learner.run(job)


def test_base_learner_has_images_of_its_own_size(inputs, tmp_path, monkeypatch):
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    for size, expected in ((None, 97), (65, 65)):
        labels = spy(monkeypatch, base_learner, "base_labels")
        options = VALIDATED | {"size": size, "steps": 1}
        job = make_job(tmp_path, "base_learner", earlier, name=str(expected), base_learner=options)
        base_learner.run(job)
        assert {masks.shape[-1] for masks, _ in labels} == {expected}
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("base_learner", {"seed": 1}),
        ("base_learner", {"width": 32}),
        ("base_learner", {"dropout": 0.5}),
        ("base_learner", {"backbone_rate": 1.0}),
        ("base_learner", {"augment": {"scale": [1.5, 1.5]}}),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_options_of_the_base_learner_change_it(inputs, tmp_path, section, changes):
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    options = {"trains": "all", "steps": 1, "batch": 2}
    common = {"cam_head": {"mode": "untouched"}}
    made = []
    for name, more in (("plain", {}), ("changed", changes)):
        job = make_job(tmp_path, "base_learner", earlier, name=name, **common, **{section: options | more})
        base_learner.run(job)
        made.append(weights(job))
    plain, other = made
    assert any(
        plain[name].shape != other[name].shape or not torch.equal(plain[name], other[name]) for name in plain
    )


def test_a_training_logs_every_loss_of_its_network(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs, network=BAM, train={"steps": 1})
    metrics = train.run(job)
    parts = [value for name, value in lines(job)[0].items() if name.startswith(("main", "aux"))]
    assert len(parts) >= 2 and metrics["loss"] == pytest.approx(sum(parts))


def test_read_ahead_gives_each_view_once_and_the_others_on_demand():
    read = []

    def reader(view):
        read.append(view)
        return torch.tensor([float(view.id)]), torch.tensor(view.number)

    parts = [[View("1"), View("2")], [View("2"), View("3", 4)], [View("1")]]
    for workers in (0, 1):
        ahead = ReadAhead(reader, workers)
        read.clear()
        ahead.expect(parts)
        for part in parts:
            ahead.advance()
            for view in part:
                image, number = ahead(view)
                assert image.item() == float(view.id) and number == view.number
        assert len(read) == (2 if workers else 5)  # read by this process: only views of earlier parts
        ahead.advance()  # after the last part nothing is expected
        assert ahead(View("9"))[0].item() == 9
