"""The benchmarks: what each asks, how it is graded, which file it lives in.

A benchmark is one module with one `Benchmark` and one line in `BENCHMARKS`.
"""
