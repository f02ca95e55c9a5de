"""Models with int8 or int4 weights: settings, layers, the two methods, folders; `knowcap.models.quantized.stage` makes them."""
