"""Hand-written players with known protocols, for the tests of the analysis of communication."""

from __future__ import annotations

import numpy as np

from envs.streams import Stream

PUSH = 0.2 * np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])  # how far each move carries from rest


class Scripted:
    """simple_speaker_listener: the speaker says `code[goal]`; the listener coasts to the landmark it decodes.

    Args:
        code: symbol of each goal; None: the speaker says a random symbol.
        listens: False: the listener always goes to landmark 0.
        heard_as: what the listener takes each symbol for; None: the inverse of `code`.
    """

    env_id = "simple_speaker_listener"

    def __init__(self, code=(0, 1, 2), listens=True, heard_as=None, seed=0):
        self.code = None if code is None else np.array(code)
        inverse = (0, 1, 2) if code is None else np.argsort(code)
        self.heard_as = np.array(inverse if heard_as is None else heard_as)
        self.listens = listens
        self.noise = Stream(seed, "scripted", [0])

    def reset(self, num_envs):
        pass

    def probabilities(self, observations, masks=None):
        choices = {}
        if "speaker_0" in observations:
            goal = observations["speaker_0"].argmax(-1)
            choices["speaker_0"] = (
                self.noise.integers(3, len(goal))[0].numpy() if self.code is None else self.code[goal]
            )
        if "listener_0" in observations:
            choices["listener_0"] = self.move(observations["listener_0"])
        return {name: np.eye(5)[choice][:, None] for name, choice in choices.items()}

    def move(self, obs):
        landmarks = obs[:, 2:8].reshape(-1, 3, 2)
        symbol = obs[:, 8:11].argmax(-1) if self.listens else np.zeros(len(obs), dtype=np.int64)
        target = landmarks[np.arange(len(obs)), self.heard_as[symbol] if self.listens else 0]
        silent = (obs[:, 8:11].max(-1) <= 0) & self.listens
        target = np.where(silent[:, None], landmarks.mean(1), target)
        after = target[:, None] - 0.4 * obs[:, None, :2] - PUSH
        return (after**2).sum(-1).argmin(-1)

    def act(self, observations, masks=None):
        return {name: pi[:, 0].argmax(-1) for name, pi in self.probabilities(observations).items()}


class Babbling:
    """Any environment of single-head or move-and-message agents: every choice of every head equally likely."""

    def __init__(self, spec, seed=0):
        self.spec = spec
        self.noise = Stream(seed, "babbling", [0])

    def reset(self, num_envs):
        pass

    def probabilities(self, observations, masks=None):
        chances = {}
        for agent in self.spec.agents:
            pi = np.zeros((len(observations[agent.name]), self.spec.num_heads, self.spec.head_size))
            for h, head in enumerate(agent.heads):
                pi[:, h, : head.size] = 1 / head.size
            chances[agent.name] = pi
        return chances

    def act(self, observations, masks=None):
        return {
            agent.name: self.noise.integers(agent.num_actions, len(observations[agent.name]))[0].numpy()
            for agent in self.spec.agents
        }
