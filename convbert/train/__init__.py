"""Training: optimizer, loop, and the jobs `pretrain` and `glue`."""
