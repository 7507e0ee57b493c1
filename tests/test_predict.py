"""The library and `i2r predict`: pictures of any size in, maps at the query's size out."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from learning import make_job, prepare
from PIL import Image

import i2r
from i2r import cli
from i2r.data.transforms import test_view as view_of
from i2r.engine.inputs import job_dataset
from i2r.metrics.segmentation import predict_on_grid
from i2r.nets.io.network_file import save_network
from i2r.steps import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """weights.safetensors of a training, as results/ holds it, and three pictures with their masks."""
    store = tmp_path_factory.mktemp("results") / "store"
    store.mkdir()
    inputs = prepare(store)
    job = make_job(store, "train", inputs)
    train.run(job)
    spec = {
        "step": "train",
        "name": "train",
        "folder": "store/train",
        "args": job.args,
        "params": job.params,
        "inputs": {role: f"store/{role}" for role in inputs},
        "data_root": None,
    }
    (job.out / "manifest.json").write_text(json.dumps({"spec": spec}))
    dataset = job_dataset(job)
    listed = json.loads((inputs["lists"] / "lists.json").read_text())
    cls, names = next((int(c), ids) for c, ids in listed["train_by_class"].items() if len(ids) >= 3)
    pictures = []
    for name, size in zip(names, ((120, 97), (97, 80), (60, 97)), strict=False):  # width, height
        mask = dataset.mask(name)
        mask = Image.fromarray(np.where(mask == 255, 255, mask == cls).astype(np.uint8))
        image = Image.fromarray(dataset.image(name)).resize(size)
        pictures.append((np.array(image), np.array(mask.resize(size, Image.Resampling.NEAREST))))
    return job.out / "weights.safetensors", pictures


def files(folder, pictures):
    folder.mkdir(exist_ok=True)
    for k, (image, mask) in enumerate(pictures):
        Image.fromarray(image).save(folder / f"image{k}.png")
        Image.fromarray(mask).save(folder / f"mask{k}.png")
    return [(folder / f"image{k}.png", folder / f"mask{k}.png") for k in range(len(pictures))]


def test_arrays_tensors_and_paths_give_the_same(trained, tmp_path):
    weights, pictures = trained
    model = i2r.load(weights, device="cpu")
    (query, _), *supports = pictures
    images, masks = (list(part) for part in zip(*supports, strict=True))
    found = model.predict(query, images, masks)
    assert found.mask.shape == found.probability.shape == found.prior.shape == query.shape[:2]
    assert found.cam.shape == (2, *query.shape[:2]) and found.cam.min() >= 0 and found.cam.max() <= 1
    assert np.array_equal(found.mask, found.probability > 0.5)
    assert found.prior.min() >= 0 and found.prior.max() <= 1
    paths = files(tmp_path, pictures)
    tensors = [torch.from_numpy(image).movedim(-1, 0) for image in images]
    for other in (
        model.predict(paths[0][0], *zip(*paths[1:], strict=True)),
        model.predict(torch.from_numpy(query).movedim(-1, 0), tensors, [torch.from_numpy(m) for m in masks]),
        model.predict(query / 255.0, images, masks),
    ):
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, other, strict=True))


@pytest.mark.parametrize("size", [(40, 300), (200, 33), (500, 400)])
def test_pictures_of_any_size(trained, size):
    weights, pictures = trained
    rng = np.random.default_rng(0)
    query = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    found = i2r.load(weights, device="cpu").predict(query, [pictures[0][0]], [pictures[0][1]])
    assert found.mask.shape == found.prior.shape == found.cam.shape[1:] == size
    assert all(np.isfinite(part).all() for part in found)


def test_one_file_holds_all(trained, tmp_path):
    weights, pictures = trained
    model = i2r.load(weights, device="cpu")
    model.save(tmp_path / "one.safetensors")
    alone = i2r.load(tmp_path / "one.safetensors", device="cpu")
    assert alone.size == model.size == 97 and alone.network.options == model.network.options
    (query, _), (support, mask), _ = pictures
    first, second = (m.predict(query, [support], [mask]) for m in (model, alone))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_sees_what_the_pipeline_sees(trained):
    weights, pictures = trained
    model = i2r.load(weights, device="cpu")
    (query, _), (support, mask), _ = pictures
    found = model.predict(query, [support], [mask])
    image, labels, _ = view_of(support, mask, 97)
    with torch.no_grad():
        square, _, place = view_of(query, None, 97)
        output = model.network(square[None], image[None, None], labels[None, None])
    assert np.array_equal(found.mask, predict_on_grid("original", output.final_logits[0], place))


def test_command(trained, tmp_path, capsys):
    weights, pictures = trained
    (query, _), *supports = files(tmp_path / "in", pictures)
    arguments = ["predict", "--query", str(query), "--weights", str(weights), "--out", str(tmp_path / "out")]
    cli.main([*arguments, "--device", "cpu", "--support", *(str(path) for pair in supports for path in pair)])
    assert "% of" in capsys.readouterr().out
    arrays = np.load(tmp_path / "out/prediction.npz")
    assert set(arrays) == {"mask", "probability", "prior", "cam"}
    assert np.array_equal(np.array(Image.open(tmp_path / "out/mask.png")), arrays["mask"])
    width, height = Image.open(tmp_path / "out/picture.png").size
    assert width > 5 * height
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--support", str(query)])
    assert "an image and a mask for each shot" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--support", str(query), str(tmp_path / "none.png")])
    assert "none.png: no such file" in capsys.readouterr().err


def test_what_is_wrong_with_pictures_is_said(trained, tmp_path):
    weights, pictures = trained
    model = i2r.load(weights, device="cpu")
    (query, _), (support, mask), _ = pictures
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    Image.fromarray(support).save(tmp_path / "colour.png")
    speck = np.zeros((900, 900), np.uint8)
    speck[1, 1] = 1
    for arguments, message in (
        ((query, [support], [mask[1:]]), r"mask of support 0 is 79 x 97, its image 80 x 97"),
        ((query, [support], [mask * 0]), r"no pixel is 1, the object"),
        ((query, [support], [mask * 0 + 255]), r"no pixel is 1, the object"),
        ((query, [support], [mask * 15]), r"values \[15.*a mask has 1 on the object"),
        ((query, [np.zeros((900, 900, 3), np.uint8)], [speck]), r"nothing is left of the object at side 97"),
        ((query, [], []), "0 supports and 0 masks"),
        ((query, [support], [mask, mask]), "1 supports and 2 masks"),
        ((query, "support.png", "mask.png"), "are lists"),
        ((query[..., 0], [support], [mask]), r"query: an image is an array \(H, W, 3\)"),
        ((query * 1.0, [support], [mask]), r"query: an image of floats has values in 0\.\.1"),
        ((broken, [support], [mask]), r"broken.png: cannot be read as an image"),
        ((tmp_path / "none.png", [support], [mask]), r"none.png: no such file"),
        ((query, [support], [broken]), r"broken.png: not an image"),
        ((query, [support], [tmp_path / "colour.png"]), r"colour.png: a mask must be a palette or grey PNG"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(*arguments)


def test_what_is_wrong_with_weights_is_said(trained, tmp_path):
    weights, _ = trained
    with pytest.raises(ValueError, match=r"none\.safetensors: no such weights file"):
        i2r.load(tmp_path / "none.safetensors")
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match="neither a network file nor the weights of a training"):
        i2r.load(copy)
    (tmp_path / "manifest.json").write_text((weights.parent / "manifest.json").read_text())
    with pytest.raises(ValueError, match=r"its backbone is missing: .*store/backbone"):
        i2r.load(copy)
    copy.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable weights file"):
        i2r.load(copy)
    model = i2r.load(weights, device="cpu")
    wrong = {**model.about, "method": {**model.about["method"], "blocks": 7}}
    save_network(model.network.state_dict(), wrong, copy)
    with pytest.raises(ValueError, match=r"not the weights of this network: without decoder\.Q_block\.2"):
        i2r.load(copy)
    save_network(model.network.state_dict(), {**model.about, "backbone": "huge"}, copy)
    with pytest.raises(ValueError, match="name: Input should be"):
        i2r.load(copy)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no GPU"):
            i2r.load(weights, device="cuda")


def test_the_package_alone_brings_no_torch():
    code = "import sys, i2r; print('torch' in sys.modules); i2r.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
