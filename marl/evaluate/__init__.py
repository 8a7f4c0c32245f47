"""What policies earn in the real environments. `python -m marl.evaluate RUN` prints it."""

from marl.evaluate.returns import evaluate

__all__ = ["evaluate"]
