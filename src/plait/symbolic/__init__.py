"""Layer 1: symbolic integers, for sizes, guards and index arithmetic alike.

Knows nothing about tensors or operators. Expressions are made in `expr`, traced sizes are
`symint.SymInt`.
"""

from plait.symbolic import expr as expr

__all__ = ["expr"]
