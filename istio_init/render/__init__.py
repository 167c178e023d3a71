"""A plan as text: what will be in the kernel, or how to get there."""
