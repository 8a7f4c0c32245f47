"""MADDPG with Gumbel-softmax actors for discrete actions and discrete messages."""
