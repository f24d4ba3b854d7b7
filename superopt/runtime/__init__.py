"""Building, caching, loading and launching compiled kernels."""
