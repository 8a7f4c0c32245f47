"""The update of this package written in JAX; `benchmarks.speed.update` starts this under a Python that has it.

    pip install jax      (in a virtual environment of its own)

The same maths from the same parameters and the same replay, which come in files (benchmarks/speed/update_cases.py):
relabelling of received messages, critic, actor by Gumbel-softmax straight through with logit penalty and signalling
bonus, clipping by norm for each agent, Adam, targets. All agents and replicas are batch dimensions of every product;
gradients are `jax.grad`'s; random numbers and the drawing of batches are inside. Timed as a training round's sixteen
updates, in two forms: sixteen calls of one compiled update, and one compiled `lax.scan` of sixteen.

What was done so that JAX is at its best on one core: float32; the state is donated, so parameters and moments need no
second place; settings are constants of the program; rows before features, which XLA takes for faster than the reverse
(by a third); hidden layers centre their weights instead of every row; the own actions of all agents change one first
product of the critics instead of needing one each; all noise of an update is one draw, by JAX's default generator (its
two others take as long, within 3 %); XLA has one thread and computes in the calling one (no asynchronous dispatch).
The caller sets XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" and pins the process.

Reads requests from stdin, one JSON object a line, and answers each with one:

    {"case": FILE}                             reads FILE and FILE's arrays (.npz), compiles; {"version": of JAX}
    {"check": FILE, "into": FILE}              one update from a batch and noise (.npz); the new parameters (.npz)
    {"time": "JAX, jit" or "JAX, scan", "repeats": n}       {"seconds": [processor seconds of sixteen updates, ...]}

Shape suffixes: S replicas, N agents, n senders, G groups (N or n), B batch, O observation, H heads, K choices,
A = H * K, D = N * (O + A), I inputs and Z outputs of a layer, W width, P parameters of one network, C stored rows.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

UPDATES = 16
EPS = 1e-5  # of layer normalisation
NETWORKS = ("actor", "critic", "target_actor", "target_critic")
Layers = list[tuple[Any, Any]]  # of each layer the weight [S, G, I, Z] and the bias [S, G, Z]
State = dict[str, Any]  # NETWORKS: Layers; "moments": {network: (mean, square)}; "step" int32; "key"


class Batch(NamedTuple):
    joint: Any  # [S, B, D]
    prev_obs: Any  # [S, n, B, O]
    first: Any  # [S, B], 0 or 1
    reward: Any  # [S, N, B]
    discount: Any  # [S, N, B]
    next_obs: Any  # [S, N, B, O]


# --------------------------------------------------------------------- parameters
def layers_of(flat_SGP: Any, sizes: list[int]) -> Layers:
    """Layers from flat parameters: of each the weight's rows, then the bias."""
    layers, start = [], 0
    for i, o in pairwise(sizes):
        block = flat_SGP[..., start : start + (i + 1) * o].reshape(*flat_SGP.shape[:2], i + 1, o)
        layers.append((jnp.array(block[:, :, :-1]), jnp.array(block[:, :, -1])))
        start += (i + 1) * o
    return layers


def flat_of(layers: Layers) -> np.ndarray:
    """The inverse of `layers_of`, [S, G, P]."""
    parts = [np.concatenate([w, b[:, :, None]], axis=2).reshape(*b.shape[:2], -1) for w, b in layers]
    return np.concatenate(parts, axis=2)


def state_of(case: dict[str, Any], arrays: Any) -> State:
    """The learner's state as the file holds it."""
    sizes = {name: case[f"{name.removeprefix('target_')}_sizes"] for name in NETWORKS}
    state: State = {name: layers_of(arrays[name], sizes[name]) for name in NETWORKS}
    state["moments"] = {
        name: tuple(layers_of(arrays[f"{name}_{which}"], sizes[name]) for which in ("mean", "square"))
        for name in ("actor", "critic")
    }
    return {**state, "step": jnp.int32(case["step"]), "key": jax.random.key(0)}


# ----------------------------------------------------------------------- networks
def centred(layers: Layers, norm: bool) -> Layers:
    """Layers whose hidden ones have every input's mean over the outputs removed, which normalisation would do."""
    if not norm:
        return layers
    return [(w - w.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)) for w, b in layers[:-1]] + layers[-1:]


def rest(h_SGBW: Any, layers: Layers, norm: bool) -> Any:
    """Outputs [S, G, B, Z] of the layers behind a pre-activation."""
    h = h_SGBW
    for w, b in layers:
        if norm:
            h = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + EPS)
        h = jnp.einsum("sgbi,sgio->sgbo", jnp.maximum(h, 0.0), w) + b[:, :, None]
    return h


def run(x_SGBI: Any, layers: Layers, norm: bool) -> Any:
    """Outputs [S, G, B, Z], each group from its own input; `layers` are centred."""
    w, b = layers[0]
    return rest(jnp.einsum("sgbi,sgio->sgbo", x_SGBI, w) + b[:, :, None], layers[1:], norm)


def from_joint(joint_SBD: Any, layers: Layers) -> Any:
    """Pre-activations [S, G, B, W] of networks that all see the joint row."""
    w, b = layers[0]
    return jnp.einsum("sbi,sgio->sgbo", joint_SBD, w) + b[:, :, None]


def values(joint_SBD: Any, critic: Layers, norm: bool) -> Any:
    """Every agent's value [S, N, B]."""
    layers = centred(critic, norm)
    return rest(from_joint(joint_SBD, layers), layers[1:], norm)[..., 0]


# ------------------------------------------------------------------------- update
class Update:
    """The update of one case, whose settings are constants."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.norm = case, case["layer_norm"]
        self.N, self.O, self.H, self.K = (case[name] for name in ("agents", "width", "heads", "choices"))
        self.A, self.B, self.senders = self.H * self.K, case["rows"], np.array(case["senders"], int)
        self.seen = self.N * self.O
        self.allowed_N1A = np.array(case["allowed"], bool)[:, None]

    def choose(self, logits_SGBA: Any, noise_SGBA: Any, allowed_G1A: Any) -> Any:
        """One-hots of the largest logit plus noise of every head; 0 where a head has nothing allowed."""
        scores = jnp.where(allowed_G1A, logits_SGBA + noise_SGBA, -jnp.inf)
        index_SGBH = jnp.argmax(scores.reshape(*scores.shape[:-1], self.H, self.K), -1)
        return jax.nn.one_hot(index_SGBH, self.K).reshape(scores.shape) * allowed_G1A

    def joint(self, obs_SNBO: Any, action_SNBA: Any) -> Any:
        rows = (x.swapaxes(1, 2).reshape(x.shape[0], self.B, -1) for x in (obs_SNBO, action_SNBA))
        return jnp.concatenate(list(rows), -1)

    def targets(self, state: State, batch: Batch, noise_SNBA: Any) -> Any:
        """y [S, N, B]."""
        logits = run(batch.next_obs, centred(state["target_actor"], self.norm), self.norm)
        action = self.choose(logits, noise_SNBA, self.allowed_N1A)
        next_SNB = values(self.joint(batch.next_obs, action), state["target_critic"], self.norm)
        return batch.reward + batch.discount * next_SNB

    def relabelled(self, state: State, batch: Batch, noise_SnBA: Any) -> Any:
        """The joint rows with what senders would say now, 0 at first steps."""
        joint = batch.joint
        if not self.case["routes"]:
            return joint
        speaking = [(w[:, self.senders], b[:, self.senders]) for w, b in centred(state["actor"], self.norm)]
        said = self.choose(run(batch.prev_obs, speaking, self.norm), noise_SnBA, self.allowed_N1A[self.senders])
        said = said * (1.0 - batch.first)[:, None, :, None]
        for sender, start, size, receiver, slot in self.case["routes"]:
            at = receiver * self.O + slot
            joint = joint.at[..., at : at + size].set(said[:, sender, :, start : start + size])
        return joint

    def critic_loss(self, critic: Layers, joint_SBD: Any, y_SNB: Any) -> Any:
        return jnp.sum(jnp.mean((values(joint_SBD, critic, self.norm) - y_SNB) ** 2, -1))

    def actor_loss(self, actor: Layers, critic: Layers, joint_SBD: Any, noise_SNBA: Any) -> Any:
        case, allowed, S = self.case, self.allowed_N1A, joint_SBD.shape[0]
        obs_SNBO = joint_SBD[..., : self.seen].reshape(S, self.B, self.N, self.O).swapaxes(1, 2)
        logits = run(obs_SNBO, centred(actor, self.norm), self.norm)
        scores = jnp.where(allowed, (logits + noise_SNBA) / case["temperature"], -1e30)
        soft = jax.nn.softmax(scores.reshape(*scores.shape[:-1], self.H, self.K), -1).reshape(scores.shape) * allowed
        action = soft + jax.lax.stop_gradient(self.choose(logits, noise_SNBA, allowed) - soft)
        # the value of every agent's own action: what it changes at the first layer of its critic
        layers = centred(critic, self.norm)
        first, A = layers[0][0], self.A
        own_SNAW = jnp.stack([first[:, i, self.seen + i * A : self.seen + (i + 1) * A] for i in range(self.N)], 1)
        executed = joint_SBD[..., self.seen :].reshape(S, self.B, self.N, A).swapaxes(1, 2)
        change = jnp.einsum("sgbi,sgio->sgbo", action - executed, own_SNAW)
        value = rest(from_joint(joint_SBD, layers) + change, layers[1:], self.norm).sum() / self.B
        penalty = jnp.sum(jnp.where(allowed, logits, 0.0) ** 2 / allowed.sum(-1, keepdims=True)) / self.B
        return case["logit_penalty"] * penalty - value - case["signalling"] * self.bonus(logits)

    def bonus(self, logits_SNBA: Any) -> Any:
        """H(mean over the batch of pi) - k * mean H(pi), of all replicas and message heads."""
        total = 0.0
        for agent, start, size in self.case["bonuses"]:
            log_p = jax.nn.log_softmax(logits_SNBA[:, agent, :, start : start + size], -1)
            p = jnp.exp(log_p)
            mean = p.mean(1)
            marginal = -jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-12)))
            total += marginal + self.case["signalling_k"] * jnp.sum(p * log_p) / self.B
        return total

    def adam(self, layers: Layers, gradient: Layers, moments: Any, step: Any, lr: float) -> tuple[Layers, Any]:
        """Clip every group's gradient by its norm and take Adam's step; parameters and moments."""
        squares = [jnp.sum(g * g, tuple(range(2, g.ndim))) for g in jax.tree.leaves(gradient)]
        scale_SG = jnp.minimum(self.case["max_grad_norm"] / (jnp.sqrt(sum(squares)) + 1e-6), 1.0)
        t = step.astype(jnp.float32)
        size, root = lr / (1 - 0.9**t), jax.lax.rsqrt(1 - 0.999**t)

        def mean(m: Any, g: Any) -> Any:
            return 0.9 * m + 0.1 * g

        def square(v: Any, g: Any) -> Any:
            return 0.999 * v + 0.001 * g * g

        gradient = jax.tree.map(lambda g: g * scale_SG.reshape(*scale_SG.shape, *[1] * (g.ndim - 2)), gradient)
        means, squares = jax.tree.map(mean, moments[0], gradient), jax.tree.map(square, moments[1], gradient)
        moved = jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) * root + 1e-8), layers, means, squares)
        return moved, (means, squares)

    def __call__(self, state: State, batch: Batch, target_noise: Any, relabel_noise: Any, own_noise: Any) -> State:
        """The state after one update; noise [S, N or n, B, A]."""
        case, step = self.case, state["step"] + 1
        y_SNB = self.targets(state, batch, target_noise)
        joint = self.relabelled(state, batch, relabel_noise)
        new, moments = {}, {}
        gradient = jax.grad(self.critic_loss)(state["critic"], joint, y_SNB)
        new["critic"], moments["critic"] = self.adam(
            state["critic"], gradient, state["moments"]["critic"], step, case["critic_lr"]
        )
        gradient = jax.grad(self.actor_loss)(state["actor"], new["critic"], joint, own_noise)
        new["actor"], moments["actor"] = self.adam(
            state["actor"], gradient, state["moments"]["actor"], step, case["actor_lr"]
        )
        for name in ("actor", "critic"):
            target = state[f"target_{name}"]
            new[f"target_{name}"] = jax.tree.map(lambda x, y: x + case["tau"] * (y - x), target, new[name])
        return {**state, **new, "moments": moments, "step": step}

    def batch_of(self, rows_SBC: Any) -> Batch:
        """The fields of stored rows."""
        S, N, n = rows_SBC.shape[0], self.N, len(self.senders)
        at = self.case["columns"]

        def cut(name: str, width: int) -> Any:
            return rows_SBC[..., at[name] : at[name] + width]

        def per_agent(x: Any, count: int) -> Any:
            return x.reshape(S, self.B, count, -1).swapaxes(1, 2)

        prev = per_agent(cut("prev_obs", n * self.O), n) if n else jnp.zeros((S, 0, self.B, self.O))
        return Batch(
            joint=cut("joint", N * (self.O + self.A)),
            prev_obs=prev,
            first=cut("first", 1)[..., 0],
            reward=cut("reward", N).swapaxes(1, 2),
            discount=cut("discount", N).swapaxes(1, 2),
            next_obs=per_agent(cut("next_obs", N * self.O), N),
        )

    def drawn(self, state: State, store_SCD: Any) -> State:
        """The state after an update from a batch and noise that are drawn here."""
        key, rows, noise = jax.random.split(state["key"], 3)
        (S, stored), N = store_SCD.shape[:2], self.N
        index_SB = jax.random.randint(rows, (S, self.B), 0, stored)
        rows_SBC = jax.vmap(lambda x, index: x.at[index].get(mode="promise_in_bounds"))(store_SCD, index_SB)
        gumbel = jax.random.gumbel(noise, (S, 2 * N + len(self.senders), self.B, self.A))
        parts = gumbel[:, :N], gumbel[:, 2 * N :], gumbel[:, N : 2 * N]
        return {**self(state, self.batch_of(rows_SBC), *parts), "key": key}

    def scanned(self, state: State, store_SCD: Any) -> State:
        """The state after sixteen of `drawn`."""
        return jax.lax.scan(lambda s, _: (self.drawn(s, store_SCD), None), state, None, length=UPDATES)[0]


# ------------------------------------------------------------------------- worker
class Worker:
    """One case with its compiled forms."""

    def __init__(self, file: str) -> None:
        self.case = json.loads(Path(file).read_text())
        self.arrays = np.load(Path(file).with_suffix(".npz"))
        self.update = Update(self.case)
        self.store = jnp.array(self.arrays["store"])
        compiled = partial(jax.jit, donate_argnums=0)
        self.forms = {
            "JAX, jit": (compiled(self.update.drawn), UPDATES),
            "JAX, scan": (compiled(self.update.scanned), 1),
        }
        self.states = {name: state_of(self.case, self.arrays) for name in self.forms}
        for name in self.forms:
            self.play(name)

    def play(self, name: str) -> None:
        """Sixteen updates."""
        function, calls = self.forms[name]
        state = self.states[name]
        for _ in range(calls):
            state = function(state, self.store)
        self.states[name] = jax.block_until_ready(state)

    def check(self, file: str, into: str) -> None:
        """One update from the batch and noise of a file; the parameters into another."""
        given = np.load(file)
        batch = Batch(*(jnp.array(given[name]) for name in Batch._fields))
        noise = [jnp.array(given[name]) for name in ("target", "relabel", "own")]
        state = jax.jit(self.update)(state_of(self.case, self.arrays), batch, *noise)
        np.savez(into, **{name: flat_of(state[name]) for name in NETWORKS})

    def seconds(self, name: str, repeats: int) -> list[float]:
        results = []
        for _ in range(repeats):
            start = time.process_time()
            self.play(name)
            results.append(time.process_time() - start)
        return results


def main() -> None:
    """Serve requests until stdin ends."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    answers = os.fdopen(os.dup(1), "w")  # libraries may greet on stdout
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "case" in request:
                worker = Worker(request["case"])
                answer: dict[str, Any] = {"version": f"jax {jax.__version__}"}
            else:
                assert worker is not None, "a case must come first"
                if "check" in request:
                    worker.check(request["check"], request["into"])
                    answer = {}
                else:
                    answer = {"seconds": worker.seconds(request["time"], request["repeats"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
