"""Testing aids: sample calls of operators, comparisons, gradient checks."""
