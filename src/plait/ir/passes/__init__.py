"""Passes over graphs: each a function from graph to graph."""
