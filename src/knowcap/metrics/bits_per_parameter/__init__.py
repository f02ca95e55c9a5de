"""Bits of knowledge that a language model stores per parameter.

`bits.py` holds the plain functions (numpy alone), `bits_per_parameter.py` the `evaluate` module over them, `app.py`
the page of the Space, `table_text.py` the encoding and separator of tables, `tests.py` cases with known results.
Nothing is re-exported here, since the function `bits_per_parameter` and the module of that name would shadow each
other: write
`from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter`.
"""
