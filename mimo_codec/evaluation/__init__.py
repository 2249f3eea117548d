"""Measuring models on files: `codec/` compares originals with what codecs make of them."""
