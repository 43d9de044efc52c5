// Gallery. Boxes are [x1, y1, x2, y2] in pixels of the original image; detections come best first.

(() => {
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

  /** The score from which a model counts on an image; a model without an operating point shows all it has. */
  const lowest = (model, image) => {
    const place = position();
    if (place) return slider.scores[place - 1];
    const own = data.scores[model];
    return own.length ? own[image.half] ?? Infinity : 0;
  };

  const visible = (detections, settings, score) => {
    const indices = detections.scores.map((_, i) => i).filter((i) => detections.scores[i] >= score);
    if (settings.mode === "shipped") return indices.filter((i) => detections.shipped[i]);
    return settings.mode === "nms" ? suppress(detections, indices, settings.iou) : indices;
  };

  /** Of each detection, best first: "right" for the first that covers its object best, "wrong", or "ignored". */
  const judge = (detections, indices, objects) => {
    const taken = new Set();
    return indices.map((i) => {
      let best = -1;
      let overlap = 0;
      let ignored = false;
      objects.boxes.forEach((box, k) => {
        if (objects.classes[k] !== detections.classes[i]) return;
        if (objects.crowd[k]) {
          ignored = ignored || shared(detections.boxes[i], box) >= 0.5 * area(detections.boxes[i]);
          return;
        }
        const value = iou(detections.boxes[i], box);
        if (value > overlap || (value === overlap && taken.has(best) && !taken.has(k))) [best, overlap] = [k, value];
      });
      if (overlap < 0.5) return ignored ? "ignored" : "wrong";
      if (taken.has(best)) return "wrong";
      taken.add(best);
      return "right";
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
    iou: Number(byId("gallery-iou").value),
  });

  const counted = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

  const showPanel = (panel, image, detections, model) => {
    const overlay = panel.querySelector("svg");
    const size = 12 * image.width / Math.max(1, overlay.clientWidth || 320);
    overlay.replaceChildren();
    overlay.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
    const truth = detections === undefined;
    const shown = truth ? image.objects : detections;
    const indices = truth ? shown.boxes.map((_, i) => i) : visible(shown, settings(), lowest(model, image));
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
      return showPanel(panel, image, i === 0 ? undefined : image.detections[i - 1], i - 1);
    }).join(" ");
  };

  const showAndSay = () => { byId("gallery-status").textContent = show(); };

  const step = (by) => {
    select.selectedIndex += by;
    showAndSay();
  };

  data.images.forEach((image, i) => {
    const option = document.createElement("option");
    const worst = image.worstOf.map((model) => data.labels[model]);
    option.textContent = `${i + 1}: ${image.name}${worst.length ? `, among the worst of ${worst.join(", ")}` : ""}`;
    select.append(option);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  form.addEventListener("change", showAndSay);  // once the hand is off the slider
  byId("gallery-previous").addEventListener("click", () => step(-1));
  byId("gallery-next").addEventListener("click", () => step(1));
  window.addEventListener("resize", show);
  if (operating) operating.addEventListener("change", showAndSay);
  moved.push(show);
  form.reset();
  app.hidden = false;
  show();
})();
