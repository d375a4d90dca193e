"""A classifier of handwritten digits, trained eagerly and compiled, side by side."""
