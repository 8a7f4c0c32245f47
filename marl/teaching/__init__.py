"""Fresh agents beside frozen ones. `python -m marl.teaching RUN --learners AGENT` times them."""

from marl.teaching.ease import beside, ease_of_teaching

__all__ = ["beside", "ease_of_teaching"]
