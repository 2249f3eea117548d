"""Originals against what codecs make of them: `mimo-codec evaluate`.

items.py        what to compare: files, folders, manifests
systems.py      the codec, or files decoded elsewhere
baselines.py    Opus and Codec2, by their own programs, aligned
scoring.py      metrics of everything decoded, in several processes
run.py          `evaluate`: items -> Evaluation
results.py      what was found, as values
tables.py       as text, Markdown and JSON
plots.py        as pictures
"""
