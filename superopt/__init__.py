"""superopt: a tensor-program superoptimizer for PyTorch."""
