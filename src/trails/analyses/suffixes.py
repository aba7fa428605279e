"""Suffix and LCP arrays, in a child process of their own.

The library brings its own OpenMP runtime, and so do PyTorch and the graph engine their thread-local storage: glibc's default
room holds two of the three, whatever the order of the imports (:mod:`trails.platform.static_tls`). In a child of its own the
third cannot fail, and cannot take the place of the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trails.errors import MissingPackageError, StoreError
from trails.platform.arrays import Ints
from trails.platform.child import Child, ChildError, FailedError

_CHILD = Child("trails.analyses.suffixes:answer")


def suffix_array(text: npt.NDArray[np.unsignedinteger[Any]]) -> tuple[Ints, Ints]:
    """Start of every suffix of ``text`` (N,) in ascending order of the suffixes, and the length of the common prefix of each
    with the next one (N,); the last length is 0.
    """
    try:
        order_type, order, common_type, common = _CHILD.ask((text.dtype.str, text.tobytes()))
    except FailedError as error:
        if error.kind in ("ImportError", "ModuleNotFoundError"):
            raise MissingPackageError(
                f"the suffix array is not installed ({error}). Run: pip install pydivsufsort==0.0.20"
            ) from None
        raise StoreError(f"the suffix array of {len(text):,} symbols failed: {error}") from None
    except ChildError as error:
        raise StoreError(
            f"the process that sorts {len(text):,} symbols {error}; the usual cause is too little memory (about "
            f"{len(text) * 30 / 2**30:.1f} GiB is needed). Ask fewer chains"
        ) from None
    return np.frombuffer(order, order_type), np.frombuffer(common, common_type)


def answer(request: tuple[str, bytes]) -> tuple[str, bytes, str, bytes]:
    """In the child: both arrays, each as its type and its bytes."""
    import pydivsufsort

    text = np.frombuffer(bytearray(request[1]), request[0])  # the library insists on memory that it could change
    order = np.ascontiguousarray(pydivsufsort.divsufsort(text))
    common = pydivsufsort.kasai(text, order)
    return order.dtype.str, order.tobytes(), common.dtype.str, common.tobytes()
