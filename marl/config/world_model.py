"""The settings of the world model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from marl.config.ranges import Count, Positive, Range, Rate, Share, Weight

PRESETS: dict[str, dict[str, int]] = {
    "cpu": {"classes": 8, "deter": 128, "hidden": 128, "sequences": 32},
    "gpu": {"classes": 32, "deter": 512, "hidden": 512, "sequences": 128},
}
_SMALL: dict[str, Any] = {"updates_per_step": 0.0625, "ensemble": 2, "starts": 64, "through_horizon": 8}
KINDS: dict[str, dict[str, Any]] = {
    "auto": _SMALL,
    "mlp": _SMALL,
    "linear": _SMALL,
    "rssm": {"updates_per_step": 0.5, "ensemble": 2, "starts": 32, "through_horizon": 8},
}

FEW = 8
"""Values: an entry of an observation with no more of them in all starts says which, not how much."""
IMAGE = {"updates_per_step": 0.0625, "starts": 32, "through_horizon": 0, "sequences": 8}  # pictures cost far more


@dataclass(frozen=True)
class WorldModelConfig:
    """The optional world model (--world-model). Sources in marl/world_model/."""

    kind: Literal["auto", "rssm", "mlp", "linear"] = "auto"
    """auto: mlp, and rssm beside it where mlp's rollouts are too short; in each replica the one that predicts further
    imagines. rssm: DreamerV2's categorical state-space model. mlp: dynamics and rewards in closed form with an ensemble
    of small networks for the rest. linear: linear dynamics alone (rewards as for mlp). With action masks auto is rssm,
    and where agents leave it becomes it."""
    preset: Literal["cpu", "gpu"] = "cpu"
    """Sizes: cpu is 32 x 8 latents, 128 units, 32 sequences; gpu is 32 x 32 latents, 512 units, 128 sequences."""
    observation: Literal["vector", "image"] = "vector"
    """image (rssm): the model sees and imagines all agents' pictures, through convolutions."""

    # --------------------------------------------------------------- sizes (rssm)
    latents: Positive = 32
    """Categorical latents of the state."""
    classes: Positive | None = None
    """Classes of a latent; unset: the preset's 8 or 32."""
    deter: Positive | None = None
    """Units of the recurrent state; unset: the preset's 128 or 512."""
    hidden: Positive | None = None
    """Width of every hidden layer of the model; unset: the preset's 128 or 512."""
    layers: Positive = 2
    """Hidden layers of encoder, decoder, reward and discount heads."""
    decoder: Literal["change", "state"] = "change"
    """Observations are predicted as a change of the last one, rewards by products of them and the action; or both from
    the model's state alone, as in the paper."""
    factors: Literal["joint", "agent"] = "joint"
    """One state of all agents together; or one for each agent, with weights that they share and attention between them
    in every step: latents, classes, deter and hidden then are those of one agent."""
    posterior: Literal["state", "observation"] = "state"
    """The posterior sees [h, observation] as in the paper, or the observation alone, which leaves only the recurrent
    cell sequential."""

    # -------------------------------------------------------------- losses (rssm)
    kl: Literal["balanced", "sampled"] = "balanced"
    """KL terms in closed form, or estimated from the posterior's sample (exact gradient for the posterior)."""
    alpha: Share = 0.8
    """KL balancing: share of the term that trains the prior."""
    beta: Weight = 0.1
    """Weight of the KL against the log-likelihoods."""
    free_prior: Weight = 0.0
    """Free nats of the prior's term; a floor stops its training, and MPE is nearly deterministic."""
    free_posterior: Weight = 1.0
    """Free nats of the posterior's term."""
    free_form: Literal["step", "average"] = "step"
    """Clip the KL of each step at the free nats, or its average."""
    unimix: Share = 0.01
    """Share of the uniform distribution mixed into posterior and prior in the KL (not in samples)."""
    nx: Weight = 100.0
    """Weight of the observation's log-likelihood (standardised observations, summed over entries)."""
    nr: Weight = 100.0
    """Weight of the rewards' log-likelihood (standardised, summed over agents)."""
    sparse: Weight = 0.3
    """L1 penalty of the reward head's weights, apart from Adam's moments: steps towards zero in an update (decoder
    change)."""
    reward_updates: Positive = 8
    """Updates of the reward head in an update of the model (decoder change): it learns slowly and costs little."""
    solved_rewards: bool = True
    """Rewards of the decoded observation in closed form too, as for mlp; held-out episodes tell in which replicas it
    stands for the head (decoder change)."""
    ng: Weight = 1.0
    """Weight of the discount's log-likelihood (summed over agents)."""

    # ------------------------------------------------------------------- training
    lr: Rate = 3e-3
    """Adam step size."""
    average: Share = 0.99
    """Share that an update keeps of the averaged parameters, by which the model observes and imagines."""
    lr_warmup: Count = 100
    """Updates over which the step size rises linearly to `lr`."""
    max_grad_norm: Rate = 100.0
    """Gradients of a replica's model are scaled down to this norm."""
    sequences: Positive | None = None
    """Sequences in one update; unset: the preset's 32 or 128, or 8 (image)."""
    window: Positive | None = None
    """Frames of a training sequence; unset: half an episode where the horizon is known, else 25: it teaches faster than
    the same frames as whole episodes."""
    capacity: Positive = 500_000
    """Frames kept per replica."""
    warmup_steps: Count = 400
    """Environment steps of a replica before the model's first update."""
    updates_per_step: Rate | None = None
    """Model updates per environment step of a replica; unset: 1/16, or 1/2 (rssm of vectors)."""
    validation_share: Annotated[float, Range(0.01, 0.5)] = 0.1
    """Share of the episodes held out from training, to measure prediction errors."""
    ensemble: Annotated[int, Range(2)] | None = None
    """Members whose disagreement measures uncertainty: networks (mlp, linear) or small prior heads (rssm); unset:
    2."""

    # ----------------------------------------------------------------- imagination
    imagined_share: Share = 0.9
    """Share of imagined transitions in the learner's batches."""
    rollout: Positive = 25
    """Most steps of an imagined rollout."""
    gate: Weight = 0.1
    """Rollouts are cut to the longest k whose validation error after k steps is at most this many standard
    deviations; 0 steps: real transitions only."""
    reward_gate: Weight = 0.3
    """The same bound for the rewards' error."""
    starts: Positive | None = None
    """Rollouts per replica in one generation of imagined transitions, and in the loss through the model; unset: 64, or
    32 (rssm)."""
    blend: bool = True
    """Rollouts start between two stored states that agree in all entries of at most 8 values, for which starts must be
    more than 8 (rssm: in replicas in which its memory predicts no better on held-out episodes)."""
    keep: Annotated[float, Range(0.0, 1.0, above=True)] = 0.8
    """Share of the imagined transitions that is kept: those on which the ensemble disagrees least."""
    refresh_every: Positive = 16
    """Environment steps of a replica between two generations of imagined transitions."""
    through_horizon: Annotated[int, Range(0)] | None = None
    """Steps of the actor loss through the model, with the critic's value at the end; a message needs 3; 0: off; unset:
    8, or off (image)."""
    through_weight: Weight = 1.0
    """Weight of the actor loss through the model beside the ordinary one."""

    def size(self, name: str) -> int:
        """A whole number's value, or the preset's or the kind's where it is unset."""
        return int(self._value(name))

    @property
    def update_rate(self) -> float:
        """`updates_per_step`, or the kind's where it is unset."""
        return float(self._value("updates_per_step"))

    def _value(self, name: str) -> Any:
        value = getattr(self, name)
        if value is not None:
            return value
        return {**PRESETS[self.preset], **KINDS[self.kind], **(IMAGE if self.observation == "image" else {})}[name]
