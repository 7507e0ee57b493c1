"""Import of published checkpoints: tensors are imported unchanged, and files that do not fit are refused."""

import json
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from seeded import close

from i2r.nets.backbone.base import build_backbone
from i2r.nets.io.network_file import open_network
from i2r.nets.io.published import NAMES, import_checkpoint
from i2r.nets.io.weights import WeightsError, load_backbone_weights, open_encoder

FOLDER = Path(__file__).parent / "golden"
GOLDEN = {name: np.load(FOLDER / f"{name}.npz") for name in ("i2r_priors", "i2r_cams", "bam_prior")}


def saved(path, tensors, wrapped=True, prefix="module.", **more):
    """A checkpoint as saved by BAM, or by Lightning (which saves more than the weights)."""
    tensors = {prefix + name: tensor.clone() for name, tensor in tensors.items()}
    torch.save({"state_dict": tensors, "epoch": 3, **more} if wrapped else tensors, path)
    return path


@pytest.mark.parametrize(
    ("kind", "shots", "name", "how"),
    [
        (
            "i2r-released",
            1,
            "last.ckpt",
            {"prefix": "", "pytorch-lightning_version": "2.1.0", "callbacks": {}},
        ),
        ("i2r-released", 5, "best.pth", {}),
        ("bam", 1, "best.pth", {}),
        ("bam", 5, "plain.pth", {"wrapped": False, "prefix": ""}),
        ("bam-vgg16", 1, "best.pth", {}),
    ],
)
def test_whole_networks(kind, shots, name, how, tmp_path):
    source, out = (
        saved(tmp_path / name, networks.checkpoint(kind, shots), **how),
        tmp_path / "out.safetensors",
    )
    published_kind = kind.removesuffix("-vgg16")
    import_checkpoint(published_kind, source, out)
    expected = networks.network(kind, shots)
    network = open_network(out)
    assert network.options == expected.options
    state, ours = expected.state_dict(), network.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(state[n], ours[n]) for n in state)
    report = json.loads(out.with_suffix(".keys.json").read_text())
    assert set(report["used"].values()) == set(state) and report["missing"] == []
    assert report["network"]["shots"] == shots and report["network"]["size"] == 473
    assert report["used"].keys() | report["ignored"].keys() == networks.checkpoint(kind, shots).keys()
    if kind == "i2r-released":
        assert "never used" in report["ignored"]["S_block_res2_meta.0.0.weight"]
        assert report["ignored"]["learner_base.1.4.bias"] == "copy of encoder.base_learner.cls.4.bias"


@pytest.mark.parametrize("kind", ["iir-base", "bam-base", "bam-base-vgg16"])
def test_base_networks_serve_as_backbone_and_base_learner(kind, tmp_path):
    source = saved(tmp_path / "base.pth", networks.checkpoint(kind))
    out = tmp_path / "base.safetensors"
    report = import_checkpoint(kind.removesuffix("-vgg16"), source, out)
    assert all(name.startswith("encoder.") for name in report["ignored"])
    expected = networks.encoder({"iir-base": "i2r", "bam-base": "bam", "bam-base-vgg16": "bam-vgg16"}[kind])
    name = {"iir-base": "resnet50", "bam-base": "resnet50-bam", "bam-base-vgg16": "vgg16-bam"}[kind]
    options = networks.backbone_params(name, weights=str(out))
    encoder = open_encoder(options, out_backbone(options, tmp_path), base_learner=out)
    state, ours = expected.state_dict(), encoder.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(state[n], ours[n]) for n in state)


def out_backbone(options, folder):
    """A file as the backbone step writes it."""
    backbone = build_backbone(options)
    load_backbone_weights(backbone, options)
    save_file(backbone.state_dict(), folder / "backbone.safetensors")
    return folder / "backbone.safetensors"


def test_an_imported_network_gives_the_published_numbers(tmp_path):
    source = saved(tmp_path / "i2r.pth", networks.checkpoint("i2r-released", 3))
    import_checkpoint("i2r-released", source, tmp_path / "i2r.safetensors", size=161)
    with torch.no_grad():
        output = open_network(tmp_path / "i2r.safetensors")(**networks.episode("pub3-2", 1, 3))
    close(output.prior_query, GOLDEN["i2r_priors"]["3shot/query_prior"])
    assert output.class_id.T.tolist() == GOLDEN["i2r_priors"]["3shot/class_ids"].tolist()


INITIAL = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
MERGES = {"gram_merge.weight": INITIAL, "cls_merge.weight": INITIAL}


@pytest.mark.parametrize(
    ("changes", "flag", "expected", "why"),
    [
        ({}, None, True, "have been trained"),
        (MERGES, None, False, "as before any training"),
        ({name: 0.97 * INITIAL for name in MERGES}, None, False, "as before any training"),
        ({"cls_merge.weight": INITIAL}, None, True, "have been trained"),
        (MERGES, True, True, "as requested"),
        ({}, False, False, "as requested"),
    ],
    ids=["trained", "initial", "only decayed", "one of them trained", "asked for", "asked not to"],
)
@pytest.mark.parametrize("kind", ["i2r-released", "bam"])
def test_the_ensemble_of_a_checkpoint(kind, changes, flag, expected, why, tmp_path):
    """The published module always has its weights; without the ensemble (I2R on COCO) they are never trained."""
    source, out = (
        saved(tmp_path / "a.ckpt", networks.checkpoint(kind) | changes),
        tmp_path / "out.safetensors",
    )
    report = import_checkpoint(kind, source, out, ensemble=flag)
    assert report["ensemble"].startswith(f"ensemble {'on' if expected else 'off'}: ")
    assert why in report["ensemble"] and report["missing"] == []
    options = open_network(out).options
    assert options.ensemble == report["network"]["network"]["ensemble"] == expected
    assert all(
        (f"module.{name}" in report["ignored"] or name in report["ignored"]) != expected for name in MERGES
    )


def test_an_ensemble_that_the_file_does_not_have(tmp_path, capsys):
    from i2r import cli

    tensors = {n: t for n, t in networks.checkpoint("bam").items() if n not in MERGES}
    source, out = saved(tmp_path / "a.pth", tensors), tmp_path / "out.safetensors"
    assert "has no gram_merge, cls_merge" in import_checkpoint("bam", source, out)["ensemble"]
    out.unlink()
    with pytest.raises(SystemExit):
        cli.main(["import-checkpoint", "--kind", "bam", "--ensemble", "on", str(source), str(out)])
    assert "ensemble off: the file has no gram_merge" in capsys.readouterr().err and not out.exists()
    cli.main(["import-checkpoint", "--kind", "bam", "--ensemble", "off", str(source), str(out)])
    assert "ensemble off: the file has no gram_merge" in capsys.readouterr().out


def test_the_command(tmp_path, capsys):
    from i2r import cli, cli_networks

    assert set(cli_networks.CHECKPOINTS) == set(NAMES)
    source, out = saved(tmp_path / "a.pth", networks.checkpoint("bam")), tmp_path / "out.safetensors"
    cli.main(["import-checkpoint", "--kind", "bam", str(source), str(out)])
    said = capsys.readouterr().out
    assert str(out) in said and "ensemble on: " in said and out.is_file()
    saved(tmp_path / "a.ckpt", networks.checkpoint("bam"), hyper_parameters=Path("x"))
    with pytest.raises(SystemExit):
        cli.main(["import-checkpoint", "--kind", "bam", str(tmp_path / "a.ckpt"), str(out)])
    assert "contains a Python object (pathlib" in capsys.readouterr().err


def test_missing_counters_are_reported(tmp_path):
    tensors = {n: t for n, t in networks.checkpoint("bam").items() if not n.endswith("num_batches_tracked")}
    report = import_checkpoint("bam", saved(tmp_path / "a.pth", tensors), tmp_path / "a.safetensors")
    assert len(report["missing"]) == 60
    assert all(name.endswith("num_batches_tracked") for name in report["missing"])
    assert load_file(tmp_path / "a.safetensors")[report["missing"][0]] == 0


def test_what_does_not_fit_is_refused(tmp_path):
    bam, out = networks.checkpoint("bam"), tmp_path / "out.safetensors"

    def refused(kind, tensors, message):
        with pytest.raises(WeightsError, match=message):
            import_checkpoint(kind, saved(tmp_path / "a.pth", tensors), out)
        assert not out.exists()

    for kind in set(NAMES) - {"bam"}:
        refused(kind, bam, f"not the layout of {kind}: .*it has the layout of bam$")
    refused("bam", {**bam, "teacher.fc.weight": torch.zeros(3)}, r"1 unknown names \(teacher\.fc\.weight")
    refused("bam", {n: t for n, t in bam.items() if n != "down_supp.0.weight"}, "without down_supp.0.weight")
    refused(
        "bam", {**bam, "init_merge.0.weight": torch.zeros(256, 700, 1, 1)}, r"\(256, 700, 1, 1\) instead of"
    )
    base = networks.checkpoint("bam-base")
    refused(
        "bam-base", {**base, "encoder.1.0.conv1.weight": torch.zeros(64, 128, 1, 1)}, "differs from another"
    )
    with pytest.raises(WeightsError, match="must end in"):
        import_checkpoint("bam", tmp_path / "a.pth", tmp_path / "out.pth")
    saved(tmp_path / "a.ckpt", bam, hyper_parameters=Path("x"))
    with pytest.raises(WeightsError, match=r"contains a Python object \(pathlib"):
        import_checkpoint("bam", tmp_path / "a.ckpt", out)
