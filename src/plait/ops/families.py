"""Imports every family of operators, so that all of them are defined. Owns nothing else."""

from plait.ops import attention as _attention
from plait.ops import complex as _complex
from plait.ops import creation as _creation
from plait.ops import divisions as _divisions
from plait.ops import extremum as _extremum
from plait.ops import indexing as _indexing
from plait.ops import joining as _joining
from plait.ops import loss as _loss
from plait.ops import matmul as _matmul
from plait.ops import metadata as _metadata
from plait.ops import normalize as _normalize
from plait.ops import pointwise as _pointwise
from plait.ops import powers as _powers
from plait.ops import random as _random
from plait.ops import rearrange as _rearrange
from plait.ops import reduction as _reduction
from plait.ops import scatter_view as _scatter_view
from plait.ops import selection as _selection
from plait.ops import view as _view

__all__ = ["MODULES"]

MODULES = (
    _attention,
    _complex,
    _creation,
    _divisions,
    _extremum,
    _indexing,
    _joining,
    _loss,
    _matmul,
    _metadata,
    _normalize,
    _pointwise,
    _powers,
    _random,
    _rearrange,
    _reduction,
    _scatter_view,
    _selection,
    _view,
)
