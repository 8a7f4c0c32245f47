"""Mutants that no test could tell from the original, with the reason."""

_ONE_NAME = "all heads have the same estimator there"
_NAMES = "only reinforce and exact come this far, and exact is before reinforce in any order"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "marl/learner/losses.py",
        "return value(pathwise[estimator_H[0]].flatten(-2))",
        "return value(pathwise[estimator_H[ -1]].flatten(-2))",
    ): _ONE_NAME,
    ("marl/learner/losses.py", 'if name == "reinforce":', 'if name >= "reinforce":'): _NAMES,
    (
        "marl/learner/relaxation.py",
        "if scores.dim() == 1:",
        "if scores.dim() <= 1:",
    ): "scores have a dimension of choices",
    (
        "marl/learner/relaxation.py",
        "rows = dim if scores.stride(dim) == 1 and scores.size(dim) > 1 else rows",
        "rows = dim if scores.stride(dim) == 1 and scores.size(dim) > 2 else rows",
    ): "which dimension lies innermost: a matter of speed, with the same numbers",
    (
        "marl/training/evaluator.py",
        "steps = int(trained * chosen.share) * len(self._division.evaluated) if self.cost_unknown else 0",
        "steps = int(trained * chosen.share) * len(self._division.evaluated) if self.cost_unknown else -1",
    ): "a budget below zero is none, as one of zero is",
    (
        "marl/evaluate/returns.py",
        "batch: int = 32,",
        "batch: int = 31,",
    ): "how many episodes run side by side: same results",
    (
        "marl/learner/maddpg.py",
        "def update_many(self, source: BatchSource, rows: int, count: int, progress: float = 0.0) -> None:",
        "def update_many(self, source: BatchSource, rows: int, count: int, progress: float = 1.0) -> None:",
    ): "nobody used this default, which is gone since",
}
"""(module, the lines before, the lines after) -> why they do the same."""
