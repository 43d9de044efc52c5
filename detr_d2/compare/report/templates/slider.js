// The slider of the operating point. Position 0 is each model's own score, as the page was written; at the others
// all models have one score, and every figure that depends on it is put in place.

const slider = JSON.parse(byId("slider-data").textContent);
const operating = byId("operating");
const moved = [];  // functions that are called with the position
const position = () => (operating ? Number(byId("operating-score").value) : 0);

/** The figure of a model at a position, as in "extra" or "crowds.2"; null where there is none. */
const figureAt = (model, key, place) => {
  const point = slider.models[model]?.[place - 1];
  return key.split(".").reduce((value, name) => value?.[name] ?? null, point);
};

for (const cell of document.querySelectorAll("[data-live]")) {
  const { model, live, digits, most, unit } = cell.dataset;
  const text = cell.querySelector(".value");
  const own = { text: text.textContent, bar: cell.style.getPropertyValue("--bar") };
  moved.push((place) => {
    const value = place ? figureAt(Number(model), live, place) : null;
    const words = value === null ? "–" : value.toFixed(Number(digits)).replace("-", "−") + (unit && ` ${unit}`);
    text.textContent = place ? words : own.text;
    const bar = live === "score" || value === null ? "" : String(value / Number(most));
    cell.style.setProperty("--bar", place ? bar : own.bar);
  });
}

const numbersOf = (path) => path.getAttribute("d").match(/-?[\d.]+/g).map(Number);

const plots = [...document.querySelectorAll(".plot svg")].filter((plot) => plot.querySelector("[data-line]"));
for (const plot of plots) {
  const line = (name) => plot.querySelector(`[data-line="${name}"]`);
  const mark = line("score-0");
  if (mark) {
    const width = numbersOf(line("score-1").querySelector("path"))[0] - numbersOf(mark.querySelector("path"))[0];
    moved.push((place) => {
      mark.setAttribute("transform", place ? `translate(${slider.scores[place - 1] * width} 0)` : "");
    });
    continue;
  }
  const [, zero, , hundred] = numbersOf(line("scale").querySelector("path"));
  for (const group of plot.querySelectorAll("[data-line*='.']")) {
    const [model, key] = group.dataset.line.split(".");
    const path = group.querySelector("path");
    const marks = [...group.querySelectorAll("use")];
    const own = { d: path.getAttribute("d"), heights: marks.map((use) => use.getAttribute("y")) };
    const across = numbersOf(path).filter((_, i) => i % 2 === 0);
    moved.push((place) => {
      const values = (place && figureAt(Number(model), key, place) || []).filter((value) => value !== null);
      const heights = values.map((value) => zero + (hundred - zero) * value / 100);
      const fits = heights.length === across.length;
      group.style.visibility = place && !fits ? "hidden" : "";
      path.setAttribute("d", place && fits ? `M${across.map((x, i) => `${x} ${heights[i]}`).join("L")}` : own.d);
      marks.forEach((use, i) => { use.setAttribute("y", place && fits ? heights[i] : own.heights[i]); });
    });
  }
}

if (operating) {
  const move = () => {
    const place = position();
    const text = place ? `${slider.scores[place - 1].toFixed(2)} for all` : "each model’s own";
    byId("operating-value").textContent = text;
    byId("operating-score").setAttribute("aria-valuetext", text);
    byId("operating-reset").disabled = place === 0;
    document.body.classList.toggle("moved", place > 0);
    moved.forEach((change) => change(place));
  };
  operating.addEventListener("submit", (event) => event.preventDefault());
  operating.addEventListener("input", move);
  operating.addEventListener("reset", () => { setTimeout(move); });  // once the slider is back
  operating.reset();
  operating.hidden = false;
}
