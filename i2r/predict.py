"""Networks as a library: `model = i2r.load(FILE)`, then `model.predict(query, supports, masks)`."""

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
from i2r.nets.device import open_device
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
    """A network's prediction for a query, at the query's original size H x W."""

    mask: np.ndarray  # (H, W) uint8, 1 the object
    probability: np.ndarray  # (H, W) float32, softmax of the final scores: above 0.5 where the mask is 1
    prior: np.ndarray | None  # (H, W) float32 0..1; None for networks without a prior
    cam: np.ndarray | None  # (K, H, W) float32 0..1, one for each support; None for networks without CAM


@dataclass
class Model:
    """A network that predicts on images of any size.

    Attributes:
        network: the module, which takes tensors.
        size: S, side of the square to which images are resized, as in the evaluation.
        about: metadata of its network file, see network_file.describe.
    """

    network: Network
    size: int
    about: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode(False)
    @torch.no_grad()
    def predict(self, query: Image, supports: Sequence[Image], masks: Sequence[Image]) -> Prediction:
        """Segment in the query the class that the masks mark in the supports.

        Args:
            query: a path; an array (H, W, 3) or a tensor (3, H, W), RGB, uint8 or floats in 0..1.
            supports: K images in any of these forms; sizes may differ.
            masks: of the supports: paths of palette or grey images, or arrays or tensors (H, W); 1 the object,
                0 background, 255 unknown.

        Raises:
            ValueError: a file is missing or unreadable, a mask has another size than its image, other values or no
                pixel of the object, or the network was made for another number of supports.
        """
        if isinstance(supports, str | Path) or isinstance(masks, str | Path):
            raise DataError("supports and masks must be lists, even for one support")
        supports, masks = list(supports), list(masks)
        if not supports:
            raise DataError("supports is empty; give at least one support, and a mask for each")
        if len(supports) != len(masks):
            raise DataError(
                f"supports has {len(supports)} and masks {len(masks)}; give one mask for each support"
            )
        given = enumerate(zip(supports, masks, strict=True), start=1)
        pairs = [read_pair(*pair, f"support {k}") for k, pair in given]
        square, _, place = evaluation_view(read_image(query, "query"), None, self.size)
        views = [evaluation_view(image, mask, self.size) for image, mask in pairs]
        shrunk = [k for k, (_, mask, _) in enumerate(views, start=1) if not (mask == 1).any()]
        if shrunk:
            raise DataError(
                f"the mask of support {shrunk[0]}: the object vanishes when resized to side {self.size}"
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
        """Write the complete network to a network file, which `load` and `train.weights` of params accept."""
        save_network(self.network.state_dict(), self.about, path)


@torch.inference_mode(False)  # its tensors could not be used outside
def load(path: str | Path, device: str = "auto") -> Model:
    """The model of a weights file.

    Args:
        path: a network file (from `i2r import-checkpoint` or `Model.save`), or the weights.safetensors of a training in
            results/, which must also have the training's backbone, base learner and CAM head.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        ValueError: the file is missing, unreadable or of another kind, or the device is not available.
    """
    place = open_device(device, "device")
    about = read_about(path)
    if about is not None:
        network = open_network(path)
    else:
        network, about = _of_training(Path(path))
    return Model(network.to(place), about["size"], about)


def _of_training(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network of a training's weights.safetensors; its manifest names the frozen networks in results/."""
    manifest = path.parent / "manifest.json"
    spec = read_json(manifest)["spec"] if manifest.is_file() else {}
    if spec.get("step") != "train":
        raise WeightsError(
            f"{path}: neither a network file nor the weights of a training (which need its manifest.json); "
            "`i2r import-checkpoint` makes a network file of a published checkpoint"
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
    """Folder of a job that a training used, in the store of the same results/.

    Raises:
        WeightsError: there is no such folder.
    """
    place = Path("store") / job["step"] / job["key"]
    for folder in path.resolve().parents:
        if (folder / place / "weights.safetensors").is_file():
            return folder / place
    raise WeightsError(f"{path}: its {role} is missing: {place}; Model.save writes one file with everything")


# --- images in, maps out -----------------------------------------------------------------------------------


def read_image(image: Image, what: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a path, an array (H, W, 3) or a tensor (3, H, W).

    Args:
        what: name of the image in messages.

    Raises:
        DataError: the file is missing or unreadable, or the array has another shape or type.
    """
    if isinstance(image, str | Path):
        return open_image(_existing(image))
    colours = 0 if isinstance(image, Tensor) else -1  # dimension of the three colours
    image = _array(image)
    if image.ndim != 3 or image.shape[colours] != 3 or 0 in image.shape:
        raise DataError(
            f"{what}: an image must be an array (H, W, 3) or a tensor (3, H, W), RGB, got shape {image.shape}"
        )
    image = np.moveaxis(image, colours, -1)
    if np.issubdtype(image.dtype, np.floating):
        if not (image.min() >= 0 and image.max() <= 1):
            raise DataError(f"{what}: a float image must have values in 0..1; use uint8 for 0..255")
        image = np.round(255 * image).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"{what}: an image must be uint8 or float, got {image.dtype}")
    return np.ascontiguousarray(image)


def read_pair(image: Image, mask: Image, what: str) -> tuple[np.ndarray, np.ndarray]:
    """A support and its mask, uint8 (H, W, 3) and (H, W) of 0, 1, 255.

    Raises:
        DataError: as read_image, or the mask has another size than its image, other values or no object.
    """
    found = read_image(image, what)
    name = f"{mask}" if isinstance(mask, str | Path) else f"the mask of {what}"
    if isinstance(mask, str | Path):
        mask = open_mask(_existing(mask))
    mask = _array(mask)
    if mask.ndim != 2:
        raise DataError(
            f"{name}: a mask must be a path, or an array or a tensor (H, W), got shape {mask.shape}"
        )
    if mask.shape != found.shape[:2]:
        raise DataError(f"{name} is {_size(mask)}, but its image is {_size(found)} (height x width)")
    strange = [value for value in np.unique(mask).tolist() if value not in (0, 1, UNKNOWN)]
    if strange:
        raise DataError(
            f"{name}: values {strange[:5]}; a mask must be 1 on the object, 0 on background, 255 where unknown"
        )
    if not (mask == 1).any():
        raise DataError(
            f"{name}: no pixel has the value 1, the object (0 is background, 255 unknown); write 1 where it is"
        )
    return found, np.ascontiguousarray(mask.astype(np.uint8))


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise DataError(f"{path}: no such file")
    return Path(path)


def _array(values: Any) -> np.ndarray:
    """The same values as an array, whose type is one that numpy has."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape[:2]))


def write_prediction(
    found: Prediction, query: Path, supports: Sequence[Path], masks: Sequence[Path], out: Path
) -> None:
    """Write mask.png (0 and 1), prediction.npz (all arrays) and picture.png, which shows everything side by side."""
    from i2r.report.pictures import prediction_figure  # not at the top: the library needs no matplotlib

    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "mask.png") as temporary:
        temporary.write_bytes(cv2.imencode(".png", found.mask)[1].tobytes())
    arrays: Mapping[str, np.ndarray] = {k: v for k, v in found._asdict().items() if v is not None}
    with replacing(out / "prediction.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    pairs = [read_pair(*pair, "support") for pair in zip(supports, masks, strict=True)]
    with replacing(out / "picture.png") as temporary:
        prediction_figure(read_image(query, "query"), pairs, arrays, temporary)
