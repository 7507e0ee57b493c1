"""The paper's published numbers as data, and functions that match our methods to them."""
