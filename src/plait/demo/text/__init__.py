"""A language model of Python's own source text, trained eagerly and compiled, side by side."""
