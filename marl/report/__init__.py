"""The HTML page of a run, and of several side by side. `python -m marl.report RUN` writes it."""

from marl.report.run_page import write_report

__all__ = ["write_report"]
