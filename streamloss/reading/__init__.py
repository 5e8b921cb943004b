"""Paths become Parts, Parts become Batches of NumPy arrays: the only room that knows pyarrow."""
