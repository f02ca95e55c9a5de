"""Sweeps: a base recipe and overrides make cells, each a run; the cells are run, and told of in one table and page."""

from knowcap.sweep.cells import Cell, Sweep
from knowcap.sweep.errors import CellsFailed, SweepError
from knowcap.sweep.file import find_sweep, load_sweep, packaged_sweeps


__all__ = ["Cell", "CellsFailed", "Sweep", "SweepError", "find_sweep", "load_sweep", "packaged_sweeps"]
