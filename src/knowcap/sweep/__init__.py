"""Sweeps: a base recipe and overrides make cells, each a run; all cells are run and reported in one table and page."""

from knowcap.sweep.cells import Cell, Sweep
from knowcap.sweep.file import find_sweep, load_sweep, packaged_sweeps


__all__ = ["Cell", "Sweep", "find_sweep", "load_sweep", "packaged_sweeps"]
