"""Evaluation of codecs by metrics of decoded speech: `mimo-codec evaluate`.

items.py        items to compare: files, folders, manifests
systems.py      systems under test: a codec, or files decoded elsewhere
baselines.py    baselines: Opus and Codec2, by their own programs, aligned
scoring.py      metrics of all decoded waveforms, in several processes
run.py          `evaluate`: items -> Evaluation
results.py      the results as values
tables.py       results as text, Markdown and JSON
plots.py        results as pictures
"""
