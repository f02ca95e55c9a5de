"""Models with int8 or int4 weights: settings, layers, the two methods, folders; `knowcap.quantize` makes them."""
