"""The kernels of a CUDA device: the same text as on the CPU, a warp's 32 threads being the lanes (see `ieee.warp`)."""
