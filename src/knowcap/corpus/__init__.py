"""The texts: every corpus rendered with spans from sentence templates, its tokenizer and its pieces."""
