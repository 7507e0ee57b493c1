"""The paper's published numbers as data, and the functions that say which of our methods they are about."""
