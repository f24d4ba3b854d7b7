"""The frontend: PyTorch functions to graphs over named axes, and what stays in PyTorch, with reasons."""

from superopt.frontend.capture import Captured, capture
from superopt.frontend.partition import Boundary, Program, Supported, partition

__all__ = ["Boundary", "Captured", "Program", "Supported", "capture", "partition"]
