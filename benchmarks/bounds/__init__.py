"""Upper bounds of the expected return that no policy exceeds, with their proofs; `python -m benchmarks.bounds`."""
