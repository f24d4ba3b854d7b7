"""Code generation: the tile IR, the lowering of placed graphs to it, and the backends that print it."""
