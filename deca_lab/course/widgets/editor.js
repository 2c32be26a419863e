// The topology editor: drag from one client to another, and the edge between them comes, or goes. The same script serves the
// live notebook and the book: what W, its spectrum and its mixings are is computed here, and compared with the library's in tests.
"use strict";

const decaEditor = (() => {
  const MIXINGS = 24, FLOOR = 1e-7, RADIUS = 112, NEAR = 30, WIDE = 260; // NEAR: how near to a client a drag may end; WIDE: a panel
  const BLUE = "#0072B2", ORANGE = "#E69F00", RED = "#D55E00", SKY = "#CFE9F8", INK = "#222222";
  const STYLE = `
    .deca-editor { color: var(--jp-content-font-color1, inherit); font-size: .9rem; line-height: 1.35; max-width: 60rem; }
    .deca-editor form, .deca-editor .panels { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; align-items: end; }
    .deca-editor .panels { align-items: start; justify-content: center; gap: .4rem .8rem; }
    .deca-editor label { display: grid; gap: .15rem; }
    .deca-editor svg { flex: 1 1 13rem; min-width: 0; max-width: 20rem; height: auto; } /* three in 44rem, one on a phone */
    .deca-editor svg text { fill: currentColor; font: 13.5px system-ui, sans-serif; }
    .deca-editor [role=button] { cursor: grab; touch-action: none; outline: none; }
    .deca-editor [role=button]:focus-visible circle, .deca-editor [role=button].chosen circle { stroke: ${ORANGE}; stroke-width: 5; }
    .deca-editor [role=button] text { fill: ${INK}; pointer-events: none; }
    .deca-editor p { margin: .3rem 0; }`;

  const range = (n) => [...Array(n).keys()];
  const key = (i, j) => `${Math.min(i, j)}-${Math.max(i, j)}`;

  function make(name, facts = {}, inside = []) {
    const drawn = ["svg", "g", "line", "circle", "polyline", "text", "path"].includes(name);
    const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [fact, value] of Object.entries(facts)) made.setAttribute(fact, value);
    made.append(...[inside].flat());
    return made;
  }

  // ---- W, its eigenvalues and its mixings

  function metropolis(n, edges, lazy) {
    const degree = range(n).map((i) => edges.filter((edge) => edge.includes(i)).length);
    const W = range(n).map(() => Array(n).fill(0));
    for (const [i, j] of edges) W[i][j] = W[j][i] = (1 - lazy) / (1 + Math.max(degree[i], degree[j]));
    W.forEach((row, i) => { row[i] = 1 - row.reduce((sum, share) => sum + share, 0); });
    return W;
  }

  // Jacobi's turns: A becomes diagonal, V holds the eigenvectors as columns.
  function eigen(W) {
    const n = W.length, A = W.map((row) => [...row]), V = range(n).map((i) => range(n).map((j) => Number(i === j)));
    const turn = (M, [p, q], c, s, rows) => range(n).forEach((k) => {
      const [a, b] = rows ? [M[p][k], M[q][k]] : [M[k][p], M[k][q]];
      const [x, y] = [c * a - s * b, s * a + c * b];
      if (rows) { M[p][k] = x; M[q][k] = y; } else { M[k][p] = x; M[k][q] = y; }
    });
    for (let sweep = 0; sweep < 30; sweep++) {
      for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) {
        if (Math.abs(A[p][q]) < 1e-300) continue;
        const theta = (A[q][q] - A[p][p]) / (2 * A[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const c = 1 / Math.hypot(t, 1), s = t * c;
        turn(A, [p, q], c, s, false); turn(A, [p, q], c, s, true); turn(V, [p, q], c, s, false);
      }
    }
    return range(n).map((i) => ({ value: A[i][i], vector: V.map((row) => row[i]) }));
  }

  const times = (W, X) => W.map((row) => X[0].map((_, d) => row.reduce((sum, share, j) => sum + share * X[j][d], 0)));

  function apart(X) {
    const mean = X[0].map((_, d) => X.reduce((sum, row) => sum + row[d], 0) / X.length);
    return Math.hypot(...X.flatMap((row) => row.map((x, d) => x - mean[d])));
  }

  function seen(n, edges, lazy, start) {
    const W = metropolis(n, edges, lazy), pairs = eigen(W);
    const steep = [...pairs].sort((a, b) => Math.abs(b.value) - Math.abs(a.value))[1];
    let X = start || steep.vector.map((x) => [x]);
    const first = apart(X), left = [1];
    for (let k = 0; k < MIXINGS; k++) { X = times(W, X); left.push(apart(X) / first); }
    const values = pairs.map((pair) => pair.value).sort((a, b) => b - a);
    return { W, values, rho: Math.abs(steep.value) < 1e-12 ? 0 : Math.abs(steep.value), left };
  }

  function island(n, edges) { // the clients that hear of client 0, sooner or later
    const reached = new Set([0]);
    for (let k = 0; k < n; k++) for (const [i, j] of edges) if (reached.has(i) || reached.has(j)) reached.add(i).add(j);
    return [...reached].sort((a, b) => a - b);
  }

  function words(name, n, edges, rho) {
    const who = `${name}, ${n} clients`, part = island(n, edges);
    if (part.length < n) return `${who}: unsound, rho = 1. Clients ${part.join(", ")} never hear of the others.`;
    const often = rho ? Math.max(1, Math.ceil(Math.log(1e-3) / Math.log(rho) - 1e-9)) : 1;
    return `${who}: rho = ${Number(rho.toPrecision(3))}, so it takes ${often} mixing${often > 1 ? "s" : ""} to shrink disagreement 1000-fold.`;
  }

  // ---- two panels beside the graph

  function panel(label, xlabel, ylabel, ticks) {
    const axis = { stroke: "currentColor", "stroke-opacity": 0.25 };
    const lines = ticks.map(([y, text]) => [
      make("line", { x1: 52, x2: WIDE - 8, y1: y, y2: y, ...axis }), make("text", { x: 46, y: y + 4, "text-anchor": "end" }, text)]);
    const names = [make("text", { x: (52 + WIDE) / 2, y: 292, "text-anchor": "middle" }, xlabel), make("text", { x: 4, y: 14 }, ylabel)];
    return make("svg", { viewBox: `0 0 ${WIDE} 340`, role: "img", "aria-label": label }, [...lines.flat(), ...names]);
  }

  function legend(svg, entries) {
    entries.forEach(([mark, text], k) => svg.append(
      make("g", { transform: `translate(60 ${313 + 20 * k})` }, [mark, make("text", { x: 22, y: 4 }, text)])));
  }

  const diamond = (x, y) => make("path", { d: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`, fill: "none", stroke: RED, "stroke-width": 1.5 });

  function spectrum({ values, rho }) {
    const y = (value) => 150 - 115 * value, x = (k) => 52 + ((k + 0.5) * (WIDE - 60)) / values.length;
    const svg = panel("Eigenvalues and singular values of W, and rho.", "number, largest first", "value (no unit)",
      [[y(1), "1"], [y(0), "0"], [y(-1), "-1"]]);
    const level = (x1, x2, at) => make("line", { x1, x2, y1: at, y2: at, stroke: ORANGE, "stroke-width": 2.5, "stroke-dasharray": "7 5" });
    svg.append(level(52, WIDE - 8, y(rho)));
    values.map(Math.abs).sort((a, b) => b - a).forEach((value, k) => svg.append(diamond(x(k), y(value))));
    values.forEach((value, k) => svg.append(make("circle", { cx: x(k), cy: y(value), r: 3.5, fill: BLUE })));
    legend(svg, [[level(0, 18, 0), "rho"]]);
    svg.append(make("g", { transform: "translate(125 313)" }, [diamond(8, 0), make("text", { x: 20, y: 4 }, "singular value")]),
      make("g", { transform: "translate(60 333)" }, [make("circle", { cx: 9, cy: 0, r: 3.5, fill: BLUE }), make("text", { x: 22, y: 4 }, "eigenvalue")]));
    return svg;
  }

  function curves({ rho, left }) {
    const y = (part) => 35 + (230 * Math.log10(Math.max(part, FLOOR))) / Math.log10(FLOOR), x = (k) => 52 + (k * (WIDE - 60)) / MIXINGS;
    const svg = panel("Disagreement over mixings, measured beside rho to the k.", "mixing k", "disagreement, share of the first",
      [0, -2, -4, -6].map((power) => [y(10 ** power), power ? `10${"⁻"}${"⁰¹²³⁴⁵⁶"[-power]}` : "1"]));
    const line = (at, facts) => make("polyline", { points: at, fill: "none", ...facts });
    const points = (parts) => parts.map((part, k) => `${x(k)},${y(part)}`).join(" ");
    const dashed = { stroke: ORANGE, "stroke-width": 2.5, "stroke-dasharray": "7 5" }, plain = { stroke: BLUE, "stroke-width": 2 };
    svg.append(line(points(left.map((_, k) => rho ** k)), dashed), line(points(left), plain));
    left.forEach((part, k) => svg.append(make("circle", { cx: x(k), cy: y(part), r: 2.5, fill: BLUE })));
    legend(svg, [[line("0,0 18,0", dashed), "promised: rho to the k"], [line("0,0 18,0", plain), "measured by gossip"]]);
    return svg;
  }

  // ---- the graph, which one drags on

  function graph(turn) {
    const edges = make("g"), band = make("line", { stroke: ORANGE, "stroke-width": 4, visibility: "hidden" }), clients = make("g");
    const svg = make("svg", { viewBox: `${150 - WIDE / 2} 0 ${WIDE} 340`, role: "group", "aria-label": "Graph: drag from one client to another" }, [edges, band, clients]);
    svg.append(make("text", { x: 150, y: 313, "text-anchor": "middle" }, "line width: the share taken"));
    let spots = [], from = null, moved = false;
    const choose = (i) => {
      from = i;
      [...clients.children].forEach((one, k) => { one.classList.toggle("chosen", k === i); one.setAttribute("aria-pressed", k === i); });
      band.setAttribute("visibility", "hidden");
    };
    const take = (i) => { if (from === null || from === i) return choose(from === i ? null : i); const [a, b] = [from, i]; choose(null); turn(a, b); };
    const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const nearest = ({ x, y }) => spots.findIndex(([a, b]) => Math.hypot(a - x, b - y) < NEAR);
    svg.addEventListener("pointerdown", (event) => {
      const i = nearest(place(event));
      moved = false;
      if (i < 0) return choose(null);
      event.preventDefault();
      svg.setPointerCapture(event.pointerId);
      clients.children[i].focus();
      take(i);
    });
    svg.addEventListener("pointermove", (event) => {
      if (from === null || !event.buttons) return;
      const { x, y } = place(event), [x1, y1] = spots[from];
      moved ||= Math.hypot(x - x1, y - y1) > NEAR;
      for (const [fact, value] of Object.entries({ x1, y1, x2: x, y2: y, visibility: "visible" })) band.setAttribute(fact, value);
    });
    svg.addEventListener("pointerup", (event) => {
      if (from === null || !moved) return;
      const i = nearest(place(event));
      if (i < 0 || i === from) choose(null); else take(i);
    });
    svg.addEventListener("keydown", (event) => {
      const i = [...clients.children].indexOf(document.activeElement), n = spots.length;
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: n - 1, ArrowUp: n - 1 }[event.key];
      if (step && i >= 0) clients.children[(i + step) % n].focus();
      else if (i >= 0 && (event.key === "Enter" || event.key === " ")) take(i);
      else if (event.key === "Escape") choose(null);
      else return;
      event.preventDefault();
    });
    const stand = (n) => {
      spots = range(n).map((i) => [150 + RADIUS * Math.sin((2 * Math.PI * i) / n), 150 - RADIUS * Math.cos((2 * Math.PI * i) / n)]);
      clients.replaceChildren(...spots.map(([x, y], i) => make("g", { role: "button", tabindex: 0, "aria-label": `client ${i}`, "aria-pressed": false },
        [make("circle", { cx: x, cy: y, r: 15, fill: SKY, stroke: BLUE, "stroke-width": 1.5 }), make("text", { x, y: y + 4.5, "text-anchor": "middle" }, String(i))])));
      choose(null);
    };
    const join = (W, pairs) => {
      if (W.length !== spots.length) stand(W.length);
      edges.replaceChildren(...pairs.map(([i, j]) => make("line", { x1: spots[i][0], y1: spots[i][1], x2: spots[j][0], y2: spots[j][1],
        stroke: "currentColor", "stroke-opacity": 0.55, "stroke-width": 0.8 + 14 * W[i][j] })));
    };
    return { svg, join };
  }

  // ---- all of it in a place of the page

  function control(about, value, facts, moved) {
    const input = facts.options ? make("select", {}, facts.options.map((one) => make("option", {}, one))) : make("input", { type: "range", ...facts });
    const shown = make("span", {}, facts.options ? about : `${about}: ${value}`);
    input.value = value;
    input.addEventListener("input", () => {
      const now = facts.options ? input.value : Number(input.value);
      if (!facts.options) shown.textContent = `${about}: ${now}`;
      moved(now);
    });
    return make("label", {}, [shown, input]);
  }

  return (place, known, first) => {
    const state = { ...first, turned: {} }, said = make("p", { "aria-live": "polite" }), note = make("p"), panels = make("div", { class: "panels" });
    const back = make("button", { type: "button" }, "undo all edits"), at = () => `${state.graph} ${state.clients}`;
    const turned = () => state.turned[at()] ??= new Set();
    const { svg, join } = graph((i, j) => { if (!turned().delete(key(i, j))) turned().add(key(i, j)); draw(); });
    const draw = () => {
      const named = known.graphs[state.graph][state.clients], wrong = typeof named === "string";
      panels.hidden = wrong;
      back.disabled = !turned().size;
      if (wrong) { said.textContent = `No picture: ${named}`; note.textContent = ""; return; }
      const pairs = new Set(named.map(([i, j]) => key(i, j)));
      for (const pair of turned()) if (!pairs.delete(pair)) pairs.add(pair);
      const edges = [...pairs].map((pair) => pair.split("-").map(Number));
      const now = seen(state.clients, edges, state.lazy, state.start === known.random ? known.starts[state.clients] : null);
      join(now.W, edges);
      panels.replaceChildren(svg, spectrum(now), curves(now));
      Object.assign(place.dataset, { rho: now.rho, left: now.left[MIXINGS] });
      said.textContent = words(state.graph + (turned().size ? " (edited)" : ""), state.clients, edges, now.rho);
      note.textContent = `${edges.length} edges${turned().size ? `, turned: ${[...turned()].join(", ")}` : ""}. After ${MIXINGS} mixings the part ${
        Number(now.left[MIXINGS].toPrecision(3))} of the disagreement is left; rho promises at most ${Number((now.rho ** MIXINGS).toPrecision(3))}.`;
    };
    const set = (name) => (value) => { state[name] = value; draw(); };
    back.addEventListener("click", () => { turned().clear(); draw(); });
    const form = make("form", {}, [
      control("graph", state.graph, { options: Object.keys(known.graphs) }, set("graph")),
      control("clients N", state.clients, { min: 2, max: known.most, step: 1 }, set("clients")),
      control("lazy share s", state.lazy, { min: 0, max: 0.95, step: 0.05 }, set("lazy")),
      control("models X at first", state.start, { options: [known.random, "worst for this W"] }, set("start")), back]);
    const box = make("div", { class: "deca-editor" }, [make("style", {}, STYLE), form, said, panels, note]);
    said.style.fontWeight = "600";
    // JupyterLab leaves the keys to what has the focus and this word.
    box.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
    place.replaceChildren(box);
    draw();
  };
})();
