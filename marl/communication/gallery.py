"""The pictures of one player's language, drawn from what an analysis recorded."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from envs.mpe import canonical_id
from envs.spec import EnvSpec
from marl.communication.analysis import Material, PlayerAnalysis
from marl.communication.figures import (
    action_field_figure,
    choice_names,
    field_layout,
    field_positions,
    protocol_figure,
    timeline_figure,
)
from marl.communication.measures.channels import Channel, Heard, responses_of, used_symbols
from marl.communication.measures.influence import Predictable, counterfactuals
from marl.communication.measures.interventions import Lines
from marl.figures.plots import interventions_figure

_MOST_ROWS = 6  # counterfactual symbols in a timeline

# MPE tasks whose receivers observe velocity (2), then each landmark's place relative to their own (2 each)
_LANDMARKS = {"simple_speaker_listener_v4": 3, "simple_reference_v3": 3}


def pictures(player: Predictable, result: PlayerAnalysis, material: Material, lines: Lines) -> dict[str, Figure]:
    """{file name without ending: figure} of what `analyse_player` returned."""
    spec = material.spec
    drawn: dict[str, Figure] = {}
    for k, (report, heard) in enumerate(zip(result.channels, material.heard, strict=True)):
        name = file_name(report.channel)
        drawn[f"protocol_{name}"] = protocol_figure(report)
        if report.influence:  # else there are no choices to show
            drawn[f"timeline_{name}"] = timeline(material, k)
        field = action_field(player, spec, heard)
        if field is not None:
            drawn[f"field_{name}"] = field
    if result.interventions:
        rows = [(name, one.team_return) for name, one in result.outcomes]
        team = result.team if len(spec.teams) > 1 else ()
        drawn["interventions"] = interventions_figure(rows, lines, team)
    return drawn


def file_name(text: str) -> str:
    """`speaker_0 -> listener_0` as `speaker_0_listener_0`."""
    return re.sub(r"[^\w]+", "_", text).strip("_")


def landmark_count(spec: EnvSpec) -> int | None:
    """Landmarks that a receiver sees right after its velocity; None where that is not how it observes."""
    return _LANDMARKS.get(canonical_id(spec.id) or "")


def timeline(material: Material, k: int, episode: int = 0) -> Figure:
    """One episode of channel k: distance to the goal below where the declared goal is a landmark, else the reward."""
    heard = material.heard[k]
    spec, channel = material.spec, heard.channel
    inside = heard.valid[:, episode]
    seen = {name: array[inside, episode] for name, array in heard.obs.items()}
    h = responses_of(spec, channel.receiver)[0]
    head = spec.agents[channel.receiver].heads[h]
    would_do = material.answers[k][inside, episode, :, h, : head.size].argmax(axis=-1)
    goals = None if heard.meanings.values is None else heard.meanings.values[inside, episode]
    assert material.played.rewards is not None and material.played.actions is not None
    below = heard.at_heard_steps(material.played.rewards)[inside, episode, channel.receiver]
    actions = heard.at_heard_steps(material.played.actions)[inside, episode, channel.receiver, h]
    name = "reward"
    if goals is not None and heard.meanings.one_hot and landmark_count(spec):
        mine = seen[spec.agent_names[channel.receiver]]
        places = mine[:, 2 : 2 + 2 * (landmark_count(spec) or 0)].reshape(len(mine), -1, 2)
        below = np.linalg.norm(places[np.arange(len(mine)), goals], axis=-1)
        name = "distance"
    return timeline_figure(
        title=f"{channel.name(spec)}, one episode",
        goals=None if goals is None else goals.tolist(),
        heard=heard.heard[inside, episode].tolist(),
        actions=actions.tolist(),
        would_do=would_do,
        choices=choice_names(head),
        used=sorted(used_symbols(heard)[:_MOST_ROWS]),
        below=below.tolist(),
        below_name=name,
    )


def action_field(player: Predictable, spec: EnvSpec, heard: Heard) -> Figure | None:
    """Where the listener would go from rest on a grid of places; None where its observation is not known."""
    channel, landmarks = heard.channel, landmark_count(spec)
    heads = spec.agents[channel.receiver].heads
    moves = [h for h in responses_of(spec, channel.receiver) if heads[h].name == "move" and heads[h].size == 5]
    if landmarks is None or not moves:
        return None
    places, positions = field_layout(landmarks), field_positions()
    observations = _field_observations(spec, channel, heard, places, positions)
    listener = spec.agent_names[channel.receiver]
    player.reset(len(positions))
    player.act({**observations, listener: channel.write(observations[listener], channel.symbols)})  # t = 0: silence
    answers = counterfactuals(player, spec, channel, observations)
    return action_field_figure(positions, answers[..., moves[0], :5], places, sorted(used_symbols(heard)[:6]))


def _field_observations(
    spec: EnvSpec, channel: Channel, heard: Heard, places: np.ndarray, positions: np.ndarray
) -> dict[str, np.ndarray]:
    """One recorded observation of everybody, with the receiver at rest at each position between the landmarks."""
    count = len(positions)
    observations = {name: np.repeat(array[0, :1], count, axis=0) for name, array in heard.obs.items()}
    mine = observations[spec.agent_names[channel.receiver]]
    mine[:, :2] = 0.0
    mine[:, 2 : 2 + 2 * len(places)] = (places[None] - positions[:, None]).reshape(count, -1)
    return observations
