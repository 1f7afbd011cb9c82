"""Sweeps: which cells are to be run, and the processes that run them."""
