"""Computed tables, and the order of handlers, beside PyTorch's."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

import plait
from plait.base.errors import DispatchError, InvalidArgument, RegistrationError
from plait.dispatch import DispatchKey, TableSketch, enable_python_dispatcher, lookup
from plait.dispatch.entry import find_fallback, find_kernel

torch = pytest.importorskip("torch")

KEYS = ["CPU", "CUDA", "Meta", "AutogradOther", "AutogradCPU", "AutogradCUDA", "AutogradMeta"]
PATTERNS = {
    "one backend": ["CPU"],
    "backends and autograd": ["CPU", "CUDA", "Autograd"],
    "made of operators": ["CompositeImplicitAutograd"],
    "explicit composite": ["CompositeExplicitAutograd"],
    "explicit composite, one backend, autograd": ["CompositeExplicitAutograd", "CPU", "Autograd"],
    "made of operators, one backend": ["CompositeImplicitAutograd", "CPU"],
    "made of operators, one autograd key": ["CompositeImplicitAutograd", "AutogradCPU"],
    "non-functional composite": ["CompositeExplicitAutogradNonFunctional", "Autograd"],
    "made of operators, backend of AutogradOther": ["CompositeImplicitAutograd", "SparseCPU"],
    "one autograd key": ["AutogradCUDA", "CUDA"],
}
# PyTorch's words for a rule -> ours
RULES = {
    "kernel": "1",
    "default backend kernel": "2",
    "math kernel": "3",
    "ambiguous autogradother": "3",
    "autograd kernel": "4",
    "backend fallback": "6",
}
_names = itertools.count()


@pytest.fixture
def library() -> Iterator[Any]:
    library = torch.library.Library(f"plait_table_test{next(_names)}", "DEF")
    yield library
    library._destroy()


def torch_table(library: Any, keys: list[str]) -> dict[str, str]:
    """Key -> number of the rule by which PyTorch answers it, "missing" for none."""
    library.define("f(Tensor x) -> Tensor")
    for key in keys:
        library.impl("f", lambda x: x, key)
    table = torch._C._dispatch_dump_table(f"{library.ns}::f")
    rows: dict[str, str] = {}
    for line in table.splitlines():
        name, _, text = line.partition(": ")
        match = re.search(r"\[([^\]]*)\]\s*$", text)
        rows[name] = RULES[match.group(1)] if match else "missing"
    return {key: rows.get(key, "missing") for key in KEYS}


@pytest.mark.spec("E1")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_computed_table_is_pytorchs(pattern: str, library: Any) -> None:
    keys = PATTERNS[pattern]
    expected = torch_table(library, keys)
    sketch = TableSketch()
    sketch.register([{"SparseCPU": "Sparse"}.get(key, key) for key in keys])
    found = {name: rule.partition(":")[0] for name, (_, rule, _) in zip(KEYS, sketch.rows(KEYS))}
    assert found == expected


@pytest.mark.spec("E1")
def test_ambiguous_autograd_other_is_an_error() -> None:
    sketch = TableSketch()
    sketch.register(["CompositeImplicitAutograd", "Sparse"])
    with pytest.raises(DispatchError, match="AUTOGRAD_OTHER is ambiguous"):
        sketch.op.redispatch(DispatchKey.AUTOGRAD_OTHER.mask | DispatchKey.SPARSE.mask, None)


@pytest.mark.spec("E9")
def test_sketch_refuses_both_kinds_of_composite() -> None:
    sketch = TableSketch()
    sketch.register(["CompositeImplicitAutograd"])
    with pytest.raises(RegistrationError, match="expected one of the two"):
        sketch.register(["CompositeExplicitAutograd"])
    with pytest.raises(InvalidArgument, match="dispatch key 'Cpuu' does not exist"):
        sketch.register(["Cpuu"])
    assert "COMPOSITE_IMPLICIT_AUTOGRAD" in sketch.table(["CPU"])


@pytest.mark.spec("E1")
def test_priority_of_keys_is_pytorchs() -> None:
    ours_to_theirs = {
        DispatchKey.CPU: "CPU",
        DispatchKey.BACKEND_SELECT: "BackendSelect",
        DispatchKey.FAKE: "Fake",
        DispatchKey.PYTHON: "Python",
        DispatchKey.FUNCTIONALIZE: "Functionalize",
        DispatchKey.ADINPLACE_OR_VIEW: "ADInplaceOrView",
        DispatchKey.AUTOGRAD_CPU: "AutogradCPU",
        DispatchKey.TRACER: "Tracer",
        DispatchKey.AUTOCAST_CPU: "AutocastCPU",
        DispatchKey.PYTHON_TLS_SNAPSHOT: "PythonTLSSnapshot",
        DispatchKey.PRE_DISPATCH: "PreDispatch",
        DispatchKey.PYTHON_DISPATCHER: "PythonDispatcher",
    }
    table = torch._C._dispatch_dump_table("aten::add.Tensor").splitlines()
    theirs = [line.partition(":")[0] for line in table]
    shared = [key for key, name in ours_to_theirs.items() if name in theirs]
    assert len(shared) >= 10
    assert sorted(shared) == sorted(shared, key=lambda key: theirs.index(ours_to_theirs[key]))


# ---------------------------------------------------------------- order of handlers


def torch_order(depth: int, declines: int | None) -> list[str]:
    from torch.utils._python_dispatch import TorchDispatchMode

    log: list[str] = []

    class Mode(TorchDispatchMode):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            log.append(f"mode {self.number} {func.overloadpacket.__name__}")
            if self.number == declines:
                return NotImplemented
            return func(*args, **(kwargs or {}))

    class Sub(torch.Tensor):
        @classmethod
        def __torch_dispatch__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            log.append(f"subclass {func.overloadpacket.__name__}")
            plain = [a.inner if isinstance(a, Sub) else a for a in args]
            return func(*plain, **(kwargs or {}))

    value = torch.ones(2)
    tensor = torch.Tensor._make_wrapper_subclass(Sub, (2,))
    tensor.inner = value
    return _run_under([Mode(k) for k in range(depth)], lambda: tensor.mul(2.0), log)


def plait_order(depth: int, declines: int | None) -> list[str]:
    from plait.dispatch.keyset import CPU_TENSOR_KEYS

    log: list[str] = []

    class Mode(plait.DispatchMode):
        def __init__(self, number: int) -> None:
            self.number = number

        def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            log.append(f"mode {self.number} {op.name}")
            if self.number == declines:
                return NotImplemented
            return op(*args, **kwargs)

    class Sub(plait.Tensor):
        _keys = CPU_TENSOR_KEYS | DispatchKey.PYTHON.mask

        @classmethod
        def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            log.append(f"subclass {op.name}")
            plain = [a.inner if isinstance(a, Sub) else a for a in args]
            return op(*plain, **kwargs)

    tensor: Any = Sub.__new__(Sub)
    tensor.inner = plait.ones(2)
    tensor.__dict__.update({**tensor.inner.__dict__, "inner": tensor.inner})
    return _run_under([Mode(k) for k in range(depth)], lambda: tensor.mul(2.0), log)


def _run_under(modes: list[Any], run: Any, log: list[str]) -> list[str]:
    log.clear()
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        try:
            run()
        except TypeError:
            log.append("TypeError")
    return log


@pytest.mark.spec("E6")
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("declines", [None, 0, 1])
def test_handlers_are_asked_in_pytorchs_order(depth: int, declines: int | None) -> None:
    if declines is not None and 0 < declines < depth:
        # docs/differences.md: a call that a mode declines goes to the next mode.
        found = plait_order(depth, declines)
        assert found[:depth] == [f"mode {k} mul" for k in reversed(range(depth))]
        assert "TypeError" not in found
        assert torch_order(depth, declines)[depth - declines] == "subclass mul"
        return
    assert plait_order(depth, declines) == torch_order(depth, declines)


# ---------------------------------------------------------------- the Python dispatcher


@pytest.mark.spec("E9")
def test_python_dispatcher_asks_rules_at_every_layer() -> None:
    cos = lookup("aten::cos")
    log: list[str] = []
    cpu = find_kernel(cos, DispatchKey.CPU)
    autograd = find_fallback(cos, DispatchKey.AUTOGRAD_CPU)
    assert cpu is not None and autograd is not None

    @cos.py_impl(DispatchKey.CPU)
    def at_cpu(self: Any) -> Any:
        log.append("cpu")
        return cpu.kernel.fn(self)

    try:
        x = plait.tensor([0.0], requires_grad=True)
        with enable_python_dispatcher():
            y = plait.cos(x)
        assert log == ["cpu"] and y.requires_grad

        @cos.py_impl(DispatchKey.AUTOGRAD_CPU)
        def at_autograd(self: Any) -> Any:
            log.append("autograd")
            return at_cpu(self)

        with enable_python_dispatcher():
            assert not plait.cos(x).requires_grad
        assert log == ["cpu", "autograd", "cpu"]
        plait.cos(x)
        assert len(log) == 3  # off: nobody asks them
        with pytest.raises(RegistrationError, match="AUTOGRAD_CPU is set already"):
            cos.py_impl(DispatchKey.AUTOGRAD_CPU)(at_autograd)
    finally:
        cos.py_impl_remove(DispatchKey.CPU)
        cos.py_impl_remove(DispatchKey.AUTOGRAD_CPU)


@pytest.mark.spec("E9")
def test_a_pre_dispatch_trace_has_the_composite_a_post_dispatch_trace_its_parts() -> None:
    above: list[str] = []
    below: list[str] = []

    class Above(plait.dispatch.PreDispatchMode):
        def __plait_predispatch__(self, op: Any, args: Any, kwargs: Any, redispatch: Any) -> Any:
            above.append(op.name)
            return redispatch(*args, **kwargs)

    class Below(plait.DispatchMode):
        def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            below.append(op.name)
            return op(*args, **kwargs)

    x, w, b = plait.ones(2, 3), plait.ones(4, 3), plait.ones(4)
    with Above(), Below():
        lookup("aten::linear")(x, w, b)
    assert above == ["linear"]
    assert "linear" not in below and set(below) & {"mm", "addmm"}
