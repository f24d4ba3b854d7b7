"""The frontend: PyTorch functions to graphs over named axes, and what stays in PyTorch, and why.

``capture`` exports a function, ``partition`` cuts it into graphs and boundaries. The parts are
imported where they are used: exporting costs seconds of imports, which a process that finds its
kernels in the cache must not pay.
"""
