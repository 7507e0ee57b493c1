"""Download of the official archives into a data folder that runs and users share. docs/data.md describes it."""

from i2r.data.fetch.stock import State, inspect
from i2r.data.fetch.table import Archive, FetchError, read_table
from i2r.data.fetch.work import fetch, require

__all__ = ["Archive", "FetchError", "State", "fetch", "inspect", "read_table", "require"]
