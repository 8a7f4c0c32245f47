// The world of mpe2 and the trained actors, in plain functions. Numbers are float64, as in mpe2; what an actor sees is
// rounded to float32, as in mpe2.
"use strict";

const World = (() => {
  const DT = 0.1, DAMPING = 0.25, FORCE = 5;
  const PUSH = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]]; // none, left, right, down, up

  // Float32 numbers, the lowest byte first, from base64.
  function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 4 }, (_, k) => view.getFloat32(4 * k, true));
  }

  // The game as Python told it, with its weights as numbers.
  function load(told) {
    for (const agent of told.agents) {
      for (const layer of agent.actor.layers) {
        layer.weight = unpack(layer.weight);
        layer.bias = unpack(layer.bias);
      }
    }
    return told;
  }

  // ---------------------------------------------------------------- one episode
  function start(game, episode) {
    return {
      episode,
      steps: 0,
      total: 0, // return per agent so far
      pos: episode.agents.map((p) => [...p]),
      vel: episode.agents.map(() => [0, 0]),
      said: episode.agents.map(() => null), // nothing is said before the first step
      trail: episode.agents.map((p) => [[...p]]),
    };
  }

  const moves = (agent) => "move" in agent.heads;
  const speaks = (agent) => "message" in agent.heads;
  const over = (game, world) => world.steps >= game.steps;
  const squared = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2;

  // Where agent i is to go; null if nowhere.
  function goal(world, i) {
    const target = world.episode.target[i];
    return target === null ? null : world.episode.landmarks[target];
  }

  // One step with the actions [{move, say}] of all agents. mpe2's order: positions follow the old velocities.
  function step(game, world, actions) {
    actions.forEach((action, i) => {
      if (moves(game.agents[i])) {
        for (const axis of [0, 1]) {
          world.pos[i][axis] += world.vel[i][axis] * DT;
          world.vel[i][axis] = world.vel[i][axis] * (1 - DAMPING) + PUSH[action.move][axis] * FORCE * DT;
        }
      }
      world.said[i] = speaks(game.agents[i]) ? action.say : null;
      world.trail[i].push([...world.pos[i]]);
    });
    const costs = world.pos.flatMap((p, i) => (goal(world, i) ? [squared(p, goal(world, i)) ** (game.power / 2)] : []));
    world.total -= costs.reduce((a, b) => a + b) / costs.length;
    world.steps += 1;
  }

  // ---------------------------------------------------------------- an actor
  // What agent i observes.
  function observe(game, world, i) {
    const other = game.agents[1 - i], { episode, pos, vel, said } = world;
    const pieces = {
      velocity: () => vel[i],
      landmarks: () => episode.landmarks.flatMap((p) => [p[0] - pos[i][0], p[1] - pos[i][1]]),
      colour: () => episode.colours[episode.knows[i]],
      heard: () => Array.from({ length: other.heads.message }, (_, k) => Number(said[1 - i] === k)),
    };
    return game.agents[i].sees.flatMap((piece) => Array.from(pieces[piece]())).map(Math.fround);
  }

  // Numbers that rate every choice: linear layers, the hidden ones divided by their root mean square and rectified.
  function rate({ layers, normalised, eps }, input) {
    layers.forEach(({ width, weight, bias }, k) => {
      const sum = Array.from(bias);
      input.forEach((x, row) => {
        for (let o = 0; o < width; o++) sum[o] += x * weight[row * width + o];
      });
      const last = k === layers.length - 1;
      const mean = sum.reduce((a, x) => a + x * x, 0) / width;
      const scale = normalised ? 1 / Math.sqrt(mean + eps) : 1;
      input = last ? sum : sum.map((x) => Math.max(0, x * scale));
    });
    return input;
  }

  // The likeliest choice of every head of agent i.
  function act(game, world, i) {
    const { heads, actor } = game.agents[i];
    const rates = rate(actor, observe(game, world, i));
    const best = (list) => list.indexOf(Math.max(...list));
    const cut = heads.move || 0;
    return {
      move: cut ? best(rates.slice(0, cut)) : 0,
      say: heads.message ? best(rates.slice(cut)) : null,
    };
  }

  // The whole episode as the trained pair plays it.
  function pair(game, episode) {
    const world = start(game, episode);
    while (!over(game, world)) step(game, world, game.agents.map((_, i) => act(game, world, i)));
    return world;
  }

  return { act, goal, load, moves, over, pair, rate, speaks, squared, start, step };
})();
