// Pictures with knobs: shows, for the values that the reader chose, the picture that was drawn beforehand; one draws itself.
"use strict";

function control(knob, chosen, moved) {
  const field = document.createElement("fieldset");
  const legend = field.appendChild(document.createElement("legend"));
  legend.textContent = knob.about;
  if (typeof knob.values[0] === "string") {
    const group = `knob-${knob.name}-${Math.random()}`;
    knob.values.forEach((value, k) => {
      const label = field.appendChild(document.createElement("label"));
      const input = Object.assign(document.createElement("input"), { type: "radio", name: group, checked: k === chosen });
      input.addEventListener("change", () => moved(k));
      label.append(input, value);
    });
    return field;
  }
  const range = { type: "range", min: 0, max: knob.values.length - 1, step: 1, value: chosen };
  const input = field.appendChild(Object.assign(document.createElement("input"), range));
  const shown = field.appendChild(document.createElement("output"));
  const tell = () => {
    shown.textContent = knob.values[input.value];
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.setAttribute("aria-label", knob.about);
  input.addEventListener("input", () => { tell(); moved(Number(input.value)); });
  tell();
  return field;
}

function mount(figure) {
  const { knobs, first, frames, draw } = window.decaKnobs[figure.dataset.widget];
  if (draw) return draw(figure);
  const image = figure.querySelector("img"), caption = figure.querySelector("figcaption");
  const script = document.querySelector(`script[src$="knobs/${figure.dataset.widget}.js"]`);
  const folder = script.src.replace(/\.js$/, "");
  const at = [...first];
  const show = () => {
    const [file, words] = frames[at.reduce((sum, k, i) => sum * knobs[i].values.length + k, 0)];
    image.hidden = !file;
    if (file) image.src = `${folder}/${file}`;
    image.alt = caption.textContent = words;
  };
  const form = document.createElement("form");
  knobs.forEach((knob, i) => form.append(control(knob, at[i], (k) => { at[i] = k; show(); })));
  figure.prepend(form);
  show();
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure.knobs").forEach(mount));
