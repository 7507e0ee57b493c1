"""Data: the embedded set, VOC folders, fold lists, episodes and views."""
