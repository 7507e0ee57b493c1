"""Networks: the encoder (backbones, base learner, CAM), the meta learners, and their files."""
