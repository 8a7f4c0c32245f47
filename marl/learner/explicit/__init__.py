"""The update written out: forward, losses and gradients by hand, in torch or in numba kernels."""
