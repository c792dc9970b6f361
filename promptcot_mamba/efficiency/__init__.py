"""Throughput under a memory budget: what a constant state buys over a growing cache."""
