"""Lowering tables, one module per operator family: graph operators to terms of the loop IR."""
