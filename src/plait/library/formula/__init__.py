"""Scalar formulas: read from a function's source, differentiated, typed and evaluated.

`terms` is what a formula is made of, `functions` the table of what it may call, `parse` reads one,
`derive` differentiates one, `evaluate` runs one over arrays or over tensors.
"""
