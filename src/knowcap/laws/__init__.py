"""Scaling laws of loss and of knowledge capacity, fitted to a table of runs, with confidence intervals."""

from __future__ import annotations

from knowcap.laws.accuracy import accuracy_at, fit_accuracy
from knowcap.laws.best import fit_best
from knowcap.laws.capacity import exposures_needed, fit_capacity, fit_exposures
from knowcap.laws.chinchilla import fit_envelope
from knowcap.laws.critical_batch import (
    critical_batch,
    fit_critical_batch,
    fit_critical_batch_curves,
    kaplan_allocation,
    min_steps,
)
from knowcap.laws.data_constrained import fit_data_constrained
from knowcap.laws.factors import factored_bits, fit_factors
from knowcap.laws.fit import Fit, Options
from knowcap.laws.fitting import LAWS, fit_law
from knowcap.laws.isoflop import fit_isoflop
from knowcap.laws.kaplan import (
    fit_kaplan_c,
    fit_kaplan_d,
    fit_kaplan_n,
    fit_kaplan_nd,
    fit_kaplan_ns,
    kaplan_nd_loss,
    kaplan_ns_loss,
    overfitting,
    tokens_needed,
)
from knowcap.laws.law import Allocation, LawError, parametric_allocation, power_allocation
from knowcap.laws.mixtures import fit_mixtures, joint_loss, mixture_loss
from knowcap.laws.multi_power import fit_multi_power, multi_power_loss
from knowcap.laws.parametric import fit_parametric, parametric_loss
from knowcap.laws.repeated import capacity_at, data_constrained_loss, effective_tokens, value_of_pass
from knowcap.laws.step_law import best_rate_and_batch, fit_step_law
from knowcap.laws.table import read_runs


__all__ = [
    "LAWS",
    "Allocation",
    "Fit",
    "LawError",
    "Options",
    "accuracy_at",
    "best_rate_and_batch",
    "capacity_at",
    "critical_batch",
    "data_constrained_loss",
    "effective_tokens",
    "exposures_needed",
    "fit_best",
    "factored_bits",
    "fit_accuracy",
    "fit_capacity",
    "fit_critical_batch",
    "fit_critical_batch_curves",
    "fit_data_constrained",
    "fit_envelope",
    "fit_exposures",
    "fit_factors",
    "fit_isoflop",
    "fit_kaplan_c",
    "fit_kaplan_d",
    "fit_kaplan_n",
    "fit_kaplan_nd",
    "fit_kaplan_ns",
    "fit_law",
    "fit_mixtures",
    "fit_multi_power",
    "fit_parametric",
    "fit_step_law",
    "joint_loss",
    "kaplan_allocation",
    "kaplan_nd_loss",
    "kaplan_ns_loss",
    "min_steps",
    "mixture_loss",
    "multi_power_loss",
    "overfitting",
    "parametric_allocation",
    "parametric_loss",
    "power_allocation",
    "read_runs",
    "tokens_needed",
    "value_of_pass",
]
