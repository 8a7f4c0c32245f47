// The game: parts, rounds, input, scores. `#script=agents` lets the trained actor take the reader's place, for tests.
"use strict";

(() => {
  const TICK = 250, GLIDE = 140; // ms: a step where time runs; the movement of one step otherwise
  const MOVES = { ArrowLeft: 1, ArrowRight: 2, ArrowDown: 3, ArrowUp: 4, a: 1, d: 2, s: 3, w: 4, " ": 0 };
  const $ = (id) => document.getElementById(id);
  const game = World.load(JSON.parse($("told").textContent));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const pairs = game.episodes.map((episode) => World.pair(game, episode));

  // ---------------------------------------------------------------- small pieces of the page
  // An element; text is only ever put in as text.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function mark(kind) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", "0 0 20 20");
    svg.setAttribute("aria-hidden", "true");
    const paths = ["M10 1a9 9 0 1 1 0 18a9 9 0 1 1 0-18z", "M10 1L20 19H0z", "M2 2h16v16H2z"];
    shape.setAttribute("d", paths[kind]);
    svg.append(shape);
    return make("span", { class: `mark mark-${kind}` }, svg, Words.MARKS[kind]);
  }

  const chip = (symbol) => make("span", { class: "chip" }, Words.letter(symbol));
  const number = (x, digits = 1) => x.toFixed(digits).replace(/^-(0(?:\.0*)?)$/, "$1").replace("-", "−");
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;

  // ---------------------------------------------------------------- parts
  function partsOf() {
    const { moves, speaks } = World, agents = game.agents;
    const listener = agents.findIndex((one) => moves(one) && !speaks(one));
    const speaker = agents.findIndex((one) => speaks(one) && !moves(one));
    if (listener < 0 || speaker < 0) return [{ key: "both", own: 0, mover: 1 }, { key: "watch", own: -1, mover: 0 }];
    return [
      { key: "listen", own: listener, mover: listener },
      { key: "speak", own: speaker, mover: listener },
      { key: "watch", own: -1, mover: listener },
    ];
  }
  const parts = partsOf();

  // part, phase: "intro", "play", "reveal", "end"; shown: what glides from the last step to this one
  const now = { part: parts[0], phase: "intro", round: 0, results: [], notes: [], peeked: false };
  const own = () => (now.part.own < 0 ? null : game.agents[now.part.own]);
  const steers = () => own() !== null && World.moves(own());
  const talks = () => own() !== null && World.speaks(own());
  const partner = () => (now.part.own < 0 ? game.agents.findIndex(World.speaks) : 1 - now.part.own);

  function choose(part) {
    stop();
    Object.assign(now, { part, phase: "intro", round: 0, results: [], notes: [], peeked: $("dictionary").open });
    now.clocked = part.key === "speak" || part.key === "watch";
    deal();
    const { title, intro } = Words.PARTS[part.key];
    card("", make("h2", {}, title), ...intro.map((text) => make("p", {}, text)), button("Start", begin));
    show();
  }

  function deal() {
    Object.assign(now, { world: World.start(game, game.episodes[now.round]), symbol: null, held: [], tapped: 0, acts: [] });
    glide(0);
  }

  function begin() {
    stop();
    deal();
    now.phase = "play";
    card("");
    if (now.part.key === "watch") run();
    show();
    document.activeElement.blur();
  }

  // ---------------------------------------------------------------- steps
  function run() {
    if (now.timer === undefined) now.timer = setInterval(() => advance(now.tapped || now.held.at(-1) || 0), TICK);
  }

  function stop() {
    clearInterval(now.timer);
    clearTimeout(now.later);
    now.timer = undefined;
  }

  function advance(move) {
    const choice = { move, say: now.symbol };
    step((i) => (i === now.part.own ? choice : World.act(game, now.world, i)));
    now.tapped = 0;
  }

  // One step of what `decide` tells of every agent.
  function step(decide) {
    glide(now.clocked ? TICK : GLIDE);
    now.acts.push(game.agents.map((_, i) => decide(i)));
    World.step(game, now.world, now.acts.at(-1));
    if (World.over(game, now.world)) reveal();
    show();
  }

  // The reader pushes. Where time runs, it starts to run, and a push holds until the next step at least.
  function push(move, held) {
    if (now.phase !== "play" || !steers()) return;
    if (talks() && now.symbol === null) return hint("Say a letter first.");
    if (!now.clocked) return advance(move);
    now.tapped = move;
    if (held && !now.held.includes(move)) now.held.push(move);
    run();
  }

  const release = (move) => (now.held = move === undefined ? [] : now.held.filter((one) => one !== move));

  function say(symbol) {
    if (now.phase !== "play" || !talks()) return;
    now.symbol = symbol;
    if (now.clocked) run();
    else if (!steers()) advance(0);
    show();
  }

  // ---------------------------------------------------------------- ends
  function nearest() {
    const p = now.world.pos[now.part.mover], marks = now.world.episode.landmarks;
    const far = marks.map((mark) => World.squared(mark, p));
    return far.indexOf(Math.min(...far));
  }

  // The letters of one agent in this round, each once, in order; the last one was never heard.
  const letters = (i) => [...new Set(now.acts.slice(0, -1).map((acts) => acts[i].say))];

  function reveal() {
    stop();
    now.phase = "reveal";
    const { total, episode } = now.world;
    now.results.push(total);
    const goal = episode.target[now.part.mover], last = now.round === game.episodes.length - 1;
    const heard = letters(partner()).map(chip), note = { points: number(total), parts: [] };
    if (now.part.key === "speak") note.parts = [letters(now.part.own).map(chip), ["→"], [mark(nearest())]];
    else if (now.part.key === "both") {
      const mine = episode.target[now.part.own];
      note.parts = [heard, ["="], [mark(mine)], ["·"], letters(now.part.own).map(chip), ["→"], [mark(nearest())]];
    } else note.parts = [heard, ["="], [mark(goal)]];
    now.notes.push(note);
    const where = { listen: "It was", both: "Yours was", watch: "It was", speak: "It went to" }[now.part.key];
    const shown = { both: episode.target[now.part.own], speak: nearest() }[now.part.key] ?? goal;
    const pair = number(game.scores.agents[now.round]);
    const text = own() ? `You ${number(total)}, the pair ${pair} (0 is perfect).` : `The pair: ${pair} (0 is perfect).`;
    const next = button(last ? "Result" : "Next", last ? finish : () => ((now.round += 1), begin()));
    card("slim", make("h2", {}, `${where} `, mark(shown)), make("p", {}, text), next);
    now.later = setTimeout(() => next.focus({ preventScroll: true }), 450); // no key that was meant for the game
  }

  // Points by name, over the rounds that were played.
  function points() {
    const part = (list) => mean(list.slice(0, now.results.length));
    const { still: zero, oracle, agents, silent } = game.scores;
    const span = part(oracle) - part(zero);
    const scaled = (list) => (span > 0 ? (100 * (part(list) - part(zero))) / span : 0);
    const all = { oracle, agents, silent, still: zero };
    if (own()) all.you = now.results;
    return Object.fromEntries(Object.entries(all).map(([name, list]) => [name, scaled(list)]));
  }

  function table() {
    const rows = Object.entries(points()).sort((a, b) => b[1] - a[1]);
    const list = make("dl", { class: "scores" });
    for (const [name, value] of rows) {
      const bar = make("i");
      bar.style.width = `${Math.max(0, Math.min(100, value))}%`;
      list.append(make("dt", name === "you" ? { class: "you" } : {}, Words.ROWS[name]));
      list.append(make("dd", { class: "track" }, bar), make("dd", { class: "points" }, number(value, 0)));
    }
    return list;
  }

  function finish() {
    stop();
    now.phase = "end";
    const result = points();
    const peeked = now.peeked && own() ? " The dictionary was open." : "";
    const other = now.part.key === "watch" ? parts[0] : parts[parts.length - 1];
    const again = button(own() ? "Again" : "Watch again", () => choose(now.part));
    const title = own() ? `${number(result.you, 0)} points` : "The trained pair";
    card("result", make("h2", {}, title), make("p", {}, Words.verdict(result) + peeked), table(), make("div",
      { class: "choices" }, again, button(Words.PARTS[other.key].name, () => choose(other), "second")));
    again.focus({ preventScroll: true });
    if (result.you > result.silent) celebrate();
    show();
  }

  function celebrate() {
    $("sky").replaceChildren(...Array.from({ length: 40 }, (_, k) => {
      const piece = make("i", { class: `confetti mark-${k % 3}` });
      const places = { at: (k * 37) % 100, after: ((k * 29) % 40) / 40, spin: 1 + (k % 4) };
      for (const [name, value] of Object.entries(places)) piece.style.setProperty(`--${name}`, value);
      return piece;
    }));
  }

  // ---------------------------------------------------------------- the page
  // What is said aside: on the board, or, when there is something to see there, in the place of the controls.
  function card(kind, ...content) {
    $(kind === "slim" ? "controls" : "field").append($("card"));
    $("card").className = `card ${kind}`;
    $("card").replaceChildren(...content);
    $("sky").replaceChildren();
  }

  const button = (text, act, kind = "") => make("button", { type: "button", class: `go ${kind}`, onclick: act }, text);
  const hint = (text) => ($("task").textContent = text);

  function bubble(id, symbol) {
    const text = Words.letter(symbol);
    if ($(id).textContent === text) return;
    $(id).textContent = text;
    $(id).classList.remove("new");
    void $(id).offsetWidth; // lets the animation start anew
    $(id).classList.add("new");
  }

  function show() {
    const { part, world, phase } = now, knows = own() && talks() ? world.episode.knows[part.own] : null;
    for (const tab of $("roles").children) tab.setAttribute("aria-pressed", String(tab.dataset.part === part.key));
    const told = Words.PARTS[part.key].task;
    if (phase === "intro") $("task").replaceChildren();
    else $("task").replaceChildren(told, ...(knows === null ? [] : [" ", mark(knows)]));
    $("partner-voice").hidden = !World.speaks(game.agents[partner()]);
    bubble("partner-letter", world.said[partner()]);
    $("own-voice").hidden = !talks();
    bubble("own-letter", now.symbol);
    $("round").textContent = `Round ${now.round + 1} of ${game.episodes.length}`;
    $("step").textContent = `step ${world.steps} of ${game.steps}`;
    $("ticks").style.setProperty("--done", world.steps / game.steps);
    $("letters").hidden = !talks();
    for (const key of $("letters").children) key.setAttribute("aria-pressed", String(Number(key.value) === now.symbol));
    $("pad").hidden = !steers();
    $("keys").textContent = Words.keys(part.key, now.clocked);
    $("pace").hidden = !own();
    $("pace").textContent = Words.pace(now.clocked);
    $("notes").replaceChildren(...game.episodes.map((_, k) => line(k)));
    const returned = `Return per round, in the mean: ${number(mean(now.results), 2)}.`;
    if (now.results.length) $("scores").replaceChildren(table(), make("p", { class: "small" }, returned));
    else $("scores").replaceChildren(make("p", { class: "small" }, "Yours, the trained pair's and others', after the first round."));
    repaint();
    $("about").replaceChildren(make("h2", {}, "How it works"), ...Words.about(part.key, game).map((t) => make("p", {}, t)));
  }

  function line(round) {
    const note = now.notes[round], item = make("li", {}, make("span", {}, String(round + 1)));
    if (note) item.append(...note.parts.flat(), make("span", { class: "pts" }, note.points));
    return item;
  }

  // How often the trained speaker meant what by each letter.
  function meanings() {
    const speaker = game.agents.find(World.speaks).name;
    return game.dictionary[speaker].map((counts, symbol) => {
      const all = counts.reduce((a, b) => a + b);
      const shares = counts.map((count, kind) => [count / all, kind]).filter(([share]) => share >= 0.01);
      shares.sort((a, b) => b[0] - a[0]);
      const said = shares.flatMap(([share, kind]) => [mark(kind), make("small", {}, `${Math.round(100 * share)} %`)]);
      return make("div", {}, chip(symbol), ...(all ? said : [make("small", {}, "never said")]));
    });
  }

  // ---------------------------------------------------------------- the picture
  function glide(ms) {
    const { world } = now;
    now.from = world.pos.map((p) => [...p]);
    Object.assign(now, { since: performance.now(), ms: still.matches ? 0 : ms });
  }

  function paint() {
    const { world, part, phase } = now, { target, knows, landmarks } = world.episode;
    const passed = now.ms ? Math.min(1, (performance.now() - now.since) / now.ms) : 1;
    const eased = now.clocked ? passed : passed * (2 - passed);
    const ended = phase === "reveal" || phase === "end", pair = pairs[now.round];
    const pulses = talks() && phase === "play" && world.steps === 0;
    const rings = {};
    if (ended) target.forEach((k) => k !== null && (rings[k] = 1));
    else if (part.key === "watch") rings[target[part.mover]] = 0.5;
    else if (talks() && phase === "play") rings[knows[part.own]] = pulses ? (1 + Math.sin(performance.now() / 300)) / 2 : 0.5;
    const heads = game.agents.flatMap((agent, i) => (World.moves(agent) ? [i] : [])).map((i) => ({
      position: world.pos[i].map((x, axis) => now.from[i][axis] + (x - now.from[i][axis]) * eased),
      velocity: world.vel[i],
      trail: world.trail[i],
      label: i === part.own && (world.steps === 0 || ended) ? "you" : "",
      own: i === part.own,
      glad: ended && World.squared(world.pos[i], World.goal(world, i)) < 0.03,
      coasts: phase === "play" && i === part.own,
    }));
    const ghosts = ended && own() ? game.agents.flatMap((agent, i) => (World.moves(agent) ? [pair.trail[i]] : [])) : [];
    Board.draw($("board"), { landmarks, names: Words.MARKS, heads, rings, ghosts });
    return passed < 1 || (pulses && !still.matches);
  }

  // Paints before the next frame of the screen, and goes on while anything moves.
  function repaint() {
    now.frame ??= requestAnimationFrame(() => {
      now.frame = undefined;
      if (paint()) repaint();
    });
  }

  // ---------------------------------------------------------------- input
  function prepare() {
    for (const part of parts) {
      const tab = { type: "button", "data-part": part.key, onclick: () => choose(part) };
      $("roles").append(make("button", tab, Words.PARTS[part.key].name));
    }
    const symbols = Math.max(...game.agents.map((agent) => agent.heads.message || 0));
    $("letters").classList.add(symbols > 5 ? "many" : "few");
    $("letters").style.setProperty("--across", symbols > 5 ? Math.ceil(symbols / 2) : symbols);
    for (let k = 0; k < symbols; k++) {
      $("letters").append(make("button", { type: "button", value: k, onclick: () => say(k) }, Words.letter(k)));
    }
    for (const key of $("pad").querySelectorAll("button")) {
      const move = Number(key.dataset.move);
      key.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the key must not take the focus: space is a move
        push(move, true);
      });
      key.addEventListener("click", (event) => event.detail === 0 && push(move, false)); // by keyboard
    }
    for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => release());
    addEventListener("keyup", (event) => release(MOVES[plain(event)]));
    addEventListener("keydown", pressed);
    addEventListener("resize", repaint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    const picture = `The marks red, green and blue, and ${game.agents.filter(World.moves).length} moving`;
    $("board").setAttribute("aria-label", picture);
    $("pace").addEventListener("click", () => {
      stop();
      now.clocked = !now.clocked;
      show();
    });
    $("dictionary").addEventListener("toggle", () => (now.peeked = now.peeked || $("dictionary").open));
    $("meanings").append(
      make("small", {}, "What the trained speaker meant by each letter, in a hundred other rounds."), ...meanings());
    $("source").textContent = `${game.task}, ${game.source}`;
  }

  const plain = ({ key }) => (key.length === 1 ? key.toLowerCase() : key);

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || now.phase !== "play") return;
    const key = plain(event);
    if (key === " " && document.activeElement instanceof HTMLButtonElement) return; // presses that button
    const symbol = /^\d$/.test(key) ? (Number(key) + 9) % 10 : steers() ? -1 : key.charCodeAt(0) - 97;
    const letter = key.length === 1 && talks() ? $("letters").children[symbol] : undefined;
    if (letter) say(symbol);
    else if (key in MOVES && steers()) {
      event.preventDefault(); // the page must not scroll
      if (!event.repeat || performance.now() - now.since > GLIDE) push(MOVES[key], true);
    }
  }

  // ---------------------------------------------------------------- the scripted reader
  function script() {
    const trace = {};
    for (const part of parts) {
      choose(part);
      const rounds = game.episodes.map((_, k) => {
        now.round = k;
        begin();
        stop();
        while (now.phase === "play") {
          const { move, say: symbol } = part.own < 0 ? { move: 0, say: null } : World.act(game, now.world, part.own);
          now.symbol = symbol;
          advance(move);
        }
        return { total: now.world.total, trail: now.world.trail, acts: now.acts };
      });
      finish();
      trace[part.key] = { rounds, points: points(), words: $("card").innerText };
    }
    document.body.append(make("pre", { id: "trace", hidden: "" }, JSON.stringify(trace)));
  }

  prepare();
  choose(parts[0]);
  if (location.hash === "#script=agents") script();
})();
