"""Every setting with its default, its meaning and its range: the only place of defaults.

Values come from: the defaults here < configs/<env>.yaml < --config FILE < the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from envs.ids import names_function
from marl.config.opponents import OpponentsConfig
from marl.config.ranges import Count, Positive, Range, Rate, Share, Weight
from marl.config.world_model import WorldModelConfig

Estimator = Literal[
    "gumbel_soft", "gumbel_st", "straight_through", "rao_blackwell", "gapped", "reinmax", "reinforce", "exact"
]

Channel = Literal["gumbel", "none", "oracle", "self", "constant", "shuffled", "noisy", "rial", "dial", "intent"]


@dataclass(frozen=True)
class MADDPGConfig:
    """The learner. Sources in marl/learner/losses.py and marl/learner/maddpg.py."""

    actor_lr: Rate = 1e-3
    """Adam step size of the actors at the start of training."""
    critic_lr: Rate = 1e-3
    """Adam step size of the critics at the start of training."""
    actor_lr_shares: dict[str, Share] = field(default_factory=dict)
    """Shares of `actor_lr` for single agents, as NAME=SHARE ...; 1 for those not named. A sender much slower than its
    listeners meets their best answers (two time scales)."""
    lr_final: Share = 0.05
    """Both step sizes fall linearly over the run to this share of their start; 1 keeps them constant."""
    gamma: Share = 0.95
    """Discount per environment step."""
    tau: Annotated[float, Range(0.0, 1.0, above=True)] = 0.01
    """Share by which the target networks move to the online ones in an update."""
    batch_size: Positive = 512
    """Transitions per replica in one update."""
    updates_per_step: Rate = 0.0625
    """Updates per environment step of a replica: 0.0625 is one update every 16 steps."""
    warmup_steps: Count = 1000
    """Environment steps of a replica before the first update."""
    hidden: tuple[Positive, ...] = (64, 64)
    """Widths of the hidden layers of actors and critics."""
    layer_norm: bool = True
    """Normalise every hidden layer before its ReLU, in actors and critics."""
    frames: Positive = 1
    """Observations that actors and critics see at a time: the newest, those of the steps before it and the agent's own
    actions between them."""
    recurrent: bool = False
    """Actors and critics have a GRU beside their input, as wide as the first hidden layer, which remembers what was
    seen and done since the episode began; actors see their own last action too, and batches are windows of consecutive
    steps."""
    window: Positive = 16
    """Steps of a window that recurrent networks learn from; a batch is `batch_size` steps in whole windows."""
    burn_in: Count = 8
    """Steps before a window that bring the stored memory up to date and teach nothing (recurrent)."""
    prediction_loss: Weight = 0.3
    """Weight of the loss by which recurrent networks predict from their memory how their agent's observation changes
    next; 0: none (recurrent)."""
    max_grad_norm: Rate = 0.5
    """Gradients of each agent's actor and of each critic are scaled down to this norm."""
    estimator: Estimator = "gumbel_st"
    """How the actor loss differentiates through a discrete choice."""
    message_estimator: Estimator | None = None
    """The estimator of message heads; unset: the same as `estimator`."""
    temperature: Rate = 1.0
    """Temperature of the relaxation at the start of training; sampling itself is always at temperature 1."""
    temperature_final: Rate | None = None
    """Temperature at the end of training, reached exponentially; unset: constant."""
    logit_penalty: Weight = 1e-3
    """Weight of the mean squared logit in the actor loss; of continuous heads, of the mean squared input of tanh."""
    continuous: Literal["deterministic", "gaussian"] = "deterministic"
    """Policies of continuous heads: one number to which collecting adds noise, or a squashed Gaussian in which the
    noise is part of the policy, in the losses too."""
    exploration: Weight = 0.3
    """Standard deviation of that noise at the start of training; the heads' range is [-1, 1]."""
    exploration_final: Weight = 0.05
    """Standard deviation of that noise at the end of training, reached linearly."""
    smoothing: Weight = 0.0
    """Standard deviation of the noise on the target actors' numbers, clipped at 2.5 of it (deterministic; MATD3 uses
    .2)."""
    target_action: Literal["sample", "argmax"] = "sample"
    """Whether the target actors' next actions are sampled or their argmax."""
    other_actions: Literal["replay", "current"] = "replay"
    """Actions of the other agents in the actor loss: those of the replay or fresh ones of their current policies."""
    twin_critics: bool = False
    """Two critics per agent, the smaller target of both (MATD3)."""
    actor_delay: Positive = 1
    """Critic updates per actor and target update (MATD3 uses 2)."""
    n_step: Positive = 1
    """Rewards summed before the bootstrap."""
    share_actors: bool = False
    """Interchangeable agents (same name prefix, team and sizes) share one actor."""
    critic: Literal["joint", "factored"] = "joint"
    """A critic's value: of everybody's observation and action in one row, or the sum of a value of each agent's own,
    which interchangeable agents that share an actor share too (value decomposition)."""
    independent_critics: bool = False
    """Critics see their own agent's observation and action only (IDDPG): the ablation of the central critic."""
    team_reward: bool = False
    """Every agent learns from its team's mean reward."""
    communication_correction: bool = True
    """Relabel received messages in replayed observations with the sender's current policy."""
    signalling_bonus: Weight = 0.0
    """Weight of the senders' bonus H(mean policy) - k * mean H(policy) on message heads."""
    signalling_k: Weight = 1.0
    """k of the signalling bonus: how much a single observation's message should be certain; 1: mutual information."""
    signalling_final: Share = 1.0
    """The signalling bonus falls linearly over the run to this share of its weight."""
    listening_bonus: Weight = 0.0
    """Weight of the receivers' bonus for acting differently with and without the message."""
    diagnostics_every: Count = 1000
    """Updates between measurements of the estimator's cosine, bias and deviation from the exact gradient; 0: never."""

    @property
    def lead(self) -> int:
        """Steps of every environment before there is anything to learn from."""
        return self.burn_in + self.window if self.recurrent else self.n_step


@dataclass(frozen=True)
class ReplayConfig:
    """Stored transitions."""

    capacity: Positive = 1_000_000
    """Transitions kept per replica; never more than the run produces."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Greedy evaluation beside the training; it changes nothing in the training trace."""

    every: Count | None = None
    """Environment steps of a replica between evaluations, the first of which goes before the first step; unset: a
    thirtieth of the run, at least 1,000, or 10,000 in environments other than MPE's, whose episodes may take any time;
    0: only at the end."""
    episodes: Positive = 500
    """Episodes per replica in an evaluation during training."""
    share: Weight = 0.25
    """Environments other than MPE's, whose cost is not known: fewer `episodes` are played where their steps would be
    more than this share of those trained since the evaluation before. Steps and not seconds, so that what is recorded
    does not depend on the clock. 0: no limit."""
    final_episodes: Positive = 1000
    """Episodes per replica in the evaluation that ends the run, in the real environment."""
    final_seconds: Weight = 60.0
    """Environments other than MPE's: seconds of the final evaluation of all replicas, after which the rest of the
    episodes is not played. 0: no limit."""
    seed: Count = 1_000_000
    """Episode i of the final evaluation is reset with this seed plus i."""
    max_steps: Positive = 10_000
    """Steps after which an episode is stopped, with a warning; an environment's own longer time limit takes precedence.
    Where none of 32 episodes ends before, the rest is not played."""


@dataclass(frozen=True)
class LoggingConfig:
    """TensorBoard, metrics.jsonl and the progress bar."""

    every: Positive = 2000
    """Environment steps of a replica between two records."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run directory."""
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Trackers that get the same records, each an extra of the package; their own environment variables say where they
    go, as WANDB_MODE=offline."""
    progress: bool = True
    """Show a progress bar on the terminal."""
    report: bool = True
    """Draw the figures, the GIF and report.html when the run ends."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk."""

    every: Count = 20_000
    """Environment steps of a replica between checkpoints; 0: only at the end and on a signal."""
    keep: Annotated[int, Range(2)] = 2
    """Newest checkpoints kept."""


@dataclass(frozen=True)
class Config:
    """One training run."""

    env: str = ""
    """MPE id with or without version (simple_speaker_listener), or package.module:function of a ParallelEnv."""
    env_args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as NAME=VALUE ..."""
    seed: Count = 0
    """Root seed: the run is a function of it, the configuration and the versions."""
    num_replicas: Positive = 1
    """Independent training runs side by side."""
    population: Positive = 1
    """Replicas that play with one another: each population of so many draws partners anew for every episode, and a
    replica learns the one role that it plays itself. 1: every replica plays with itself and learns all roles."""
    num_envs: Positive = 16
    """Environments per replica."""
    total_steps: Positive = 100_000
    """Steps of all environments of one replica."""
    channel: Channel = "gumbel"
    """What is heard, or how it is learned to be said: gumbel is the channel as it is; none, oracle, self, constant,
    shuffled and noisy change what arrives, in training and evaluations alike; rial, dial and intent are other ways to
    learn messages."""
    channel_noise: Share = 0.1
    """Probability that another symbol is heard (channel noisy)."""
    other_play: bool = False
    """Permute the symbols between a speaker and each listener anew in every episode, in training alone: the control
    condition in which no convention can be learned (other-play)."""
    backend: Literal["torch", "pettingzoo"] = "torch"
    """What steps the training environments: our batched MPE or the real PettingZoo environment."""
    workers: Count = 0
    """Worker processes of the pettingzoo backend; 0: in this process."""
    rebuild: bool = False
    """Make the environment anew for every episode, in evaluations too: for those that carry something from one episode
    into the next (a run warns of it; `envs.check` looks closer). It costs what making one costs."""
    flatten_pictures: bool = False
    """Train on pictures as rows of numbers, whatever their size, and not through convolutions."""
    picture_side: Annotated[int, Range(20, 256)] = 64
    """Pixels of both sides to which observations that are pictures are shrunk."""
    picture_colour: bool = False
    """Keep the colours of such pictures; else grey values."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i."""
    distributed: Literal["replicas", "data"] = "replicas"
    """What several processes of torchrun share: the replicas, or the environments and batch of every replica."""
    threads: Count = 0
    """CPU threads of torch; 0: chosen by the size of the work."""
    graphs: bool = True
    """On a GPU, record the training round as CUDA graphs and replay them; off: launch every kernel by itself."""
    run_dir: str | None = None
    """Where everything is written; unset: runs/<env>/<date-time>_seed<seed>/."""
    from_run: str | None = None
    """Run or checkpoint directory whose weights this run starts from, replica by replica or all from the only one."""
    from_parts: Literal["actors", "all", "frozen"] = "all"
    """Actors, critics too, or only actors of agents that never learn (actor_lr_shares 0); all else starts anew."""
    from_greedy: bool = False
    """Agents that are frozen (from_parts) take the argmax of every choice, as evaluations do, in place of a sample."""
    world_model: bool = False
    """Mix imagined transitions into the replay."""
    maddpg: MADDPGConfig = field(default_factory=MADDPGConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    opponents: OpponentsConfig = field(default_factory=OpponentsConfig)
    wm: WorldModelConfig = field(default_factory=WorldModelConfig)

    @property
    def evaluation_every(self) -> int:
        """`evaluation.every`, or what it is where it is unset."""
        every = self.evaluation.every
        least = 10_000 if names_function(self.env) else 1000
        return max(round(self.total_steps / 30), least) if every is None else every

    @property
    def snapshot_every(self) -> int:
        """`opponents.every`, or what it is where it is unset."""
        return self.opponents.every or max(self.total_steps // 20, 1)

    @property
    def channel_name(self) -> str:
        """`channel`, with its noise where it has one, as noisy:0.1."""
        return f"{self.channel}:{self.channel_noise:g}" if self.channel == "noisy" else self.channel
