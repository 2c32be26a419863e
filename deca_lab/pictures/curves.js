// Curves with values under the pointer and lines to choose: reads #curves-data, draws into #curves.
(() => {
  const data = JSON.parse(document.getElementById("curves-data").textContent);
  const home = document.getElementById("curves"), chart = home.querySelector("svg");
  const colours = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A89F00"];
  const dashes = ["", "7 3", "2 3", "9 3 2 3"];
  const look = k => ({ stroke: colours[k % 7], "stroke-dasharray": dashes[(k / 7 | 0) % 4] });
  const make = (tag, parent, attributes = {}, text = "") => {
    const node = tag.startsWith("svg:") ? document.createElementNS(chart.namespaceURI, tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return parent.appendChild(node);
  };
  const show = v => v === null ? "–" : Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(+v.toPrecision(4));
  const select = (label, options, parent) => {
    const node = make("select", make("label", parent, {}, label + " "));
    for (const [value, text] of options) make("option", node, { value }, text);
    node.onchange = draw;
    return node;
  };
  const bar = make("p", home);
  const measure = select("Show", data.measures.map(m => [m.name, m.label]), bar);
  const axis = select("against", data.axes.map(a => [a, a]), bar);
  home.append(chart);
  const reading = make("p", home, { class: "reading" });
  const list = make("fieldset", home);
  make("legend", list, {}, "Lines");
  const boxes = data.lines.map((line, k) => {
    const label = make("label", list), box = make("input", label, { type: "checkbox" });
    const swatch = make("svg:svg", label, { class: "swatch" });
    make("svg:line", swatch, { x1: 0, y1: 6, x2: 24, y2: 6, ...look(k) });
    make("span", label, {}, line.name);
    box.checked = line.shown;
    box.onchange = draw;
    return box;
  });
  let at = null, stops = [], mark = null, lines = [];

  function ticks(low, high, log) {
    if (log && high - low >= 1) return Array.from({ length: Math.floor(high) - Math.ceil(low) + 1 }, (_, i) => Math.ceil(low) + i);
    const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find(m => m * power >= raw) * power;
    return Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step) + i) * step).filter(t => t <= high + step / 1e6);
  }

  function draw() {
    const width = home.clientWidth;
    if (!width) return; // folded away
    const chosen = at === null ? null : stops[at][0]; // a new width must not take the reading away
    const height = Math.max(240, Math.min(400, width * 0.55)), left = 58, bottom = 44, top = 10, right = 12;
    const { label, log } = data.measures[measure.selectedIndex];
    const put = v => v === null ? null : log ? (v > 0 ? Math.log10(v) : null) : v;
    lines = data.lines.map((line, k) => ({ k, name: line.name, x: line.x[axis.value], raw: line.y[measure.value] }));
    lines.forEach(line => { boxes[line.k].disabled = !line.raw; });
    lines = lines.filter(line => line.raw && boxes[line.k].checked);
    const points = lines.flatMap(line => line.raw.map((v, i) => [line.x[i], put(v)])).filter(p => p[0] !== null && p[1] !== null);
    chart.replaceChildren();
    reading.textContent = points.length ? "Point at the chart, or use the arrow keys, for values." : "No line that has this measure is chosen.";
    chart.setAttribute("width", width);
    chart.setAttribute("height", height);
    chart.setAttribute("aria-label", `${label} against ${axis.value}: ${lines.map(line => line.name).join(", ")}`);
    if (!points.length) { stops = []; at = null; return; }
    const range = i => { const v = points.map(p => p[i]), a = Math.min(...v), b = Math.max(...v); return a < b ? [a, b] : [a - Math.abs(a) / 10 - 1e-9, b + Math.abs(b) / 10 + 1e-9]; };
    const [x0, x1] = range(0), [y0, y1] = range(1);
    const X = v => left + (v - x0) / (x1 - x0) * (width - left - right), Y = v => height - bottom - (v - y0) / (y1 - y0) * (height - bottom - top);
    for (const t of ticks(y0, y1, log)) {
      make("svg:line", chart, { class: "grid", x1: left, x2: width - right, y1: Y(t), y2: Y(t) });
      make("svg:text", chart, { x: left - 6, y: Y(t) + 4, "text-anchor": "end" }, show(log ? 10 ** t : t));
    }
    for (const t of ticks(x0, x1, false)) make("svg:text", chart, { x: X(t), y: height - bottom + 18, "text-anchor": "middle" }, show(t));
    make("svg:text", chart, { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, axis.value);
    for (const line of lines) {
      let d = "", pen = "M";
      line.raw.forEach((v, i) => {
        const y = put(v);
        if (y === null || line.x[i] === null) { pen = "M"; return; }
        d += `${pen}${X(line.x[i]).toFixed(1)} ${Y(y).toFixed(1)}`;
        pen = "L";
      });
      make("svg:path", chart, { class: "line", d, ...look(line.k) });
    }
    mark = make("svg:line", chart, { class: "mark", y1: top, y2: height - bottom, visibility: "hidden" });
    stops = [...new Set(lines.flatMap(line => line.x))].filter(v => v !== null).sort((a, b) => a - b).map(v => [v, X(v)]);
    at = null;
    const again = stops.findIndex(stop => stop[0] === chosen);
    if (again >= 0) read(again);
  }

  function read(index) {
    if (!stops.length) return;
    at = Math.max(0, Math.min(stops.length - 1, index));
    const [value, place] = stops[at];
    for (const end of ["x1", "x2"]) mark.setAttribute(end, place);
    mark.setAttribute("visibility", "visible");
    reading.replaceChildren();
    make("b", reading, {}, `${axis.value} ${show(value)}: `);
    for (const line of lines) {
      const i = line.x.indexOf(value);
      if (i >= 0) make("span", reading, {}, `${line.name} ${show(line.raw[i])}`);
    }
  }

  chart.addEventListener("pointermove", event => {
    const x = event.clientX - chart.getBoundingClientRect().left;
    read(stops.reduce((best, stop, i) => Math.abs(stop[1] - x) < Math.abs(stops[best][1] - x) ? i : best, 0));
  });
  chart.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { read(at === null ? 0 : at + by); event.preventDefault(); }
  });
  new ResizeObserver(draw).observe(home);
})();
