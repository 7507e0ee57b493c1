"""I2R: inter- and intra-image refinement for few-shot segmentation, reproduced."""

__version__ = "0.1.0"
