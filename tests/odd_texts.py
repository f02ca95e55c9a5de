"""Texts that tokenizers stumble over."""

from __future__ import annotations

from knowcap.knowledge.pools import Pools


NASTY = Pools(("Al", "Ann", "Anna"), ("Jo", "Joan"), ("Li", "Lin", "O'Neil Jr."), ("Washington D.C.", "York"),
              ("Texas Tech", "Texas Tech University"), ("Art", "Art History"), ("Disney", "Disney+", "Dow Inc."),
              ("Washington D.C.", "York", "York"))  # fmt: skip
