"""Networks: the frozen part (backbones, base learner, CAM) and the learned part (decoders)."""
