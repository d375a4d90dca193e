"""Capture: from a Python function to a graph and the guards under which the graph is valid."""
