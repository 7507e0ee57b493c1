"""The library and `i2r predict`: images of any size, maps at the query's size."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from networks import backbone_params
from PIL import Image
from safetensors.torch import save_file
from seeded import options

import i2r
from i2r.data.transforms import evaluation_view
from i2r.metrics.segmentation import predict_on_grid
from i2r.nets.backbone.base import build_backbone
from i2r.nets.io.network_file import save_network
from i2r.nets.networks import build_meta_learner
from i2r.nets.pspnet import PSPNet
from i2r.predict import write_prediction

NETWORKS = {
    "i2r": options(width=16, ensemble=True),
    "bam": options("bam", width=16, ensemble=True),
    "hsnet": options("hsnet", channels=(4, 4, 8)),
    "query-only": options("query-only", width=16),
}


def make_training(results, network="i2r"):
    """weights.safetensors of an untrained network, as a training in results/; BAM's has no CAM head."""
    torch.manual_seed(0)
    backbone = build_backbone(backbone_params("small"), 20).eval()
    meta_learner = build_meta_learner(NETWORKS[network], backbone.layout)
    parts = {
        "backbone": backbone.state_dict(),
        "base_learner": PSPNet(128, 15, 16).state_dict(),
        "cam_head": {name: x for name, x in backbone.state_dict().items() if name.startswith("fc.")},
        "train": meta_learner.state_dict(),
    }
    if network == "bam":
        del parts["cam_head"]
    for step, state in parts.items():
        folder = results / "store" / step / f"{step}-key"
        folder.mkdir(parents=True)
        save_file(state, folder / "weights.safetensors")
    spec = {
        "step": "train",
        "args": {"fold": 0, "shot": 1, "seed": 0},
        "params": {
            "data": {"size": 97},
            "backbone": {"name": "small", "stride_at": "3x3"},
            "network": NETWORKS[network].model_dump(mode="json"),
        },
        "inputs": {step: {"step": step, "key": f"{step}-key"} for step in parts if step != "train"},
    }
    (folder / "manifest.json").write_text(json.dumps({"spec": spec}))
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """weights.safetensors of a training, and three images (width x height 120 x 97 ...) with their masks."""
    rng, images = np.random.default_rng(0), []
    for width, height in ((120, 97), (97, 80), (60, 97)):
        mask = np.zeros((height, width), np.uint8)
        mask[20:70, 10:50] = 1
        mask[70:73, 10:50] = 255
        noise = rng.integers(0, 80, (height, width, 3))
        images.append(((noise + 150 * mask[..., None] % 255).clip(0, 255).astype(np.uint8), mask))
    return make_training(tmp_path_factory.mktemp("results")), images


def files(folder, given):
    folder.mkdir(exist_ok=True)
    for k, (image, mask) in enumerate(given):
        Image.fromarray(image).save(folder / f"image{k}.png")
        Image.fromarray(mask).save(folder / f"mask{k}.png")
    return [(folder / f"image{k}.png", folder / f"mask{k}.png") for k in range(len(given))]


def test_arrays_tensors_and_paths_give_the_same(trained, tmp_path):
    weights, given = trained
    model = i2r.load(weights, device="cpu")
    (query, _), *supports = given
    images, masks = (list(part) for part in zip(*supports, strict=True))
    found = model.predict(query, images, masks)
    assert found.mask.shape == found.probability.shape == found.prior.shape == query.shape[:2]
    assert found.cam.shape == (2, *query.shape[:2]) and found.cam.min() >= 0 and found.cam.max() <= 1
    assert np.array_equal(found.mask, found.probability > 0.5)
    assert found.prior.min() >= 0 and found.prior.max() <= 1
    paths = files(tmp_path, given)
    tensors = [torch.from_numpy(image).movedim(-1, 0) for image in images]
    for other in (
        model.predict(paths[0][0], *zip(*paths[1:], strict=True)),
        model.predict(torch.from_numpy(query).movedim(-1, 0), tensors, [torch.from_numpy(m) for m in masks]),
        model.predict(query / 255.0, images, masks),
        model.predict(query, iter(images), [torch.from_numpy(m).bfloat16() for m in masks]),
    ):
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, other, strict=True))


@pytest.mark.parametrize("size", [(40, 300), (200, 33), (500, 400)])
def test_images_of_any_size(trained, size):
    weights, given = trained
    rng = np.random.default_rng(0)
    query = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    found = i2r.load(weights, device="cpu").predict(query, [given[0][0]], [given[0][1]])
    assert found.mask.shape == found.prior.shape == found.cam.shape[1:] == size
    assert all(np.isfinite(part).all() for part in found)


def test_one_file_holds_all(trained, tmp_path):
    weights, given = trained
    model = i2r.load(weights, device="cpu")
    model.save(tmp_path / "one.safetensors")
    alone = i2r.load(tmp_path / "one.safetensors", device="cpu")
    assert alone.size == model.size == 97 and alone.network.options == model.network.options
    (query, _), (support, mask), _ = given
    first, second = (m.predict(query, [support], [mask]) for m in (model, alone))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_predicts_from_store_and_from_a_view_of_it(trained, tmp_path, network):
    _, given = trained
    weights = make_training(tmp_path, network)
    view = tmp_path / "shapes" / "train" / "a-readable-name"
    view.mkdir(parents=True)
    for file in weights.parent.iterdir():
        (view / file.name).hardlink_to(file)
    (query, _), (support, mask), _ = given
    found, again = (
        i2r.load(path, device="cpu").predict(query, [support], [mask])
        for path in (weights, view / "weights.safetensors")
    )
    assert np.array_equal(found.probability, again.probability)
    assert (found.prior is None) == (network in ("hsnet", "query-only")) and (found.cam is None) == (
        network != "i2r"
    )
    paths = files(tmp_path / "in", given)
    write_prediction(found, paths[0][0], [paths[1][0]], [paths[1][1]], tmp_path / "out")
    absent = {name for name, value in found._asdict().items() if value is None}
    assert set(np.load(tmp_path / "out/prediction.npz")) == set(found._fields) - absent
    assert (tmp_path / "out/picture.png").is_file()


def test_it_sees_what_the_pipeline_sees(trained):
    weights, given = trained
    model = i2r.load(weights, device="cpu")
    (query, _), (support, mask), _ = given
    found = model.predict(query, [support], [mask])
    image, labels, _ = evaluation_view(support, mask, 97)
    with torch.no_grad():
        square, _, place = evaluation_view(query, None, 97)
        output = model.network(square[None], image[None, None], labels[None, None])
    assert np.array_equal(found.mask, predict_on_grid("original", output.final_logits[0], place))


def test_command(trained, tmp_path, capsys):
    weights, given = trained
    from i2r import cli

    (query, _), *supports = files(tmp_path / "in", given)
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


def test_what_is_wrong_with_images_is_said(trained, tmp_path):
    weights, given = trained
    model = i2r.load(weights, device="cpu")
    (query, _), (support, mask), _ = given
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(b"nothing")
    empty.touch()
    Image.fromarray(support).save(tmp_path / "colour.png")
    speck = np.zeros((900, 900), np.uint8)
    speck[1, 1] = 1
    for arguments, message in (
        ((query, [support], [mask[1:]]), r"mask of support 1 is 79 x 97, but its image is 80 x 97"),
        ((query, [support], [mask * 0]), r"no pixel has the value 1, .*; write 1 where it is"),
        ((query, [support], [mask * 0 + 255]), r"no pixel has the value 1, the object"),
        ((query, [support], [mask * 15]), r"values \[15.*a mask must be 1 on the object"),
        (
            (query, [np.zeros((900, 900, 3), np.uint8)], [speck]),
            r"the mask of support 1: the object vanishes when resized to side 97",
        ),
        ((query, [], []), "supports is empty; give at least one support"),
        ((query, [support], [mask, mask]), "supports has 1 and masks 2; give one mask for each support"),
        (
            (query, [support], [mask[..., None]]),
            r"the mask of support 1: .* \(H, W\), got shape \(80, 97, 1\)",
        ),
        ((query, [support], [None]), r"the mask of support 1: a mask must be a path, or an array"),
        (
            (torch.from_numpy(query), [support], [mask]),
            r"a tensor \(3, H, W\), RGB, got shape \(97, 120, 3\)",
        ),
        ((query, "support.png", "mask.png"), "must be lists"),
        ((query[..., 0], [support], [mask]), r"query: an image must be an array \(H, W, 3\)"),
        ((query * 1.0, [support], [mask]), r"query: a float image must have values in 0\.\.1"),
        ((broken, [support], [mask]), r"broken.png: cannot be read as an image"),
        ((tmp_path / "none.png", [support], [mask]), r"none.png: no such file"),
        ((tmp_path, [support], [mask]), r": a folder, not a file"),
        ((empty, [support], [mask]), r"empty.png: the file is empty"),
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
    state = model.network.state_dict()
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    save_network(state | {name: state[name].fill_(float("nan"))}, model.about, copy)
    with pytest.raises(ValueError, match=f"weights.safetensors: {name} contains NaN or infinity"):
        i2r.load(copy)
    model = i2r.load(weights, device="cpu")
    wrong = {**model.about, "network": {**model.about["network"], "blocks": 7}}
    save_network(model.network.state_dict(), wrong, copy)
    with pytest.raises(ValueError, match=r"not the weights of this network: without decoder\.Q_block\.2"):
        i2r.load(copy)
    save_network(model.network.state_dict(), {**model.about, "backbone": "huge"}, copy)
    with pytest.raises(ValueError, match="name: must be one of"):
        i2r.load(copy)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no GPU"):
            i2r.load(weights, device="cuda")
    for device in ("gpu", "meta", "mps"):
        with pytest.raises(ValueError, match=f"device must be auto, cpu, cuda or cuda:N, got '{device}'"):
            i2r.load(weights, device=device)


def test_predictions_inside_inference_mode(trained):
    weights, ((query, _), (support, mask), _) = trained
    expected = i2r.load(weights, device="cpu").predict(query, [support], [mask])
    with torch.inference_mode():
        found = i2r.load(weights, device="cpu").predict(query, [support], [mask])
    assert np.array_equal(found.probability, expected.probability)


def test_the_package_alone_brings_no_torch():
    code = "import sys, i2r; print('torch' in sys.modules); i2r.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_networks_are_set_up_and_opened_without_the_compiler(trained):
    """Importing it takes a second, in which nothing is computed, in each of the hundreds of jobs of a run."""
    code = f"import sys, i2r; i2r.load({str(trained[0])!r}, device='cpu'); from i2r.engine.trainer import set_up; "
    code += "from i2r.config.experiment import Runtime; set_up(Runtime(device='cpu'), 1); import torch; "
    code += "print(torch.are_deterministic_algorithms_enabled(), 'torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
