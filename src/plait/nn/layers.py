"""The layers: modules whose forward is one operator, and `Sequential`.

Owns their parameters' shapes and first values, which are PyTorch's distributions drawn from
plait's generator. Must not compute anything that is not an operator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from plait.autograd.grad_mode import no_grad
from plait.base.errors import InvalidArgument, check
from plait.nn import functional
from plait.nn.module import Module, Parameter
from plait.ops import aten
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor

__all__ = [
    "GELU",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "ModuleList",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
]


class Linear(Module):
    """`x @ weight.T + bias`; weight (out_features, in_features), bias (out_features,).

    First values are uniform between ±1/sqrt(in_features).

    >>> import plait
    >>> plait.nn.Linear(4, 2)(plait.ones(3, 4)).shape
    (3, 2)
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(aten.empty.memory_format((out_features, in_features), dtype=dtype))
        self.register_parameter(
            "bias",
            Parameter(aten.empty.memory_format((out_features,), dtype=dtype)) if bias else None,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        for parameter in self.parameters():
            with no_grad():
                draw = aten.rand.default(parameter.shape, dtype=parameter.dtype)
                parameter.copy_((draw * 2 - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        return functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class LayerNorm(Module):
    """Zero mean and unit variance over the last dimensions, then scaled and shifted."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        self.eps = eps
        has_bias = elementwise_affine and bias
        self.register_parameter(
            "weight",
            Parameter(aten.ones.default(self.normalized_shape, dtype=dtype))
            if elementwise_affine
            else None,
        )
        self.register_parameter(
            "bias",
            Parameter(aten.zeros.default(self.normalized_shape, dtype=dtype)) if has_bias else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *normalized_shape) -> the same shape."""
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = self.weight is not None
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={affine}"


class RMSNorm(Module):
    """Division by the root mean square over the last dimensions, then scaled.

    `eps` None means the step of the type that is computed in.

    >>> import plait
    >>> plait.nn.RMSNorm(2, eps=0.0)(plait.tensor([[3.0, 3.0]])).tolist()
    [[1.0, 1.0]]
    """

    weight: Tensor | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        self.eps = eps
        weight = aten.ones.default(self.normalized_shape, dtype=dtype)
        self.register_parameter("weight", Parameter(weight) if elementwise_affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *normalized_shape) -> the same shape."""
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        affine = self.weight is not None
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={affine}"


class Embedding(Module):
    """A table of vectors, read by index; weight (num_embeddings, embedding_dim).

    First values are drawn from N(0, 1). The row `padding_idx` is zero and gets no gradient.
    Raises IndexOutOfRange for an index outside the table.

    >>> import plait
    >>> plait.nn.Embedding(10, 4)(plait.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    weight: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        check(
            padding_idx is None or -num_embeddings <= padding_idx < num_embeddings,
            InvalidArgument,
            lambda: (
                f"Embedding: argument 'padding_idx' must be a row of the table; got {padding_idx}; "
                f"expected {-num_embeddings} <= padding_idx < {num_embeddings}."
            ),
        )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        shape = (num_embeddings, embedding_dim)
        self.weight = Parameter(aten.empty.memory_format(shape, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        with no_grad():
            self.weight.copy_(aten.randn.default(self.weight.shape, dtype=self.weight.dtype))
            if self.padding_idx is not None:
                self.weight[self.padding_idx].zero_()

    def forward(self, indices: Tensor) -> Tensor:
        """indices (...) int32 or int64 -> (..., embedding_dim)."""
        return functional.embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Module):
    """In training, zeroes each element with probability p and scales the others by 1/(1-p)."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check(
            0 <= p <= 1,
            InvalidArgument,
            lambda: f"Dropout: argument 'p' is a probability; got {p}; expected 0 <= p <= 1.",
        )
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape."""
        return functional.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GELU(Module):
    """The Gaussian error linear unit; approximate "none" (erf) or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape."""
        return functional.gelu(x, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape."""
        return functional.relu(x)


class SiLU(Module):
    """x * sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape."""
        return functional.silu(x)


class _ModuleSequence(Module):
    """Modules named by their position."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter([module for module in self._modules.values() if module is not None])

    def __getitem__(self, position: int) -> Module:
        return list(self)[position]


class ModuleList(_ModuleSequence):
    """Modules in a list, named by their position; it has no forward of its own.

    >>> import plait
    >>> layers = plait.nn.ModuleList(plait.nn.Linear(2, 2) for _ in range(3))
    >>> len(layers), [name for name, _ in layers.named_parameters()][:2]
    (3, ['0.weight', '0.bias'])
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """Put `module` at the end; returns the list."""
        self.register_module(str(len(self._modules)), module)
        return self


class Sequential(_ModuleSequence):
    """Modules one after the other, named by their position.

    >>> import plait
    >>> net = plait.nn.Sequential(plait.nn.Linear(4, 8), plait.nn.ReLU(), plait.nn.Linear(8, 2))
    >>> [name for name, _ in net.named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for position, module in enumerate(modules):
            self.register_module(str(position), module)

    def forward(self, x: Tensor) -> Tensor:
        """The value of the last module; of no modules, x itself."""
        for module in self._modules.values():
            if module is not None:
                x = module(x)
        return x
