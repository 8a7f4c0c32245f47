"""What a run is made of: the configuration, its fields, its files and its rules."""

from marl.config.schema import Config, MADDPGConfig
from marl.config.world_model import WorldModelConfig

__all__ = ["Config", "MADDPGConfig", "WorldModelConfig"]
