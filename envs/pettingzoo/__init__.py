"""Any PettingZoo ParallelEnv as a BatchedEnv, in this process or in workers."""

from envs.pettingzoo.env import PettingZooEnv

__all__ = ["PettingZooEnv"]
