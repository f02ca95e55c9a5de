"""From nll.parquet to capacity.json: checks, intervals, comparisons of two models, means over seeds, bits by entity.

`capacity` needs no model: it summarizes scored facts. `knowcap.capacity.measure` scores a model first.
"""

from knowcap.capacity.checks import LeakError
from knowcap.capacity.summary import SCHEMA_VERSION, capacity
from knowcap.capacity.tables import CapacityError


__all__ = ["SCHEMA_VERSION", "CapacityError", "LeakError", "capacity"]
