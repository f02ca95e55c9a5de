"""The metrics of `knowcap`, each a folder that `evaluate.load` reads and that can be published as a Space.

The plain functions behind a metric are in a module of its folder that needs neither `evaluate` nor torch, for instance
`knowcap.metrics.bits_per_parameter.bits`.
"""
