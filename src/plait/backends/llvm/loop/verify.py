"""Well-formedness of kernels, checked between passes under `config.verify` and in tests.

Every symbol is bound, every buffer exists and has the dtype and role of its use, operands have the
dtypes their operation needs. Raises InternalError with the printed kernel.
"""

from __future__ import annotations

from plait.backends.llvm.loop.kernel import Kernel, Store
from plait.backends.llvm.loop.printer import print_kernel, print_term
from plait.backends.llvm.loop.terms import (
    ARITY,
    COMPARISONS,
    REDUCTIONS,
    Axis,
    GatherAttr,
    Term,
    is_float,
    is_half,
    walk,
)
from plait.base.errors import InternalError

__all__ = ["verify_kernel"]

# fmt: off
_SAME = frozenset({
    "add", "sub", "mul", "div", "floordiv", "mod", "fmod", "truncdiv", "max", "min", "pow", "atan2",
    "copysign", "and", "or", "xor", "shl", "shr", "strict_add", "strict_sub", "strict_mul",
    "strict_div", "fma",
})
# fmt: on


def verify_kernel(kernel: Kernel) -> None:
    """Raise InternalError if `kernel` is not well formed."""
    checker = _Checker(kernel)
    names = [axis.name for axis in kernel.axes]
    checker.expect(len({*names, *kernel.sizes}) == len(names) + len(kernel.sizes), "names repeat")
    for depth, axis in enumerate(kernel.axes):
        free = frozenset(s.name for s in axis.extent.free_symbols)
        checker.expect(free <= {*kernel.sizes, *names[:depth]}, f"extent of {axis.name} is unbound")
    for store in kernel.stores:
        checker.store(store)
    for term in walk(*kernel.roots()):
        checker.term(term)


class _Checker:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def expect(self, condition: bool, message: str, term: Term | None = None) -> None:
        if not condition:
            where = "" if term is None else f"\n  in: {print_term(term)}\n      ^"
            raise InternalError(
                f"verify_kernel: {self.kernel.name}: {message}{where}\n{print_kernel(self.kernel)}"
            )

    def store(self, store: Store) -> None:
        self.expect(0 <= store.depth <= len(self.kernel.axes), f"depth {store.depth} of a store")
        bound = {*self.kernel.sizes, *(axis.name for axis in self.kernel.axes[: store.depth])}
        terms = (store.value, *(index.term for index in store.indices))
        for term in terms:
            loose = term.symbols - bound
            self.expect(not loose, f"a store at depth {store.depth} mentions {sorted(loose)}", term)
        loose = frozenset(s.name for s in store.offset.free_symbols) - bound
        self.expect(not loose, f"the offset {store.offset} mentions {sorted(loose)}")
        self.buffer(store.buffer, store.value, writes=True)
        self.expect(all(index.term.dtype == "i64" for index in store.indices), "index is not i64")

    def buffer(self, number: int, term: Term, *, writes: bool) -> None:
        self.expect(0 <= number < len(self.kernel.buffers), f"no buffer b{number}", term)
        param = self.kernel.buffers[number]
        self.expect(param.dtype == term.dtype, f"b{number} holds {param.dtype}", term)
        forbidden = "in" if writes else "out"
        self.expect(param.role != forbidden, f"b{number} is '{param.role}'", term)

    def term(self, term: Term) -> None:
        if term.op in ("load", "gather"):
            self.memory(term)
            return
        self.expect(term.op in ARITY, f"unknown operation {term.op}", term)
        self.expect(
            len(term.args) == ARITY[term.op], f"{term.op} has {len(term.args)} operands", term
        )
        dtypes = [arg.dtype for arg in term.args]
        if term.op in _SAME:
            self.expect(set(dtypes) == {term.dtype}, f"dtypes {dtypes} -> {term.dtype}", term)
        elif term.op in COMPARISONS:
            self.expect(len(set(dtypes)) == 1 and term.dtype == "i1", f"dtypes {dtypes}", term)
        elif term.op == "select":
            self.expect(dtypes == ["i1", term.dtype, term.dtype], f"dtypes {dtypes}", term)
        elif term.op == "cast":
            self.expect(term.attr in (None, "kept"), f"attribute {term.attr}", term)
        elif term.op == "reduce":
            kind, axis = term.attr
            self.reduction(term, kind, axis)

    def reduction(self, term: Term, kind: str, axis: Axis) -> None:
        self.expect(not is_half(term.args[0].dtype), f"{kind} in half precision", term)
        self.expect(kind in REDUCTIONS, f"unknown reduction {kind}", term)
        body = term.args[0].dtype
        wanted = {"any": "i1", "all": "i1", "argmax": "i64", "argmin": "i64"}.get(kind, body)
        self.expect(term.dtype == wanted, f"{kind} of {body} is {wanted}", term)
        self.expect(kind not in ("any", "all") or not is_float(body), f"{kind} of {body}", term)

    def memory(self, term: Term) -> None:
        if term.op == "load":
            number, indices = term.attr[0], 0
        else:
            assert isinstance(term.attr, GatherAttr)
            number, indices = term.attr.buffer, len(term.attr.dims)
        self.buffer(number, term, writes=False)
        self.expect(all(a.dtype == "i64" for a in term.args[:indices]), "index is not i64", term)
        masks = term.args[indices:]
        self.expect(len(masks) <= 1 and all(m.dtype == "i1" for m in masks), "bad mask", term)
