"""Training (needs the `train` extra): what all stages share; `codec/` has the stages of a codec."""
