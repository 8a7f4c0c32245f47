// The picture: landmarks, agents, where they came from and where they would coast to.
"use strict";

const Board = (() => {
  const REACH = 1.18; // half the side of the part of the world that is shown
  const COAST = 0.4; // what an agent without pushes still travels, for a velocity of 1: 0.1 / 0.25

  // Colours of the page, as they are now.
  function colours() {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  }

  // A canvas as sharp as the screen; the numbers of `place` are CSS pixels.
  function prepare(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const unit = Math.min(width, height) / 2 / REACH;
    const limit = (x, most) => Math.max(14, Math.min(most - 14, x)); // whoever leaves stays at the edge
    const place = ([x, y]) => [limit(width / 2 + x * unit, width), limit(height / 2 - y * unit, height)];
    return { pen, place, width, height, unit };
  }

  function grid({ pen, width, height, unit }, colour) {
    pen.fillStyle = colour("grid");
    const gap = unit * 0.2;
    for (let x = (width / 2) % gap; x < width; x += gap) {
      for (let y = (height / 2) % gap; y < height; y += gap) pen.fillRect(x - 1, y - 1, 2, 2);
    }
  }

  // A circle, a triangle, a square: marks differ in shape, not in colour alone.
  function outline(pen, kind, [x, y], r) {
    pen.beginPath();
    if (kind === 0) pen.arc(x, y, r, 0, 2 * Math.PI);
    else if (kind === 1) {
      pen.moveTo(x, y - 1.15 * r);
      pen.lineTo(x + 1.1 * r, y + 0.8 * r);
      pen.lineTo(x - 1.1 * r, y + 0.8 * r);
      pen.closePath();
    } else pen.roundRect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r, 3);
  }

  function landmark({ pen, place }, colour, position, kind, name, ring) {
    const [x, y] = place(position), r = 13;
    if (ring) {
      pen.strokeStyle = colour(`mark-${kind}`);
      pen.lineWidth = 3;
      pen.beginPath();
      pen.arc(x, y, 24 + 2 * ring, 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.fillStyle = colour(`mark-${kind}`);
    pen.lineJoin = "round";
    outline(pen, kind, [x, y], r);
    pen.fill();
    pen.font = "600 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(name, x, y + (ring ? 38 : 27));
  }

  function path({ pen, place }, tint, points, dashed) {
    pen.strokeStyle = pen.fillStyle = tint;
    pen.lineWidth = 2;
    pen.globalAlpha = 0.5;
    pen.setLineDash(dashed ? [5, 5] : []);
    pen.beginPath();
    points.forEach((p, k) => (k ? pen.lineTo(...place(p)) : pen.moveTo(...place(p))));
    pen.stroke();
    pen.setLineDash([]);
    if (!dashed) {
      for (const p of points) {
        pen.beginPath();
        pen.arc(...place(p), 2.5, 0, 2 * Math.PI);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
  }

  // A hollow ring where the agent would come to rest.
  function rest({ pen, place }, tint, position, velocity) {
    const end = place([position[0] + COAST * velocity[0], position[1] + COAST * velocity[1]]);
    const from = place(position);
    if (Math.hypot(end[0] - from[0], end[1] - from[1]) < 8) return;
    pen.strokeStyle = tint;
    pen.lineWidth = 2;
    pen.setLineDash([2, 4]);
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...end);
    pen.stroke();
    pen.setLineDash([]);
    pen.beginPath();
    pen.arc(...end, 7, 0, 2 * Math.PI);
    pen.stroke();
  }

  // A round head whose eyes look where it goes; glad at the end of a good round.
  function head({ pen, place }, colour, tint, position, velocity, label, glad) {
    const [x, y] = place(position), speed = Math.hypot(...velocity), r = 17;
    const look = speed > 0.02 ? [(velocity[0] / speed) * 4, (-velocity[1] / speed) * 4] : [0, 0];
    pen.fillStyle = tint;
    pen.strokeStyle = colour("board");
    pen.lineWidth = 3;
    pen.beginPath();
    pen.arc(x, y, r, 0, 2 * Math.PI);
    pen.stroke();
    pen.fill();
    for (const side of [-6, 6]) {
      pen.fillStyle = "#fff";
      pen.beginPath();
      pen.arc(x + side + look[0] * 0.7, y - 3 + look[1] * 0.7, 4.6, 0, 2 * Math.PI);
      pen.fill();
      pen.fillStyle = "#1b1630";
      pen.beginPath();
      pen.arc(x + side + look[0] * 1.1, y - 3 + look[1] * 1.1, 2.2, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.strokeStyle = "#fff";
    pen.lineWidth = 2;
    pen.lineCap = "round";
    pen.beginPath();
    if (glad) pen.arc(x + look[0] * 0.5, y + 4, 5, 0.15 * Math.PI, 0.85 * Math.PI);
    else {
      pen.moveTo(x - 3 + look[0] * 0.5, y + 8 + look[1] * 0.3);
      pen.lineTo(x + 3 + look[0] * 0.5, y + 8 + look[1] * 0.3);
    }
    pen.stroke();
    pen.lineCap = "butt";
    pen.fillStyle = tint;
    pen.font = "700 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText(label, x, y - r - 10);
  }

  // Everything. `heads` are [{position, velocity, trail, label, own, glad, coasts}], `rings` {landmark: size in [0, 1]},
  // `ghosts` the trails to compare with.
  function draw(canvas, { landmarks, names, heads, rings, ghosts }) {
    const colour = colours(), page = prepare(canvas);
    grid(page, colour);
    ghosts.forEach((points) => path(page, colour("soft"), points, true));
    const tint = ({ own }) => colour(own ? "accent" : "partner");
    heads.forEach((one) => path(page, tint(one), one.trail, false));
    landmarks.forEach((p, k) => landmark(page, colour, p, k, names[k], rings[k]));
    heads.filter((one) => one.coasts).forEach((one) => rest(page, tint(one), one.position, one.velocity));
    heads.forEach((one) => head(page, colour, tint(one), one.position, one.velocity, one.label, one.glad));
  }

  return { draw };
})();
