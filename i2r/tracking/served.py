"""A network as MLflow loads and serves it: `mlflow.pyfunc.load_model` and `mlflow models serve` run this file."""

import base64
import tempfile
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
from pydantic import BaseModel, Field

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
        with tempfile.TemporaryDirectory() as name:

            def placed(text: str, what: str) -> Path:
                path = Path(name) / what
                path.write_bytes(base64.b64decode(text, validate=True))
                return path

            found = self.model.predict(
                placed(episode.query, "query"),
                [placed(text, f"support {k}") for k, text in enumerate(episode.supports)],
                [placed(text, f"mask {k}") for k, text in enumerate(episode.masks)],
            )
        probability = np.round(65535 * found.probability).astype(np.uint16)
        return Segmented(mask=as_text(found.mask), probability=as_text(probability))


def as_text(image: np.ndarray) -> str:
    """An image as the base64 text of a PNG file."""
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()


mlflow.models.set_model(Segmenter())
