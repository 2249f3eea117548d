"""Training codecs (needs the `train` extra)."""
