"""Laws of scaling: what a table of runs says about loss, and about bits of knowledge, with intervals. numpy alone."""

from __future__ import annotations

from knowcap.laws.allocation import Allocation, kaplan_allocation, parametric_allocation, power_allocation
from knowcap.laws.capacity import fit_capacity
from knowcap.laws.critical_batch import critical_batch, fit_critical_batch, fit_critical_batch_curves
from knowcap.laws.envelope import fit_envelope
from knowcap.laws.exposures import capacity_at, exposures_needed, fit_exposures
from knowcap.laws.fit import Fit, LawError, Options
from knowcap.laws.isoflop import fit_isoflop
from knowcap.laws.kaplan import (
    fit_kaplan_nd,
    fit_kaplan_ns,
    kaplan_nd_loss,
    kaplan_ns_loss,
    min_steps,
    overfitting,
    tokens_needed,
)
from knowcap.laws.law import LAWS, fit_law
from knowcap.laws.parametric import fit_parametric, parametric_loss
from knowcap.laws.power import fit_kaplan_c, fit_kaplan_d, fit_kaplan_n
from knowcap.laws.reading import read_runs


__all__ = [
    "LAWS",
    "Allocation",
    "Fit",
    "LawError",
    "Options",
    "capacity_at",
    "critical_batch",
    "exposures_needed",
    "fit_capacity",
    "fit_critical_batch",
    "fit_critical_batch_curves",
    "fit_envelope",
    "fit_exposures",
    "fit_isoflop",
    "fit_kaplan_c",
    "fit_kaplan_d",
    "fit_kaplan_n",
    "fit_kaplan_nd",
    "fit_kaplan_ns",
    "fit_law",
    "fit_parametric",
    "kaplan_allocation",
    "kaplan_nd_loss",
    "kaplan_ns_loss",
    "min_steps",
    "overfitting",
    "parametric_allocation",
    "parametric_loss",
    "power_allocation",
    "read_runs",
    "tokens_needed",
]
