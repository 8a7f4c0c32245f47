"""Settings of the world model: a proposal for the group `wm` of marl/config.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from marl.config import Count, Positive, Range, Rate, Share, Weight

PRESETS: dict[str, dict[str, int]] = {
    "cpu": {"classes": 8, "deter": 200, "hidden": 200, "sequences": 16},
    "gpu": {"classes": 32, "deter": 512, "hidden": 512, "sequences": 64},
}


@dataclass(frozen=True)
class WorldModelConfig:
    """The optional world model (--world-model). Sources in marl/world_model/."""

    kind: Literal["rssm", "mlp", "linear"] = "rssm"
    """DreamerV2's categorical state-space model, an ensemble of small networks with a linear skip, or the linear
    dynamics alone (with a learned reward)."""
    preset: Literal["cpu", "gpu"] = "cpu"
    """Sizes: cpu is 32 x 8 latents, 200 units, 16 sequences; gpu is 32 x 32 latents, 512 units, 64 sequences."""

    # --------------------------------------------------------------- sizes (rssm)
    latents: Positive = 32
    """Categorical latents of the state."""
    classes: Positive | None = None
    """Classes of a latent; unset: the preset's 8 or 32."""
    deter: Positive | None = None
    """Units of the recurrent state; unset: the preset's 200 or 512."""
    hidden: Positive | None = None
    """Width of every hidden layer of the model; unset: the preset's 200 or 512."""
    layers: Positive = 2
    """Hidden layers of encoder, decoder, reward and discount heads."""
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
    """Sequences (episodes) in one update; unset: the preset's 16 or 64."""
    window: Positive | None = None
    """Frames of a training sequence; unset: one episode where the horizon is known (horizon + 1), else 50."""
    capacity: Positive = 500_000
    """Frames kept per replica; never more than the run produces."""
    warmup_steps: Count = 500
    """Environment steps of a replica before the model's first update."""
    updates_per_step: Rate = 0.25
    """Model updates per environment step of a replica."""
    validation_share: Annotated[float, Range(0.01, 0.5)] = 0.1
    """Share of the episodes held out from training, to measure prediction errors."""
    ensemble: Annotated[int, Range(2)] = 5
    """Members whose disagreement measures uncertainty: networks (mlp, linear) or small prior heads (rssm)."""

    # ----------------------------------------------------------------- imagination
    imagined_share: Share = 0.5
    """Share of imagined transitions in the learner's batches."""
    rollout: Positive = 5
    """Most steps of an imagined rollout."""
    gate: Weight = 0.1
    """Rollouts are cut to the longest k whose validation error after k steps is at most this many standard
    deviations; 0 steps: real transitions only."""
    reward_gate: Weight = 0.3
    """The same bound for the rewards' error."""
    starts: Positive = 256
    """Rollouts per replica in one generation of imagined transitions."""
    keep: Annotated[float, Range(0.0, 1.0, above=True)] = 0.8
    """Share of the imagined transitions that is kept: those on which the ensemble disagrees least."""
    refresh_every: Positive = 128
    """Environment steps of a replica between two generations of imagined transitions."""
    through_horizon: Annotated[int, Range(0)] = 0
    """Steps of the actor loss through the model, with the critic's value at the end; a message needs 3; 0: off."""
    through_weight: Weight = 1.0
    """Weight of the actor loss through the model beside the ordinary one."""

    def size(self, name: Literal["classes", "deter", "hidden", "sequences"]) -> int:
        """The field's value, or the preset's where it is unset."""
        value: int | None = getattr(self, name)
        return PRESETS[self.preset][name] if value is None else value
