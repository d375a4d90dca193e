"""Ahead-of-time autograd: from a captured graph to forward and backward graphs and a runtime."""
