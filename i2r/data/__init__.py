"""Data: data sources, fold lists, episodes and views of images."""
