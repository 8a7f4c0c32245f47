"""What agents say, who listens, and what it is worth. `python -m marl.communication RUN` prints it."""

from marl.communication.run_analysis import Analysis, Options, analyse_players, analyse_run

__all__ = ["Analysis", "Options", "analyse_players", "analyse_run"]
