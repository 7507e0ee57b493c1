"""Tests of everything that is registered: networks, backbones, attention masks, CAM methods, priors.

The tests run over the registries, so a new entry is tested without a line here. A new network needs rows in OPTIONS;
`test_every_option_is_in_the_table` fails without them.
"""

from functools import cache

import pytest
import torch
from networks import backbone_params
from safetensors.torch import save_file
from seeded import options

from i2r.config.networks import ATTENTION_MASKS, CAMS, NETWORKS, PRIORS
from i2r.config.schema import BACKBONES
from i2r.nets.backbone.base import build_backbone
from i2r.nets.decoder.attention import CrossAttention, Labels
from i2r.nets.decoder.attention_masks import find_mask
from i2r.nets.encoder import Encoder, encode_episode
from i2r.nets.fuse import fuse
from i2r.nets.io.network_file import Network, describe, open_network, save_network
from i2r.nets.io.weights import open_backbone
from i2r.nets.networks import build_meta_learner
from i2r.nets.pmgm.cam import cam_maps_and_layer4, normalise
from i2r.nets.pmgm.priors import prior
from i2r.nets.pspnet import PSPNet

TINY = {"width": 16, "channels": (4, 8, 8), "dropout": 0.1, "reduce_dropout": 0.2}
ODD = (49, 65)  # height and width of images


def tiny(name, **changes):
    """Options of a network with the smallest possible sizes."""
    fields = NETWORKS[name].model_fields
    return options(name, **{field: value for field, value in TINY.items() if field in fields} | changes)


@cache
def encoder(base=True):
    """The small backbone with random weights and varied classes; shared, do not modify."""
    torch.manual_seed(0)
    backbone = build_backbone(backbone_params("small"), 20)
    for part in backbone.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    net = Encoder(backbone, PSPNet(128, 5, 16) if base else None)
    backbone.fc.weight.data.normal_()
    data = episode(4, 3)
    x3 = net.images(data["supports"].flatten(0, 1)).x3
    backbone.fc.bias.data -= net.support(x3, data["masks"].flatten(0, 1))[1].mean(
        0
    )  # what all have in common
    net.class_table = torch.arange(19, -1, -1)
    return net


def episode(batch=2, shots=1, size=ODD, seed=0):
    """Arguments of a Network: noise, with an object of another colour and unknown pixels in each image."""
    torch.manual_seed(seed)

    def images(*lead):
        x, mask = torch.randn(*lead, 3, *size), torch.zeros(*lead, *size, dtype=torch.long)
        mask[..., 8:40, 16:48], mask[..., -4:] = 1, 255
        return x + 2 * (mask == 1).unsqueeze(-3) * torch.tensor([1.0, -1.0, 0.5])[:, None, None], mask

    (query, mask_q), (supports, masks) = images(batch), images(batch, shots)
    return {"query": query, "supports": supports, "masks": masks, "mask_q": mask_q}


def network(name, shots=1, **changes):
    frozen, choice = encoder(), tiny(name, **changes)
    torch.manual_seed(0)
    return Network(frozen, build_meta_learner(choice, frozen.layout, shots))


def calm(name):
    """Options without randomness, and without masks that rounding can change or that only training uses."""
    values = {"dropout": 0.0, "reduce_dropout": 0.0, "mask": "none"}
    return {field: value for field, value in values.items() if field in NETWORKS[name].model_fields}


def finite(values):
    return all(value.isfinite().all() for value in values if value is not None)


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("case", ["odd", "square", "empty mask", "full mask"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_and_evaluates(name, case, shots):
    size = (57, 57) if case == "square" else ODD
    data = episode(2, shots, size)
    if case.endswith("mask"):
        data["masks"] = torch.full_like(data["masks"], int(case == "full mask"))
    net = network(name, shots).train()
    output = net(**data, base_class=torch.tensor([0, 3]))
    assert output.losses and output.loss == sum(output.losses.values())
    output.loss.backward()
    gradients = {n: p.grad for n, p in net.meta_learner.named_parameters()}
    assert finite([output.loss, *gradients.values()])
    assert [n for n, g in gradients.items() if g is None] == []
    assert all(p.grad is None for p in net.encoder.parameters())
    with torch.no_grad():
        plain = net.eval()(**{**data, "mask_q": None})
        measured = net(**data)
    assert plain.final_logits.shape == (2, 2, *size) and finite([plain.final_logits])
    assert plain.losses == {} and measured.losses.keys() == output.losses.keys()
    torch.testing.assert_close(measured.final_logits, plain.final_logits)
    if plain.prior_query is not None:
        assert plain.prior_query.min() >= 0 and plain.prior_query.max() <= 1
    assert (plain.cam_query is not None) == net.options.uses_cam


@pytest.mark.parametrize("name", NETWORKS)
def test_episodes_of_a_batch_do_not_mix_at_test(name):
    net, data = network(name).eval(), episode(3)
    with torch.no_grad():
        together = net(**data).final_logits[1:2]
        alone = net(**{key: value[1:2] for key, value in data.items()}).final_logits
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_from_its_file(name, tmp_path):
    net, data = network(name, 5).eval(), episode(1, 5)
    about = describe("small", net.options, 5, 65)
    save_network(net.state_dict(), about, tmp_path / "net.safetensors")
    again = open_network(tmp_path / "net.safetensors")
    assert again.options == net.options
    with torch.no_grad():
        assert torch.equal(again(**data).final_logits, net(**data).final_logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_network_are_those_of_float64(name):
    gradients = []
    for dtype in (torch.float32, torch.float64):
        net = network(name, 2, **calm(name))
        meta = net.meta_learner.to(dtype).train()
        inputs = encode_episode(net.encoder, **episode(2, 2), options=net.options)
        for key, value in vars(inputs).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(inputs, key, value.to(dtype))
            elif isinstance(value, tuple):
                setattr(inputs, key, tuple(x.to(dtype) for x in value))
        meta(inputs).loss.backward()
        gradients.append(torch.cat([p.grad.flatten().double() for p in meta.parameters()]))
    single, double = gradients
    assert finite([double]) and (single - double).norm() < 1e-2 * double.norm()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_learns_one_episode_by_heart(name):
    net = network(name, **calm(name))
    inputs = encode_episode(net.encoder, **episode(1, 1, (57, 57)), options=net.options)
    meta = net.meta_learner.train()
    optimiser = torch.optim.Adam(meta.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, 200)  # the norms' averages settle
    for _ in range(200):
        loss = meta(inputs).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = meta.eval()(inputs).final_logits.argmax(1)
    known, truth = inputs.mask_q != 255, inputs.mask_q == 1
    iou = ((found == 1) & truth).sum() / (((found == 1) | truth) & known).sum()
    assert loss.item() < 0.1 and iou.item() > 0.95, (loss.item(), iou.item())


# --- options: each changes the output, a loss or a gradient on a fixed input ---------------------------------------

CAM = {
    "cam": {"cam": "hirescam"},
    "cam_layer": {"cam_layer": "layer4"},
    "cam_backend": "another program for the same numbers (test_cam.py)",
    "delta": {"delta": 0.3},
    "delta_compare": ({"delta": 0.0}, {"delta": 0.0, "delta_compare": ">"}),
    "class_source": {"class_source": "majority"},
}
ENSEMBLE = {
    "ensemble": {"ensemble": True},
    "shot_weights": {"shot_weights": "gram"},
    "ignore": {"ignore": "background"},
    "width": {"width": 24},
    "reduce_dropout": {"reduce_dropout": 0.4},
    "dropout": {"dropout": 0.3},
}
NAME = {"name": "says which network it is"}
# network: option: changes to the tiny options; or a pair (base, changes); or the reason why nothing changes
OPTIONS = {
    "i2r": NAME
    | CAM
    | ENSEMBLE
    | {
        "prior": {"prior": "ordered"},
        "mask": {"mask": "column"},
        "support_branch": {"support_branch": False},
        "blocks": {"blocks": 3},
        "cross": {"cross": 1},
        "shot_cam": {"shot_cam": "last"},
        "embedding": {"embedding": True},
        "detach_merge_input": {"detach_merge_input": True},
    },
    # BAM's own prior needs no CAM, so options of the CAM are tested with another prior
    "bam": NAME
    | {
        key: row if isinstance(row, str) else tuple({"prior": "pmgm"} | part for part in row)
        for key, row in {
            key: (row if isinstance(row, (str, tuple)) else ({}, row)) for key, row in CAM.items()
        }.items()
    }
    | ENSEMBLE
    | {"prior": {"prior": "mean"}},
    "hsnet": NAME | {"channels": {"channels": (8, 8, 8)}, "ignore": {"ignore": "255"}},
    "query-only": NAME
    | {
        "width": {"width": 8},
        "reduce_dropout": {"reduce_dropout": 0.9},
        "ignore": {"ignore": "background"},
    },
}
# A text says why an option changes nothing here.
ROWS = [(n, option) for n, table in OPTIONS.items() for option in table if not isinstance(table[option], str)]


def fingerprint(name, **changes):
    """Losses, gradients and logits on a fixed input, in training and at test."""
    net, data = network(name, 3, **changes).train(), episode(2, 3, seed=1)
    torch.manual_seed(1)
    output = net(**data, base_class=torch.tensor([0, 3]))
    output.loss.backward()
    values = {n: p.grad for n, p in net.meta_learner.named_parameters() if p.grad is not None}
    values |= output.losses | {"logits": output.final_logits}
    with torch.no_grad():
        values["at test"] = net.eval()(**data).final_logits
    return values


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_is_in_the_table(name):
    assert set(OPTIONS[name]) == set(NETWORKS[name].model_fields)


@pytest.mark.parametrize(("name", "option"), ROWS)
def test_an_option_changes_something(name, option):
    row = OPTIONS[name][option]
    before, after = row if isinstance(row, tuple) else ({}, row)
    first, second = cached_fingerprint(name, *before.items()), cached_fingerprint(name, *after.items())
    assert any(key not in second or not torch.equal(value, second[key]) for key, value in first.items())


@cache
def cached_fingerprint(name, *changes):
    return fingerprint(name, **dict(changes))


def test_the_same_options_change_nothing():
    for name in NETWORKS:
        first, second = cached_fingerprint(name), fingerprint(name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


# --- backbones ----------------------------------------------------------------------------------------------------


@cache
def backbone(name):
    torch.manual_seed(0)
    return build_backbone(backbone_params(name), 5).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_has_the_maps_that_its_layout_says(name, tmp_path):
    net, images = backbone(name), torch.randn(1, 3, *ODD)
    with torch.no_grad():
        maps = net.maps(images, pyramid=True)
        for ours, plain in zip(maps[:3], net.maps(images)[:3], strict=True):
            torch.testing.assert_close(ours, plain)
        for ours, fused in zip(maps[:3], fuse(net).maps(images)[:3], strict=True):
            torch.testing.assert_close(fused, ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))
    layout = net.layout
    assert tuple(x.shape[1] for x in maps[:3]) == layout.channels
    assert len(maps.pyramid) == sum(layout.blocks) and min(layout.blocks) > 0
    assert finite(maps.pyramid) and maps.pyramid[-1].shape[1] == layout.channels[2]
    empty = net.masked(maps.x3, maps.x4, torch.zeros(1, 1, *ODD))
    assert empty.shape == maps.x4.shape and finite([empty])
    if net.fc is not None:
        assert net.logits(maps.x4).shape == (1, 5)
    save_file({n: t.contiguous() for n, t in net.state_dict().items()}, tmp_path / "w.safetensors")
    again = open_backbone(backbone_params(name), tmp_path / "w.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again.maps(images).x4, maps.x4)


@pytest.mark.parametrize("network_name", NETWORKS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_runs_on_every_backbone(name, network_name):
    net = Encoder(backbone(name))
    choice = tiny(network_name)
    if choice.uses_cam:
        choice = tiny(network_name, prior="mean")  # not every backbone has a classifier
    meta = build_meta_learner(choice, net.layout)
    inputs = encode_episode(net, **episode(1, 1), options=choice)
    output = meta.train()(inputs) if network_name != "i2r" else meta.eval()(inputs)
    assert output.final_logits.shape == (1, 2, *ODD) and finite([output.final_logits, output.loss])


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_of_a_backbone_are_finite_in_float64(name):
    images = torch.randn(1, 3, 33, 41, dtype=torch.float64, requires_grad=True)
    net = build_backbone(backbone_params(name), 5).double().eval()
    maps = net.maps(images)
    (gradient,) = torch.autograd.grad(sum(x.square().mean() for x in maps[:3]), images)
    assert finite([gradient]) and gradient.abs().max() > 0


# --- attention masks, CAM methods, priors ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["plain", "empty support", "unknown query"])
@pytest.mark.parametrize("name", ATTENTION_MASKS)
def test_an_attention_mask_masks_and_the_attention_learns(name, case):
    torch.manual_seed(0)
    support, query = torch.rand(2, 5, 12) < 0.5, torch.rand(2, 1, 12) < 0.5
    labels = Labels(
        support & (case != "empty support"), query, torch.full_like(query, case == "unknown query")
    )
    attention = CrossAttention(8, 0.0).double()
    q, s = (torch.randn(2, k, 12, 8, dtype=torch.float64, requires_grad=True) for k in (1, 5))
    out, ratio = attention(q, s, labels, name)
    gradients = torch.autograd.grad(out.square().sum(), [q, s, *attention.parameters()])
    assert finite([out, ratio, *gradients]) and out.shape == (2, 5, 12, 8)
    assert (ratio >= 0).all() and (ratio <= 1).all()
    scores = torch.randn(2, 5, 12, 12)
    cells = find_mask(name, scores, labels.support, labels.query, labels.unknown)
    assert cells.shape == scores.shape and cells.dtype == torch.bool
    without_query = find_mask(name, scores, labels.support)
    assert (without_query is None) == ATTENTION_MASKS[name].needs_query


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", ATTENTION_MASKS)
def test_i2r_trains_with_every_attention_mask(name, shots):
    net = network("i2r", shots, mask=name).train()
    output = net(**episode(1, shots))
    output.loss.backward()
    assert finite([output.loss, *(p.grad for p in net.meta_learner.parameters())])


@pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name, cam in CAMS.items() for layer in cam.layers]
)
def test_a_cam_is_finite_and_leaves_no_graph(name, layer):
    net = encoder().backbone
    x3 = net.to_layer3(episode(3)["query"])[1].detach()
    x3[1] = 0
    ids = torch.tensor([0, 7, 19])
    maps, x4 = cam_maps_and_layer4(name, layer, net, x3, ids)
    assert maps.shape == (3, 7, 9) and finite([maps, x4]) and (maps >= 0).all() and not maps.requires_grad
    full = normalise(maps, ODD)
    assert finite([full]) and full.amin() == 0 and full.amax() <= 1
    alone, _ = cam_maps_and_layer4(name, layer, net, x3[2:], ids[2:])
    torch.testing.assert_close(maps[2:], alone, rtol=1e-3, atol=1e-5 * float(maps.max()))
    with torch.no_grad():
        assert finite([network("i2r", 5, cam=name, cam_layer=layer).eval()(**episode(1, 5)).final_logits])


@pytest.mark.parametrize("case", ["plain", "empty mask", "no features"])
@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_a_map_of_0_to_1(name, shots, case):
    choice = tiny("i2r", prior=name)
    assert choice.uses_cam == PRIORS[name].uses_cam
    inputs = encode_episode(encoder(), **episode(2, shots), options=choice)
    if case == "empty mask":
        inputs.masks_s = inputs.masks_s * 0
    elif case == "no features":
        inputs.x4_q, inputs.x4_s = inputs.x4_q * 0, inputs.x4_s * 0
    query, support = prior(name, inputs, choice)
    assert query.shape == (2, 7, 9) and support.shape == (2, shots, 7, 9)
    assert finite([query, support])
    assert all(maps.min() >= 0 and maps.max() <= 1 + 1e-6 for maps in (query, support))
    assert prior(name, inputs, choice, support=False)[1] is None
    inputs.x4_q, inputs.x4_s = inputs.x4_q.double(), inputs.x4_s.double()
    double, _ = prior(name, inputs, choice)
    torch.testing.assert_close(double.float(), query, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_i2r_and_bam_learn_with_every_prior(name):
    for network_name in ("i2r", "bam"):
        net = network(network_name, prior=name).train()
        output = net(**episode(1, 1), base_class=torch.tensor([1]))
        output.loss.backward()
        assert finite([output.loss, *(p.grad for p in net.meta_learner.parameters())])
