"""knowcap: how many bits of knowledge a language model stores per parameter."""

from __future__ import annotations


__version__ = "0.1.0"
