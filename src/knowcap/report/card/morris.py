"""What a card says of random strings (after Morris et al. 2025)."""

from __future__ import annotations


CONTROL = {"outsiders": "strings outside the sample"}
DIFFERENCES = (
    "The same as in Morris et al. 2025 (about 3.6 bits per parameter): uniform random strings, a window of its own "
    "for each where it is as long as one, and bits that are S log2 V less the string's negative log "
    "likelihood, which is their unintended memorization where nothing can generalize.",
    "What differs: theirs is the plateau over data sets of growing size, S = 64 tokens of V = 2048, models of 500 "
    "thousand parameters and more; this is one data set size, one small model, and the recipe's S and V. More "
    "strings than the model can hold, or longer training, may show more; at most means all strings.",
    "It knows random strings and nothing else.",
)
CITED = (
    'The corpus is after J. X. Morris et al., "How much do language models memorize?", 2025. The measure is that of'
)
