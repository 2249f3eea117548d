"""Training of language models (arXiv 2512.23808, sections 3.2 and 4.2)."""
