"""Figures of speed and memory, each a program: `python -m mimo_codec.benchmarks.NAME --help`."""
