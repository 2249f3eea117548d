"""What a language model learns from examples in its prompt (arXiv 2512.23808, sections 3.3 and 4.3).

A suite reads a data set and makes items of it; `run` asks a model every item, with examples or without, and judges the
answers. To add a suite, write a class in `suites/` and give it a row in the table there.
"""
