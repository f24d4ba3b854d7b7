"""The backends: each prints or runs tile-IR programs, and none has a lowering of its own."""
