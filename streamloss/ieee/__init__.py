"""float64 from add, mul, fma and bits: the same result, bit for bit, on every CPU."""
