"""Networks as a library: `model = i2r.load(FILE)`, then `model.predict(query, supports, masks)` on any images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from i2r.config import schema
from i2r.config.networks import network_options
from i2r.data.transforms import UNKNOWN, evaluation_view, to_original
from i2r.data.voc import DataError, open_image, open_mask
from i2r.files import read_json, replacing
from i2r.nets.io.network_file import (
    Network,
    describe,
    load_meta_learner,
    open_network,
    read_about,
    save_network,
)
from i2r.nets.io.weights import WeightsError, open_encoder
from i2r.nets.networks import build_meta_learner
from i2r.nets.resize import bilinear

Image = str | Path | np.ndarray | Tensor


class Prediction(NamedTuple):
    """What a network says of a query, at the query's own size H x W."""

    mask: np.ndarray  # (H, W) uint8, 1 the object
    probability: np.ndarray  # (H, W) float32, softmax of the final scores: above 0.5 where the mask is 1
    prior: np.ndarray | None  # (H, W) float32 0..1; None for networks without a prior
    cam: np.ndarray | None  # (K, H, W) float32 0..1, one a support; None for networks without CAM


@dataclass
class Model:
    """A network ready for images.

    Attributes:
        network: the module, for work on tensors.
        size: side of the square that images are brought to, as in the evaluation.
        about: what a network file says of it, see network_file.describe.
    """

    network: Network
    size: int
    about: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.no_grad()
    def predict(self, query: Image, supports: Sequence[Image], masks: Sequence[Image]) -> Prediction:
        """Segment in a query what the masks mark in the supports.

        Args:
            query: a path; an array (H, W, 3) or a tensor (3, H, W), RGB, uint8 or floats in 0..1.
            supports: K of these, each of its own size.
            masks: of the supports: paths of palette or grey images, or arrays or tensors (H, W); 1 the object,
                0 background, 255 unknown.

        Raises:
            ValueError: a file that is missing or unreadable, a mask of another size than its image, with other values
                or without a pixel of the object, or a number of supports that the network was not made for.
        """
        if isinstance(supports, str | Path) or isinstance(masks, str | Path):
            raise DataError("supports and masks are lists, also where there is one support")
        if not len(supports) or len(supports) != len(masks):
            raise DataError(f"{len(supports)} supports and {len(masks)} masks: each support needs one mask")
        pairs = [read_pair(*pair, f"support {k}") for k, pair in enumerate(zip(supports, masks, strict=True))]
        square, _, place = evaluation_view(read_image(query, "query"), None, self.size)
        views = [evaluation_view(image, mask, self.size) for image, mask in pairs]
        shrunk = [k for k, (_, mask, _) in enumerate(views) if not (mask == 1).any()]
        if shrunk:
            raise DataError(
                f"the mask of support {shrunk[0]}: nothing is left of the object at side {self.size}"
            )
        output = self.network(
            square[None].to(self.device),
            torch.stack([image for image, _, _ in views])[None].to(self.device),
            torch.stack([mask for _, mask, _ in views])[None].to(self.device),
        )

        def at_query(maps: Tensor) -> np.ndarray:  # (C, h, w) -> (C, H, W)
            return to_original(bilinear(maps.float(), (self.size, self.size)), place).cpu().numpy()

        scores = torch.from_numpy(at_query(output.final_logits[0]))
        return Prediction(
            mask=scores.argmax(0).byte().numpy(),
            probability=scores.softmax(0)[1].numpy(),
            prior=None if output.prior_query is None else at_query(output.prior_query)[0],
            cam=None if output.cam_query is None else at_query(output.cam_query[0]),
        )

    def save(self, path: str | Path) -> None:
        """Write all of the network as one file, which `load` and `weights:` in params read."""
        save_network(self.network.state_dict(), self.about, path)


def load(path: str | Path, device: str = "auto") -> Model:
    """The model of a file of weights.

    Args:
        path: a network file (of `i2r import-checkpoint` or `Model.save`), or the weights.safetensors of a training in
            results/: then what the training was made from has to lie in results/, too.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        ValueError: naming the file that is missing, unreadable, or none of these; or a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU; use cpu or auto")
    about = read_about(path)
    if about is not None:
        network = open_network(path)
    else:
        network, about = _of_training(Path(path))
    return Model(network.to(device), about["size"], about)


def _of_training(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network of a training's weights.safetensors, put together from results/ by the manifest beside it."""
    manifest = path.parent / "manifest.json"
    spec = read_json(manifest)["spec"] if manifest.is_file() else {}
    if spec.get("step") != "train":
        raise WeightsError(
            f"{path}: neither a network file nor the weights of a training (with its manifest.json beside it)"
        )
    files = {
        role: _stored(path, role, job) / "weights.safetensors"
        for role, job in spec["inputs"].items()
        if role in ("backbone", "base_learner", "cam_head")
    }
    sections = spec["params"]
    options = network_options(sections["network"])
    backbone = schema.Backbone(**sections["backbone"])
    encoder = open_encoder(backbone, **files)
    if not options.uses_base_learner:
        encoder.base_learner = None
    meta_learner = build_meta_learner(options, encoder.layout, spec["args"]["shot"])
    load_meta_learner(meta_learner, path)
    about = describe(
        backbone.name, options, spec["args"]["shot"], sections["data"]["size"], backbone.stride_at
    )
    return Network(encoder, meta_learner).eval(), about


def _stored(path: Path, role: str, job: Mapping[str, str]) -> Path:
    """Folder of a finished job that a training used: of the store in results/, where the training's weights lie too.

    Raises:
        WeightsError: it is not there.
    """
    place = Path("store") / job["step"] / job["key"]
    for folder in path.resolve().parents:
        if (folder / place / "weights.safetensors").is_file():
            return folder / place
    raise WeightsError(f"{path}: its {role} is missing: {place}; Model.save makes one file of all")


# --- images in, maps out -----------------------------------------------------------------------------------


def read_image(image: Image, what: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a path, an array (H, W, 3) or a tensor (3, H, W).

    Raises:
        DataError: a file that is missing or unreadable, or another shape or type.
    """
    if isinstance(image, str | Path):
        return open_image(_existing(image))
    if isinstance(image, Tensor):
        image = image.detach().cpu().movedim(0, -1).numpy()
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(
            f"{what}: an image is an array (H, W, 3) or a tensor (3, H, W), RGB; this one has shape {image.shape}"
        )
    if np.issubdtype(image.dtype, np.floating):
        if not (image.min() >= 0 and image.max() <= 1):
            raise DataError(f"{what}: an image of floats has values in 0..1; give uint8 for 0..255")
        image = np.round(255 * image).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"{what}: an image is uint8 or float, not {image.dtype}")
    return np.ascontiguousarray(image)


def read_pair(image: Image, mask: Image, what: str) -> tuple[np.ndarray, np.ndarray]:
    """A support and its mask, uint8 (H, W, 3) and (H, W) of 0, 1, 255.

    Raises:
        DataError: as read_image; a mask of another size than its image, with other values or without an object.
    """
    found = read_image(image, what)
    name = f"{mask}" if isinstance(mask, str | Path) else f"the mask of {what}"
    if isinstance(mask, str | Path):
        mask = open_mask(_existing(mask))
    mask = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if mask.shape != found.shape[:2]:
        raise DataError(f"{name} is {_size(mask)}, its image {_size(found)} (height x width)")
    strange = [value for value in np.unique(mask).tolist() if value not in (0, 1, UNKNOWN)]
    if strange:
        raise DataError(
            f"{name}: values {strange[:5]}; a mask has 1 on the object, 0 on background, 255 unknown"
        )
    if not (mask == 1).any():
        raise DataError(f"{name}: no pixel is 1, the object (0 is background, 255 is unknown)")
    return found, np.ascontiguousarray(mask.astype(np.uint8))


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    return Path(path)


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape[:2]))


def write_prediction(
    found: Prediction, query: Path, supports: Sequence[Path], masks: Sequence[Path], out: Path
) -> None:
    """Write mask.png (0 and 1), prediction.npz (all arrays) and picture.png, which shows them side by side."""
    from i2r.report.pictures import prediction_figure  # not at the top: the library needs no matplotlib

    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "mask.png") as temporary:
        cv2.imwrite(str(temporary), found.mask)
    arrays: Mapping[str, np.ndarray] = {k: v for k, v in found._asdict().items() if v is not None}
    with replacing(out / "prediction.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    pairs = [read_pair(*pair, "support") for pair in zip(supports, masks, strict=True)]
    prediction_figure(read_image(query, "query"), pairs, arrays, out / "picture.png")
