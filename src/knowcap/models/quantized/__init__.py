"""Models with int8 or int4 weights: settings, layers, the two methods, folders, and the stage that makes them."""
