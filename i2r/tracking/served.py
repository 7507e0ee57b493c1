"""A network as MLflow loads and serves it: `mlflow.pyfunc.load_model` and `mlflow models serve` run this file."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
from pydantic import BaseModel, Field

from i2r.data.pairs import DataError, decode_image, decode_mask
from i2r.predict import load


class Episode(BaseModel):
    """A query, and K supports with their masks: image files (PNG, JPEG), each as base64 text."""

    query: str = Field(description="image")
    supports: list[str] = Field(description="K images")
    masks: list[str] = Field(description="of the supports: 1 the object, 0 background, 255 unknown")


class Segmented(BaseModel):
    """The prediction for a query of H x W pixels: PNG files as base64 text."""

    mask: str = Field(description="8 bits, 1 the object, 0 background")
    probability: str = Field(description="16 bits, 65535 times the probability of the object")


class Segmenter(mlflow.pyfunc.PythonModel):
    """The network file `network` of the model, on a GPU if there is one."""

    def load_context(self, context: Any) -> None:
        self.model = load(context.artifacts["network"])

    def predict(self, model_input: list[Episode]) -> list[Segmented]:
        """Segment each query.

        Raises:
            ValueError: as Model.predict, or an image is not base64 text of an image file.
        """
        return [self.segment(episode) for episode in model_input]

    def segment(self, episode: Episode) -> Segmented:
        found = self.model.predict(
            opened(episode.query, "query", decode_image),
            [opened(text, f"support {k}", decode_image) for k, text in enumerate(episode.supports, start=1)],
            [
                opened(text, f"the mask of support {k}", decode_mask)
                for k, text in enumerate(episode.masks, start=1)
            ],
        )
        probability = np.round(65535 * found.probability).astype(np.uint16)
        return Segmented(mask=as_text(found.mask), probability=as_text(probability))


def opened(text: str, what: str, decode: Callable[[Path, bytes], np.ndarray]) -> np.ndarray:
    """The image in the base64 text of an image file.

    Raises:
        DataError: it is not base64 text, or the file not what `decode` expects; the message begins with `what`.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise DataError(f"{what}: not base64 text") from None
    return decode(Path(what), data)


def as_text(image: np.ndarray) -> str:
    """An image as the base64 text of a PNG file."""
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()


mlflow.models.set_model(Segmenter())
