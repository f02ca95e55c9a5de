"""Models with int8 or int4 weights: settings, layers, the two methods, the folder format, and the stage."""
