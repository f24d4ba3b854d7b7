"""Which pairs of the list superopt does not decide, by name, each with what it would have to know.

All other pairs are to be shown equal; of these, none may be taken for different.
"""

from __future__ import annotations

from collections.abc import Mapping

_SCAN = "scans are no reductions"
_CONVOLUTION = "convolutions are outside the supported set"
_POSITION = "the position of an extreme is outside the supported set"
_LOG = "a logarithm of a value that a mask or an index chooses is not tested in every case"
_LABELS = "labels that are counted: those of all rows together are too many cases to meet"
_WAVES = "of sine and cosine nothing but their symmetry is known"
_POWER = "of powers whose exponent is no literal nothing is known"

BEYOND: Mapping[str, str] = {
    "prefix sum by a triangle": _SCAN,
    "differences of a prefix sum": _SCAN,
    "last of a prefix sum": _SCAN,
    "pointwise convolution": _CONVOLUTION,
    "convolution by conv1d": _CONVOLUTION,
    "patches by a product": _CONVOLUTION,
    "nearest upsampling": "upsampling is outside the supported set",
    "segment sum by one-hot": "writes at run-time indices are outside the supported set",
    "index_select of a range": "tensors that a function holds may have any values",
    "argmax of a shift": _POSITION,
    "argmax of softmax": _POSITION,
    "argmin by argmax": _POSITION,
    "sine and cosine squared": _WAVES,
    "sine of twice": _WAVES,
    "power by exp and log": _POWER,
    "retention by a decay": _POWER,
    "selu by hand": "a product of two literals is rounded in one program alone",
    "cross entropy by gather": _LABELS,
    "cross entropy ignoring a class": _LABELS,
    "two-class cross entropy": _LOG,
    "masked logsumexp": _LOG,
    "masked logarithm": _LOG,
    "masked by an added logarithm": _LOG,
    "masked maximum": "the order of values that a mask makes infinite is that of the field",
}
"""Name of a pair -> what is not known."""
