"""The main jobs, each done eagerly and compiled, side by side.

`digits/` learns a classifier, `text/` a language model. What both show and measure alike stands
here: `timing.py`, `show.py`, `figures.py`.
"""
