"use strict";

(() => {
  const byId = (id) => document.getElementById(id);

  // Tables: a heading sorts by its column, again turns the order; rows without a value stay last.

  const compare = (a, b) => {
    const numbers = [Number(a), Number(b)];
    return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
  };

  const sortBy = (table, column, direction) => {
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      return direction * compare(value(a), value(b));
    });
    body.append(...rows);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const sorted = heading.getAttribute("aria-sort");
        const first = column === 0 ? "ascending" : "descending";
        const other = column === 0 ? "descending" : "ascending";
        const order = sorted === first ? other : first;
        headings.forEach((other) => other.setAttribute("aria-sort", other === heading ? order : "none"));
        sortBy(table, column, order === "ascending" ? 1 : -1);
      });
    });
  }

  // Paper shows what is folded away.

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => { details.open = true; });
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((details) => { details.open = false; });
  });

  // Gallery. Boxes are [x1, y1, x2, y2] in pixels of the original image; detections come best first.

  const data = JSON.parse(byId("gallery-data").textContent);
  const app = byId("gallery-app");
  if (!app || !data.images.length) return;

  const area = (box) => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);

  const shared = (a, b) => area([
    Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3]),
  ]);

  const iou = (a, b) => {
    const common = shared(a, b);
    return common === 0 ? 0 : common / (area(a) + area(b) - common);
  };

  /** Indices that class-wise NMS leaves. */
  const suppress = (detections, indices, threshold) => {
    const kept = [];
    for (const i of indices) {
      const again = kept.some((j) => detections.classes[i] === detections.classes[j]
        && iou(detections.boxes[i], detections.boxes[j]) > threshold);
      if (!again) kept.push(i);
    }
    return kept;
  };

  const visible = (detections, settings) => {
    const indices = detections.scores.map((_, i) => i).filter((i) => detections.scores[i] >= settings.score);
    if (settings.mode === "shipped") return indices.filter((i) => detections.shipped[i]);
    return settings.mode === "nms" ? suppress(detections, indices, settings.iou) : indices;
  };

  /** Gives each detection, best first, the object of its class that it covers best: "right", "wrong", or "ignored". */
  const judge = (detections, indices, objects) => {
    const taken = new Set();
    return indices.map((i) => {
      let best = -1;
      let overlap = 0.5;
      let ignored = false;
      objects.boxes.forEach((box, k) => {
        if (objects.classes[k] !== detections.classes[i]) return;
        if (objects.crowd[k]) {
          ignored = ignored || shared(detections.boxes[i], box) >= 0.5 * area(detections.boxes[i]);
          return;
        }
        const value = iou(detections.boxes[i], box);
        if (!taken.has(k) && value >= overlap) [best, overlap] = [k, value];
      });
      if (best >= 0) taken.add(best);
      return best >= 0 ? "right" : ignored ? "ignored" : "wrong";
    });
  };

  const hue = (index) => `hsl(${Math.round((index * 137.508 + 50) % 360)} 95% 72%)`;

  const element = (parent, name, attributes) => {
    const node = document.createElementNS(parent.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };

  const drawBox = (overlay, box, index, kind, text, size) => {
    const group = element(overlay, "g", { class: `box ${kind}` });
    const [x, y] = box;
    const place = { x, y, width: Math.max(0, box[2] - x), height: Math.max(0, box[3] - y) };
    element(group, "rect", { class: "halo", ...place });
    element(group, "rect", { class: "line", stroke: hue(index), ...place });
    if (text === "") return;
    const label = element(group, "text", {
      x: Math.max(x, 0) + size / 4, y: Math.max(y, 0) + size, "font-size": size, fill: hue(index),
    });
    label.textContent = text;
  };

  const select = byId("gallery-image");
  const labels = byId("gallery-labels");
  const panels = [...app.querySelectorAll(".frame")];
  const form = byId("gallery-controls");

  const settings = () => ({
    mode: form.elements.mode.value,
    score: Number(byId("gallery-score").value),
    iou: Number(byId("gallery-iou").value),
  });

  const counted = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

  const showPanel = (panel, image, detections) => {
    const overlay = panel.querySelector("svg");
    const size = 12 * image.width / Math.max(1, overlay.clientWidth || 320);
    overlay.replaceChildren();
    overlay.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
    const truth = detections === undefined;
    const shown = truth ? image.objects : detections;
    const indices = truth ? shown.boxes.map((_, i) => i) : visible(shown, settings());
    const kinds = truth ? indices.map((i) => (shown.crowd[i] ? "crowd" : "right")) : judge(shown, indices, image.objects);
    [...indices.keys()].reverse().forEach((k) => {  // the best on top
      const i = indices[k];
      const name = data.classes[shown.classes[i]];
      const text = truth ? name : `${name} ${shown.scores[i].toFixed(2)}`;
      drawBox(overlay, shown.boxes[i], shown.classes[i], kinds[k], labels.checked ? text : "", size);
    });
    const right = kinds.filter((kind) => kind === "right").length;
    const objects = image.objects.crowd.filter((crowd) => !crowd).length;
    const count = truth ? counted(objects, "object")
      : `${counted(indices.length, "box").replace("boxs", "boxes")}: ${right} right, `
        + `${kinds.filter((kind) => kind === "wrong").length} wrong or double; ${objects - right} missed`;
    panel.querySelector(".count").textContent = count;
    return `${panel.querySelector("figcaption").textContent}: ${count}.`;
  };

  const show = () => {
    const image = data.images[select.selectedIndex];
    const now = settings();
    byId("gallery-score-value").textContent = now.score.toFixed(2);
    byId("gallery-iou-value").textContent = now.iou.toFixed(2);
    byId("gallery-iou").disabled = now.mode !== "nms";
    byId("gallery-previous").disabled = select.selectedIndex === 0;
    byId("gallery-next").disabled = select.selectedIndex === data.images.length - 1;
    return panels.map((panel, i) => {
      const picture = panel.querySelector("img");
      if (picture.dataset.image !== String(select.selectedIndex)) {
        picture.dataset.image = String(select.selectedIndex);
        picture.src = image.picture;
        picture.alt = `${image.name}: ${panel.querySelector("figcaption").textContent}`;
        picture.width = image.width;
        picture.height = image.height;
      }
      return showPanel(panel, image, i === 0 ? undefined : image.detections[i - 1]);
    }).join(" ");
  };

  const showAndSay = () => { byId("gallery-status").textContent = show(); };

  const step = (by) => {
    select.selectedIndex += by;
    showAndSay();
  };

  data.images.forEach((image, i) => {
    const option = document.createElement("option");
    option.textContent = `${i + 1}: ${image.name}`;
    select.append(option);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  form.addEventListener("change", showAndSay);  // once the hand is off the slider
  byId("gallery-previous").addEventListener("click", () => step(-1));
  byId("gallery-next").addEventListener("click", () => step(1));
  window.addEventListener("resize", show);
  form.reset();
  app.hidden = false;
  show();
})();
