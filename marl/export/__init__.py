"""Trained actors for other programs: `python -m marl.export RUN --format onnx --out DIR` writes a file for each."""
