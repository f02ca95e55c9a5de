"""Scaling laws: how loss falls with size, data and compute, and how knowledge fills a model."""
