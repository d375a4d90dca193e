"""Reading a formula from the source of a Python function.

Owns the subset: assignments to names, one return at the end, arithmetic, comparisons, `and`, `or`,
`not`, `a if c else b`, numbers from outside, and the functions of the table. The source is read,
never run. Everything else is an error that names the construct and its place.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import numbers
import textwrap
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from plait.base.errors import FormulaError
from plait.library.formula.evaluate import fold
from plait.library.formula.functions import FUNCTIONS
from plait.library.formula.terms import Term, apply, name, number

__all__ = ["Formula", "read_formula", "require_def"]


class Formula(NamedTuple):
    """What a function computes from its parameters, and where it stands."""

    root: Term
    place: str


_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow",
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip
# What functions are called, where that is not the name in the table.
_ALIASES = {
    "maximum": "max", "minimum": "min", "power": "pow", "fabs": "abs", "absolute": "abs",
    "clip": "clamp",
}  # fmt: skip
_HIDDEN = {"add", "sub", "mul", "div", "neg", "lt", "le", "gt", "ge", "eq", "ne", "and", "or",
           "not"}  # fmt: skip
# Functions written in others.
_WRITTEN: dict[str, Callable[[Term], Term]] = {
    "tan": lambda x: apply("div", apply("sin", x), apply("cos", x)),
    "relu": lambda x: apply("where", apply("le", x, number(0)), number(0), x),
    "silu": lambda x: apply("mul", x, apply("sigmoid", x)),
}
_CALLABLE = sorted((FUNCTIONS.keys() - _HIDDEN) | _WRITTEN.keys() | _ALIASES.keys())
_HOMES = ("plait", "math", "numpy", "torch", "builtins")


def require_def(fn: Any) -> None:
    """FormulaError unless ``fn`` was written with ``def``."""
    if not isinstance(fn, types.FunctionType) or fn.__name__ == "<lambda>":
        raise FormulaError(
            f"pointwise_op: got {getattr(fn, '__name__', type(fn).__name__)!r}; expected a "
            "function written with `def`, whose source is read."
        )


def read_formula(fn: Any, parameters: list[str]) -> Formula:
    """The formula that ``fn`` computes from ``parameters``; FormulaError for anything else."""
    require_def(fn)
    code = fn.__code__
    try:
        lines, start = inspect.getsourcelines(fn)
    except OSError as error:
        raise FormulaError(
            f"{code.co_filename}:{code.co_firstlineno}: the source of {fn.__name__} cannot be read "
            f"({error}); expected a function in a file. Write it in a module instead of a prompt."
        ) from error
    tree = ast.parse(textwrap.dedent("".join(lines)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise FormulaError(
            f"{code.co_filename}:{start}: pointwise_op got {type(definition).__name__}; expected a "
            "function written with `def`."
        )
    return _Reader(fn, start, parameters).formula(definition)


class _Reader:
    """One function on its way to a formula."""

    def __init__(self, fn: types.FunctionType, start: int, parameters: list[str]) -> None:
        self.fn, self.start = fn, start
        self.file = fn.__code__.co_filename
        self.known: dict[str, Term] = {p: name(p) for p in parameters}
        cells = zip(fn.__code__.co_freevars, fn.__closure__ or ())
        self.outside = {**fn.__globals__, **{n: c.cell_contents for n, c in cells}}

    def fail(self, node: Any, text: str) -> NoReturn:
        """FormulaError at the line of ``node``."""
        line = self.start + node.lineno - 1
        raise FormulaError(
            f"{self.file}:{line}: the formula {self.fn.__name__} {text} (`{_text(node)}`)."
        )

    def formula(self, definition: ast.FunctionDef) -> Formula:
        body = definition.body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]
        for statement in body[:-1]:
            self.assign(statement)
        last = body[-1] if body else definition
        if not isinstance(last, ast.Return) or last.value is None:
            self.fail(last, "ends with something else than `return value`; expected one return, as "
                      "the last line. For a choice write `a if condition else b`")  # fmt: skip
        return Formula(self.term(last.value), f"{self.file}:{self.start}")

    def assign(self, node: ast.stmt) -> None:
        """``a = ...``, ``a: T = ...`` or ``a += ...``."""
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            held = ast.Name(node.target.id, ast.Load(), lineno=node.lineno)
            target, value = node.target, ast.BinOp(held, node.op, node.value, lineno=node.lineno)
        else:
            self.fail(node, f"uses {_construct(node)}; expected assignments to names and one "
                      "return. For a choice write `a if condition else b`")  # fmt: skip
        if not isinstance(target, ast.Name):
            self.fail(node, f"assigns to {_construct(target)}; expected a name")
        self.known[target.id] = self.term(value)

    def term(self, node: ast.expr) -> Term:
        """The term of one expression."""
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Attribute):
            return self._number(node, self._attribute(node))
        if isinstance(node, ast.BinOp):
            return self._binary(node, node.op, node.left, node.right)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.BoolOp):
            fn = "and" if isinstance(node.op, ast.And) else "or"
            return self._folded(fn, [self.term(v) for v in node.values])
        if isinstance(node, ast.IfExp):
            parts = (self.term(node.test), self.term(node.body), self.term(node.orelse))
            return _applied("where", *parts)
        if isinstance(node, ast.Call):
            return self._call(node)
        self.fail(node, f"uses {_construct(node)}; expected arithmetic, comparisons, conditional "
                  "expressions and calls of listed functions")  # fmt: skip

    def _constant(self, node: ast.Constant) -> Term:
        if not isinstance(node.value, bool | int | float):
            self.fail(node, f"uses a {type(node.value).__name__}; expected a real number")
        return number(node.value)

    def _name(self, node: ast.Name) -> Term:
        found = self.known.get(node.id)
        if found is not None:
            return found
        if node.id not in self.outside:
            self.fail(node, f"reads {node.id!r}, which is neither a parameter, nor assigned before,"
                      " nor a number outside")  # fmt: skip
        return self._number(node, self.outside[node.id])

    def _number(self, node: ast.expr, value: Any) -> Term:
        """A number from outside, as it is now."""
        if isinstance(value, numbers.Real) and hasattr(value, "item"):
            value = value.item()
        if not isinstance(value, bool | int | float):
            self.fail(node, f"reads {_text(node)!r} from outside, a {type(value).__name__}; "
                      "expected a number. Pass anything else as an argument")  # fmt: skip
        return number(value)

    def _attribute(self, node: ast.Attribute) -> Any:
        """What ``module.name`` stands for."""
        owner: Any = None
        if isinstance(node.value, ast.Name):
            owner = None if node.value.id in self.known else self.outside.get(node.value.id)
        elif isinstance(node.value, ast.Attribute):
            owner = self._attribute(node.value)
        if not isinstance(owner, types.ModuleType) or not hasattr(owner, node.attr):
            self.fail(node, f"uses the attribute {node.attr!r}; expected a name of a module, such "
                      "as math.pi")  # fmt: skip
        return getattr(owner, node.attr)

    def _binary(self, node: Any, op: ast.operator, left: ast.expr, right: ast.expr) -> Term:
        fn = _BINARY.get(type(op))
        if fn is None:
            self.fail(node, f"uses the operator {type(op).__name__}; expected +, -, *, / or **")
        return _applied(fn, self.term(left), self.term(right))

    def _unary(self, node: ast.UnaryOp) -> Term:
        operand = self.term(node.operand)
        if isinstance(node.op, ast.UAdd):
            return operand
        if isinstance(node.op, ast.Invert):
            self.fail(node, "uses the operator ~; expected `not`")
        return _applied("neg" if isinstance(node.op, ast.USub) else "not", operand)

    def _comparison(self, node: ast.Compare) -> Term:
        for op in node.ops:
            if type(op) not in _COMPARE:
                self.fail(node, f"compares with {type(op).__name__}; expected <, <=, >, >=, == "
                          "or !=")  # fmt: skip
        operands = [self.term(v) for v in (node.left, *node.comparators)]
        pairs = zip(node.ops, operands, operands[1:])
        return self._folded("and", [_applied(_COMPARE[type(op)], a, b) for op, a, b in pairs])

    def _folded(self, fn: str, terms: list[Term]) -> Term:
        total = terms[0]
        for term in terms[1:]:
            total = _applied(fn, total, term)
        return total

    def _call(self, node: ast.Call) -> Term:
        called = self._function(node)
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            self.fail(node, f"calls {called} with keywords or `*`; expected arguments by position")
        args = [self.term(a) for a in node.args]
        written = _WRITTEN.get(called)
        arity = 1 if written is not None else FUNCTIONS[called].arity
        if called in ("max", "min") and len(args) >= 2:
            return self._folded(called, args)
        if len(args) != arity:
            self.fail(node, f"calls {called} with {len(args)} arguments; expected {arity}")
        return written(args[0]) if written is not None else _applied(called, *args)

    def _function(self, node: ast.Call) -> str:
        """The name in the table of what is called."""
        target: Any = None
        if isinstance(node.func, ast.Name):
            text = node.func.id
            target = self.outside.get(text, getattr(builtins, text, None))
        elif isinstance(node.func, ast.Attribute):
            text, target = node.func.attr, self._attribute(node.func)
        else:
            self.fail(node, f"calls {_construct(node.func)}; expected a function of the list")
        home = (getattr(target, "__module__", None) or "math").partition(".")[0]
        called = _ALIASES.get(text, text)
        if text not in _CALLABLE or text in self.known or home not in _HOMES:
            self.fail(node, f"calls {text!r}, which is not one of the functions of formulas: "
                      f"{', '.join(_CALLABLE)}")  # fmt: skip
        return called


def _applied(fn: str, *args: Term) -> Term:
    """``fn(*args)``; a number where all operands are numbers of the source."""
    if all(a.is_number for a in args):
        return number(fold(fn, [a.leaf for a in args]))
    return apply(fn, *args)


def _construct(node: ast.AST) -> str:
    """What Python's reference calls a node: ``For`` -> "a for statement"."""
    kind = type(node).__name__
    return _CONSTRUCTS.get(kind, f"the construct {kind}")


_CONSTRUCTS = {
    "For": "a `for` loop", "While": "a `while` loop", "If": "an `if` statement",
    "With": "a `with` block", "Try": "a `try` block", "FunctionDef": "a function inside",
    "Return": "an early return", "Assign": "an assignment to several targets", "Raise": "`raise`",
    "Assert": "`assert`", "Subscript": "a subscript", "Lambda": "a lambda", "List": "a list",
    "Tuple": "a tuple", "Dict": "a dict", "ListComp": "a comprehension",
    "Expr": "a bare expression",
    "Import": "an import", "ImportFrom": "an import", "JoinedStr": "a string", "NamedExpr": "`:=`",
    "Await": "`await`", "Global": "`global`", "Nonlocal": "`nonlocal`", "Delete": "`del`",
    "Pass": "`pass`",
}  # fmt: skip


def _text(node: Any) -> str:
    """The first line of a node's source, shortened."""
    text = ast.unparse(node).partition("\n")[0]
    return text if len(text) <= 60 else text[:57] + "..."
