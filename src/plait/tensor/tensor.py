"""The `Tensor` class and the ways to make one from memory, from data and from metadata.

Owns the relation between a tensor, its NumPy array and its storage. Knows no operator: the methods
that are operators are attached by the layers above, and so is everything of the tape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from plait.base.errors import (
    ArgumentTypeError,
    AutogradError,
    DataDependentError,
    DtypeMismatch,
    ExchangeError,
    InvalidArgument,
    ShapeMismatch,
    check,
)
from plait.dispatch.extract import CONVERTERS
from plait.dispatch.keyset import CPU_TENSOR_KEYS, META_TENSOR_KEYS
from plait.dispatch.state import tls
from plait.tensor import device as devices
from plait.tensor import dlpack
from plait.tensor.device import CPU, Device
from plait.tensor.dtype import FROM_NUMPY, DType, as_dtype
from plait.tensor.dtype import from_numpy as dtype_from_numpy
from plait.tensor.inference import infer_dtype
from plait.tensor.layout import (
    IntLike,
    Layout,
    Shape,
    TensorMeta,
    contiguous_strides,
    extent,
    has_no_elements,
    is_contiguous,
    numel,
    wrap_dim,
)
from plait.tensor.printing import tensor_repr
from plait.tensor.storage import (
    Storage,
    buffer_of,
    check_describable,
    empty_storage,
    fake_storage,
)

if TYPE_CHECKING:
    from plait.tensor._methods import TensorMethods
    from plait.tensor.view import ViewInfo
else:

    class TensorMethods:
        """At run time the methods are attached; their types are in `_methods.pyi`."""


__all__ = [
    "Tensor",
    "empty_strided",
    "from_dlpack",
    "from_numpy",
    "make_fake",
    "shallow_copy",
    "tensor",
    "wrap",
    "wrap_alias",
    "wrap_view",
]

CONVERTERS.setdefault("ScalarType", as_dtype)
CONVERTERS.setdefault("Device", devices.parse)

_new: Any = object.__new__


class Tensor(TensorMethods):
    """An n-dimensional array of one element type that shares its memory with NumPy.

    Class attributes are the defaults of the instances' fields: an instance holds only what differs,
    since making one is the hot path of eager execution.
    """

    _array: np.ndarray[Any, Any] | None = None  # exact view of the memory; None: no memory (fake)
    _storage: Storage | None = None  # made on first use of `storage`
    _dtype: DType
    _device: Device = CPU
    _strides: Shape | None = None  # in elements; None: follow from the array
    _offset: IntLike | None = None  # in elements; None: follows from the addresses
    _keys: int = CPU_TENSOR_KEYS
    _requires_grad: bool = False  # true also of results that depend on a leaf which requires grad
    _grad_fn: Any = None
    _output_nr: int = 0
    _grad: Tensor | None = None
    _view: ViewInfo | None = None
    _hooks: Any = None
    _trace: Any = None  # belongs to whoever traces
    _meta: TensorMeta | None = None  # fakes only

    _is_wrapper: ClassVar[bool] = False  # true of subclasses that hold tensors, not memory
    # NumPy leaves `array + tensor` to the tensor.
    __array_priority__: ClassVar[int] = 1000

    # ------------------------------------------------------------ metadata

    @property
    def shape(self) -> Shape:
        """Sizes; a plain tuple, which may hold SymInts in fakes."""
        array = self._array
        return array.shape if array is not None else self._meta.shape  # type: ignore[union-attr]

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self._dtype

    @property
    def device(self) -> Device:
        """Where the memory is."""
        return self._device

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def strides(self) -> Shape:
        """Steps between neighbours in elements, one for each dimension."""
        strides = self._strides
        if strides is None:
            array = self._array
            if array is None:
                strides = self._meta.strides  # type: ignore[union-attr]
            elif array.flags.c_contiguous:
                # NumPy leaves the strides of sizes 0 and 1 open; PyTorch does not.
                strides = contiguous_strides(array.shape)
            else:
                itemsize = array.itemsize
                strides = tuple(stride // itemsize for stride in array.strides)
            self._strides = strides
        return strides

    @property
    def layout(self) -> Layout:
        """Shape, strides and offset as one object."""
        return Layout(self.shape, self.strides, self.storage_offset())

    @property
    def meta(self) -> TensorMeta:
        """Everything about the tensor except its data and its place in the storage."""
        return self._meta or TensorMeta(self.shape, self._dtype, self._device, self.strides)

    @property
    def is_fake(self) -> bool:
        """Whether there is no memory behind it, only metadata."""
        return self._array is None

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """All sizes, or the one of `dim`. Raises IndexOutOfRange."""
        shape = self.shape
        return shape if dim is None else shape[wrap_dim(dim, len(shape), "size")]

    def stride(self, dim: int | None = None) -> Any:
        """All strides in elements, or the one of `dim`. Raises IndexOutOfRange."""
        strides = self.strides
        return strides if dim is None else strides[wrap_dim(dim, len(strides), "stride")]

    def numel(self) -> IntLike:
        """Number of elements."""
        array = self._array
        return array.size if array is not None else numel(self.shape)

    def element_size(self) -> int:
        """Bytes of one element."""
        return self._dtype.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._dtype.itemsize

    @property
    def nbytes(self) -> IntLike:
        """Bytes of all elements."""
        return self.numel() * self._dtype.itemsize

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        array = self._array
        if array is not None:
            return array.flags.c_contiguous
        return is_contiguous(self.shape, self.strides)

    def is_floating_point(self) -> bool:
        """Whether the element type is floating."""
        return self._dtype.is_floating

    def is_complex(self) -> bool:
        """Whether the element type is complex."""
        return self._dtype.is_complex

    def is_signed(self) -> bool:
        """Whether the element type has negative values."""
        return self._dtype.is_signed

    # ------------------------------------------------------------ memory

    @property
    def storage(self) -> Storage:
        """The memory, shared with all views; made from the array on first use."""
        storage = self._storage
        if storage is None:
            storage = self._storage = Storage(self._array, self._device)
            self._offset = 0
        return storage

    def storage_offset(self) -> IntLike:
        """Elements between the start of the storage and the first element."""
        offset = self._offset
        if offset is None:
            offset = 0
            if self._storage is not None and self._array is not None:
                distance = _address(self._array) - self._storage.address
                offset = distance // self._dtype.itemsize if self._array.size else 0
            self._offset = offset
        return offset

    @property
    def _version(self) -> int:
        """How often the memory was written in place; a tensor whose storage nobody asked for: 0."""
        storage = self._storage
        return 0 if storage is None else storage.version

    def data_ptr(self) -> int:
        """Address of the first element."""
        return _address(self._read_data("data_ptr"))

    # ------------------------------------------------------------ reading data

    def _read_data(self, what: str) -> np.ndarray[Any, Any]:
        """The array, for a read of data by `what`: every such read comes through here.

        A fake has none and raises DataDependentError; capture overrides this to record the read.
        """
        if self._array is None:
            raise DataDependentError(
                f"{what}: the data of a tensor were read where only its metadata exist; got a "
                f"tensor of shape {self.shape}, {self._dtype}; expected no read of data here. Keep "
                "the value in a tensor (where, masked_fill, ...), or allow the graph to be cut."
            )
        return self._array

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """The same memory as a NumPy array. `force=True` ignores that the tape is cut off.

        Raises AutogradError for a tensor that requires grad while grad mode is on (under no_grad,
        and in kernels, nothing is followed), DataDependentError for fakes.
        """
        check(
            force or not self._requires_grad or not tls.grad_enabled,
            AutogradError,
            lambda: (
                "numpy: argument 'self' requires grad, and the tape would not see writes to the "
                f"array; got a tensor of shape {self.shape}; expected one without requires_grad. "
                "Use tensor.detach().numpy() instead."
            ),
        )
        return self._read_data("numpy").view()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __buffer__(self, flags: int) -> memoryview:
        """The same memory by Python's buffer protocol.

        Asked for from Python 3.12 on; before that, ``memoryview(tensor.numpy())`` does the same.
        """
        return buffer_of(self._exported("__buffer__"), flags)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for the same memory (see :func:`plait.from_dlpack`). Raises ExchangeError."""
        array = self._exported("__dlpack__")
        return dlpack.capsule_of(
            array,
            self._dtype,
            stream=stream,
            max_version=max_version,
            dl_device=dl_device,
            copy=copy,
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU_DEVICE

    def _exported(self, what: str) -> np.ndarray[Any, Any]:
        """The array, to be shared with others by `what`, whose writes the tape cannot see."""
        check(
            not self._requires_grad,
            ExchangeError,
            lambda: (
                f"{what}: argument 'self' requires grad, and the tape would not see writes by "
                "others; expected a tensor without requires_grad. Use tensor.detach()."
            ),
        )
        return self._read_data(what)

    def item(self) -> Any:
        """The only element as a Python number. Raises ShapeMismatch unless there is exactly one."""
        _require_one_element(self, "item")
        return _python_values(self._read_data("item").reshape(()))

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers (a number for a 0-d tensor)."""
        return _python_values(self._read_data("tolist"))

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise ShapeMismatch(
                f"bool: the truth of a tensor of shape {self.shape} is ambiguous; expected exactly "
                "one element. Use any() or all(). (Boolean value of Tensor is ambiguous)"
            )
        return bool(self._read_data("bool").reshape(())[()])

    def __float__(self) -> float:
        _require_one_element(self, "float")
        return float(_python_values(self._read_data("float").reshape(())))

    def __int__(self) -> int:
        _require_one_element(self, "int")
        return int(_python_values(self._read_data("int").reshape(())))

    def __complex__(self) -> complex:
        _require_one_element(self, "complex")
        return complex(_python_values(self._read_data("complex").reshape(())))

    def __index__(self) -> int:
        if self.numel() != 1 or self._dtype.category > 1:
            raise ArgumentTypeError(
                f"index: got a tensor of shape {self.shape}, {self._dtype}; expected one element "
                "of an integer type. (only integer tensors of a single element can be an index)"
            )
        return int(self._read_data("index").reshape(())[()])

    def __len__(self) -> int:
        shape = self.shape
        if not shape:
            raise ArgumentTypeError(
                "len: got a 0-d tensor; expected at least one dimension. Use numel()."
            )
        return int(shape[0])

    def __format__(self, spec: str) -> str:
        if not self.shape and type(self) is Tensor and not self.is_fake:
            return self.item().__format__(spec)  # type: ignore[no-any-return]
        return object.__format__(self, spec)

    def __repr__(self) -> str:
        return tensor_repr(self)

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> tuple[Any, ...]:
        array = self._read_data("pickle")
        return _rebuild, (type(self), array, self._requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        check(
            self.is_leaf,
            AutogradError,
            lambda: (
                "deepcopy: argument 'self' was computed, and its history cannot be copied; got a "
                f"tensor of shape {self.shape}; expected a leaf. Use tensor.detach().clone()."
            ),
        )
        copied = _rebuild(type(self), self._read_data("deepcopy").copy("K"), self._requires_grad)
        memo[id(self)] = copied
        if self._grad is not None:
            copied._grad = self._grad.__deepcopy__(memo)
        return copied

    # ------------------------------------------------------------ the tape's fields

    @property
    def requires_grad(self) -> bool:
        """Whether the tape follows this tensor; settable on floating and complex leaves."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value == self._requires_grad:
            return
        if not self.is_leaf:
            raise AutogradError(
                "requires_grad: the tensor was computed from others that require grad; got "
                f"requires_grad = {value}; expected a leaf. Use tensor.detach(). "
                "(you can only change requires_grad flags of leaf variables)"
            )
        if value and not (self._dtype.is_floating or self._dtype.is_complex):
            raise DtypeMismatch(
                f"requires_grad: only floating and complex tensors can require grad; got "
                f"{self._dtype}. Convert it first."
            )
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad_fn(self) -> Any:
        """The tape node that made this tensor; None for leaves."""
        return self._grad_fn

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was not made by the tape."""
        return not self._requires_grad or self.grad_fn is None

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient; of the same shape, dtype and device."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            _check_grad(self, value)
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None


# ---------------------------------------------------------------- making tensors


def wrap(array: np.ndarray[Any, Any], dtype: DType | None = None) -> Tensor:
    """A tensor over fresh memory that nobody else uses: the fastest way to make one."""
    self: Tensor = _new(Tensor)
    self._array = array
    self._dtype = FROM_NUMPY[array.dtype] if dtype is None else dtype
    return self


def wrap_view(base: Tensor, layout: Layout, dtype: DType | None = None) -> Tensor:
    """A tensor that shows other elements of `base`'s storage, from whose start offsets count.

    `dtype` reads the memory as elements of another type, which the layout then counts.
    """
    storage = base.storage
    self: Tensor = _new(Tensor)
    if dtype is None:
        dtype = base._dtype
    self._dtype = dtype
    self._storage = storage
    self._strides = layout.strides
    self._offset = layout.offset
    if base._array is None:
        self._meta = TensorMeta(layout.shape, dtype, base._device, layout.strides)
        self._device, self._keys = base._device, base._keys
    else:
        self._array = _strided_array(storage.owner, dtype, layout)
    return self


def wrap_alias(base: Tensor, array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over `array`, which NumPy made as a view of `base`'s array. Faster than wrap_view.

    For arrays whose strides are what PyTorch gives: permutes, slices, selects.
    """
    self: Tensor = _new(Tensor)
    self._array = array
    self._dtype = base._dtype
    self._storage = base.storage
    itemsize = array.itemsize
    self._strides = tuple([stride // itemsize for stride in array.strides])
    return self


def shallow_copy(source: Tensor) -> Tensor:
    """Another tensor object for the same memory: shares storage and trace, has no tape."""
    if source._is_wrapper:
        return source._shallow_copy()  # type: ignore[attr-defined,no-any-return]
    self: Tensor = _new(Tensor)
    self._storage = source.storage
    self._dtype = source._dtype
    self._strides = source._strides
    self._offset = source._offset
    if source._array is not None:
        self._array = source._array
    else:
        self._meta = source._meta
        self._device = source._device
    if source._keys != CPU_TENSOR_KEYS:
        self._keys = source._keys
    if source._trace is not None:
        self._trace = source._trace
    return self


def make_fake(
    meta: TensorMeta,
    storage: Storage | None = None,
    cls: type[Tensor] = Tensor,
    *,
    offset: IntLike = 0,
) -> Tensor:
    """A tensor without memory. Give `storage` to make it a view of another fake.

    Its own storage holds just its elements (maybe a symbolic number of bytes).
    """
    self: Tensor = _new(cls)
    self._meta = meta
    self._dtype = meta.dtype
    self._device = meta.device
    self._offset = offset
    if meta.device.type == "meta" and cls is Tensor:
        self._keys = META_TENSOR_KEYS
    if storage is None:
        nbytes = extent(meta.shape, meta.strides) * meta.dtype.itemsize
        storage = fake_storage(nbytes, meta.device)
    self._storage = storage
    return self


def empty_strided(shape: Shape, strides: Shape | None, dtype: DType) -> Tensor:
    """Uninitialised memory, aligned to 64 bytes, with these strides (None: contiguous)."""
    layout = Layout(shape, strides)
    storage = empty_storage(int(extent(shape, layout.strides)) * dtype.itemsize)
    self: Tensor = _new(Tensor)
    self._array = _strided_array(storage.owner, dtype, layout)
    self._dtype, self._storage = dtype, storage
    self._strides, self._offset = layout.strides, 0
    return self


def _strided_array(owner: Any, dtype: DType, layout: Layout) -> np.ndarray[Any, Any]:
    """The view of `owner`'s bytes that `layout` describes. Raises InvalidArgument out of bounds."""
    itemsize = dtype.itemsize
    shape: Any = layout.shape
    steps: Any = [stride * itemsize for stride in layout.strides]
    offset: Any = layout.offset * itemsize
    try:
        return np.ndarray(shape, dtype.numpy, owner, offset, steps)
    except (TypeError, ValueError) as error:
        if has_no_elements(shape):  # no element to be out of bounds
            return np.ndarray(shape, dtype.numpy, owner, 0, steps)
        raise InvalidArgument(
            f"view: the layout does not lie inside of the storage; got shape {shape}, strides "
            f"{layout.strides}, offset {layout.offset} (element size {itemsize}); expected at most "
            f"{owner.nbytes} bytes. (out of bounds for storage)"
        ) from error


# ---------------------------------------------------------------- tensors from data


def tensor(data: Any, dtype: DType | None = None, requires_grad: bool = False) -> Tensor:
    """Copy `data` (numbers, nested sequences, arrays, tensors) into a new tensor.

    Without `dtype`: arrays and tensors keep theirs, Python floats get the default dtype, ints
    int64. Raises InvalidArgument for ragged sequences and numbers that do not fit, and
    ArgumentTypeError for values that are not numbers.

    >>> tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    """
    if isinstance(data, Tensor):
        data = data._read_data("tensor")
    chosen = infer_dtype(data) if dtype is None else as_dtype(dtype)
    try:
        array = np.array(data, chosen.numpy, order="C", ndmin=0)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            f"tensor: argument 'data' cannot be stored as {chosen}: {error}; expected numbers that "
            "fit, in nested sequences of equal lengths."
        ) from error
    except TypeError as error:
        raise ArgumentTypeError(
            f"tensor: argument 'data' holds something that is not a number: {error}; expected "
            "numbers, arrays, tensors, or nested sequences of them."
        ) from error
    self = wrap(array, chosen)
    if requires_grad:
        self.requires_grad = True
    return self


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over the array's own memory; writes on either side are seen on the other.

    A read-only array gives a tensor that refuses in-place writes. Raises InvalidArgument for
    strides that are negative or no multiple of the element size, and for unaligned memory;
    ArgumentTypeError for what is not an array or has an element type no tensor can hold.
    """
    if not isinstance(array, np.ndarray):
        raise ArgumentTypeError(
            f"from_numpy: argument 'array' has the wrong type; got {type(array).__name__}; "
            "expected np.ndarray. Use plait.tensor(...) for other data."
        )
    dtype = dtype_from_numpy(array.dtype)
    if type(array) is not np.ndarray:
        array = array.view(np.ndarray)
    check_describable(array)
    self = wrap(array, dtype)
    self._storage, self._offset = Storage(array), 0
    if array.size:
        self._strides = tuple(stride // array.itemsize for stride in array.strides)
    return self


def from_dlpack(source: Any, *, copy: bool | None = None) -> Tensor:
    """A tensor over the memory of any CPU array that speaks DLPack, without a copy.

    `source` has a method `__dlpack__`, or is a capsule that one returned. The memory lives as long
    as the tensor; memory that its producer calls read-only gives a tensor that refuses in-place
    writes. `copy=True` asks the producer for a copy. Raises ArgumentTypeError for what does not
    speak DLPack, and ExchangeError for other devices, element types that no tensor has, negative
    strides, and a capsule that was consumed before.

    >>> shared = np.zeros(2)
    >>> from_dlpack(shared)[0] = 1.0
    >>> shared
    array([1., 0.])
    """
    return from_numpy(dlpack.array_of(source, copy=copy))


# ---------------------------------------------------------------- helpers of the methods


def _address(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _python_values(array: np.ndarray[Any, Any]) -> Any:
    """`array.tolist()`; bfloat16 has no Python type of its own and goes through float32."""
    if array.dtype.kind == "V":
        return array.astype(np.float32).tolist()
    return array.tolist()


def _require_one_element(tensor: Tensor, what: str) -> None:
    if tensor.numel() != 1:
        raise ShapeMismatch(
            f"{what}: a tensor with {tensor.numel()} elements cannot be converted to a scalar; got "
            f"shape {tensor.shape}; expected exactly one element."
        )


def _check_grad(tensor: Tensor, value: Any) -> None:
    """What may be assigned to `tensor.grad`."""
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(
            f"grad: assigned a {type(value).__name__}; expected a Tensor or None."
        )
    if value is tensor:
        raise AutogradError("grad: a tensor cannot be its own gradient; assign another tensor.")
    if value._dtype is not tensor._dtype or value._device != tensor._device:
        raise DtypeMismatch(
            f"grad: assigned a gradient of another type; got {value._dtype} on {value._device}; "
            f"expected {tensor._dtype} on {tensor._device}."
        )
    if value.shape != tensor.shape:
        raise ShapeMismatch(
            f"grad: assigned a gradient of another size; got {value.shape}; expected "
            f"{tensor.shape}."
        )


def _rebuild(cls: type[Tensor], array: np.ndarray[Any, Any], requires_grad: bool) -> Tensor:
    """A leaf of class `cls` over its own array: what pickle and deepcopy make."""
    self: Tensor = _new(cls)
    self._array = array
    self._dtype = FROM_NUMPY[array.dtype]
    self._requires_grad = requires_grad
    return self
