"use strict";
// The viewer: two images of one volume on either side of a divider, in three planes, with overlays. Everything it shows
// is in the page; it asks nobody for anything.

(() => {
  // --- data: base64 of gzip of one block a picture (medsr/page/viewer.py writes it) -----------------------------------

  async function unpack(base64) {
    const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // Undo the prediction of each voxel from its left, upper and upper left neighbour (the median of the LOCO-I coder).
  function decode(bytes, start, [nx, ny, nz]) {
    const count = nx * ny * nz, values = new Uint16Array(count);
    for (let i = 0; i < count; i++) {
      const x = i % nx, inRow = x > 0, below = Math.floor(i / nx) % ny > 0;
      const left = inRow ? values[i - 1] : 0, up = below ? values[i - nx] : 0;
      const corner = inRow && below ? values[i - nx - 1] : 0;
      const high = Math.max(left, up), low = Math.min(left, up);
      const guess = corner >= high ? low : corner <= low ? high : left + up - corner;
      const code = bytes[start + i] | (bytes[start + count + i] << 8);
      values[i] = guess + ((code & 1) ? -((code + 1) >> 1) : code >> 1);
    }
    return values;
  }

  // --- small helpers for elements ---------------------------------------------------------------------------------

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function labelled(text, control) { return element("label", {}, text, control); }

  function chooser(options, chosen) {
    const select = element("select");
    for (const [value, text] of options) select.append(new Option(text, value, false, value === chosen));
    return select;
  }

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const shown = (value) => Number(value.toPrecision(4)).toString().replace("-", "\u2212");

  // Blue below, orange above: told apart with any colour vision, and on grey. Uncertainty: grey to yellow.
  const BELOW = [64, 160, 255], ABOVE = [255, 132, 16], UNSURE = [240, 228, 66];

  // --- the viewer -------------------------------------------------------------------------------------------------

  class Viewer {
    constructor(host, facts, bytes) {
      this.host = host;
      this.facts = facts;
      const count = facts.shape[0] * facts.shape[1] * facts.shape[2];
      this.pictures = new Map(facts.pictures.map((p, n) => [p.name, { ...p, values: decode(bytes, 2 * count * n, facts.shape) }]));
      this.at = facts.shape.map((n) => n >> 1);
      this.split = 0.5;
      this.planes = facts.planes.map((plane) => ({ ...plane }));
      this.build();
      this.layout();
      new ResizeObserver(() => this.layout()).observe(this.stage);
    }

    // ---- controls

    build() {
      const { facts } = this;
      const images = facts.pictures.filter((p) => p.kind === "image").map((p) => [p.name, p.label]);
      this.left = chooser(images, facts.left);
      this.right = chooser(images, facts.right);
      this.overlay = chooser([["", "none"], ...facts.overlays.map((o) => [o.name, o.label])], "");
      this.strength = element("input", { type: "range", min: 0.2, max: 4, step: 0.1, value: 1 });
      this.slider = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
      this.preset = chooser(facts.windows.map((w) => [w.label, w.label]), facts.windows[0].label);
      this.centre = element("input", { type: "number", step: "any" });
      this.width = element("input", { type: "number", step: "any", min: 0 });
      this.presetChosen();
      const tools = element("div", { class: "tools" },
        labelled("Left", this.left), labelled("Right", this.right), labelled("Divider", this.slider),
        labelled("Overlay", this.overlay), labelled("Strength", this.strength), labelled("Window", this.preset),
        labelled("centre", this.centre), labelled("width", this.width), this.planeButtons());
      this.readout = element("output");
      this.legend = element("div", { class: "scale" });
      const planes = element("div", { class: "planes" });
      for (const plane of this.planes) planes.append(this.buildPlane(plane));
      this.stage = element("div", { class: "stage" }, tools, planes, this.legend, this.readout);
      this.host.append(this.stage);
      this.host.classList.add("alive");
      for (const control of [this.left, this.right, this.overlay]) control.addEventListener("change", () => this.draw());
      for (const control of [this.strength, this.centre, this.width]) control.addEventListener("input", () => this.draw());
      this.slider.addEventListener("input", () => { this.split = this.slider.value / 100; this.draw(); });
      this.preset.addEventListener("change", () => { this.presetChosen(); this.draw(); });
    }

    planeButtons() {
      const group = element("span", { role: "group", "aria-label": "Planes" });
      this.planeChoice = [["all", "All planes"], ...this.planes.map((p, n) => [String(n), p.name])].map(([value, text]) => {
        const choice = element("button", { type: "button", "aria-pressed": value === "all" }, text);
        choice.addEventListener("click", () => {
          for (const other of this.planeChoice) other.setAttribute("aria-pressed", other === choice);
          this.planes.forEach((plane, n) => { plane.box.hidden = value !== "all" && value !== String(n); });
          this.layout();
        });
        group.append(choice, " ");
        return choice;
      });
      return group;
    }

    buildPlane(plane) {
      const slices = this.facts.shape[plane.z];
      plane.canvas = element("canvas", { tabindex: 0, role: "img" });
      plane.input = element("input", { type: "range", min: 0, max: slices - 1, step: 1, value: this.at[plane.z], "aria-label": `${plane.name}: slice` });
      plane.caption = element("span");
      plane.box = element("div", { class: "plane" }, plane.canvas, element("label", {}, plane.caption, plane.input));
      plane.input.addEventListener("input", () => this.go(plane.z, Number(plane.input.value)));
      let travelled = 0;
      plane.canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        // A notch of a wheel is one slice; a touch pad sends many small steps, which add up.
        const delta = event.deltaMode === 0 ? event.deltaY : 100 * event.deltaY;
        travelled = Math.abs(delta) < 60 ? travelled + delta : 30 * Math.sign(delta);
        const steps = Math.trunc(travelled / 30);
        travelled -= 30 * steps;
        if (steps) this.go(plane.z, this.at[plane.z] + steps);
      }, { passive: false });
      plane.canvas.addEventListener("keydown", (event) => this.key(plane, event));
      plane.canvas.addEventListener("pointerdown", (event) => { plane.canvas.setPointerCapture(event.pointerId); this.drag(plane, event); });
      plane.canvas.addEventListener("pointermove", (event) => { if (event.buttons) this.drag(plane, event); this.read(plane, event); });
      plane.canvas.addEventListener("pointerleave", () => { this.readout.textContent = ""; });
      plane.canvas.addEventListener("dblclick", (event) => {
        const voxel = this.voxel(plane, event);
        this.go(plane.x, voxel[plane.x]);
        this.go(plane.y, voxel[plane.y]);
      });
      return plane.box;
    }

    key(plane, event) {
      const step = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      const move = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
      if (step) this.go(plane.z, this.at[plane.z] + step);
      else if (move) this.divide(this.split + move);
      else return;
      event.preventDefault();
    }

    go(axis, index) {
      this.at[axis] = clamp(index, 0, this.facts.shape[axis] - 1);
      this.draw();
    }

    divide(share) {
      this.split = clamp(share, 0, 1);
      this.slider.value = 100 * this.split;
      this.draw();
    }

    drag(plane, event) {
      const box = plane.canvas.getBoundingClientRect();
      this.divide((event.clientX - box.left) / box.width);
    }

    presetChosen() {
      const { low, high } = this.facts.windows.find((w) => w.label === this.preset.value);
      this.centre.value = Number(((low + high) / 2).toPrecision(4));
      this.width.value = Number((high - low).toPrecision(4));
    }

    // ---- places

    layout() {
      const { shape, spacing } = this.facts;
      const visible = this.planes.filter((plane) => !plane.box.hidden);
      const across = visible.reduce((sum, plane) => sum + shape[plane.x] * spacing[plane.x], 0);
      const tallest = Math.max(...visible.map((plane) => shape[plane.y] * spacing[plane.y]));
      const room = this.stage.clientWidth - 26 - 12 * (visible.length - 1);
      const widest = Math.max(...visible.map((plane) => shape[plane.x] * spacing[plane.x]));
      // Side by side where that leaves pictures of some size, else below one another; never taller than the window.
      const beside = room / across, below = Math.min(room, 420) / widest;
      const pixels = Math.min(beside * widest < 240 ? below : beside, (visible.length > 1 ? 0.62 : 0.8) * innerHeight / tallest);
      if (!(pixels > 0)) return;
      for (const plane of visible) {
        const width = Math.round(shape[plane.x] * spacing[plane.x] * pixels), height = Math.round(shape[plane.y] * spacing[plane.y] * pixels);
        plane.canvas.style.width = `${width}px`;
        plane.canvas.style.height = `${height}px`;
        plane.box.style.width = `${Math.max(width, 170)}px`;
        plane.canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
        plane.canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
      }
      this.draw();
    }

    voxel(plane, event) {
      const { shape } = this.facts, box = plane.canvas.getBoundingClientRect(), voxel = [...this.at];
      const column = clamp(Math.floor((event.clientX - box.left) / box.width * shape[plane.x]), 0, shape[plane.x] - 1);
      const row = clamp(Math.floor((event.clientY - box.top) / box.height * shape[plane.y]), 0, shape[plane.y] - 1);
      voxel[plane.x] = column;
      voxel[plane.y] = plane.flip ? shape[plane.y] - 1 - row : row;
      return voxel;
    }

    read(plane, event) {
      const [x, y, z] = this.voxel(plane, event), [nx, ny] = this.facts.shape, index = x + nx * (y + ny * z);
      const values = [...this.pictures.values()].map((p) => `${p.label} ${shown(p.offset + p.step * p.values[index])}`);
      this.readout.textContent = `voxel ${x}, ${y}, ${z} of the crop \u2014 ${values.join("; ")}${this.facts.unit ? ` (${this.facts.unit})` : ""}`;
    }

    // ---- drawing

    draw() {
      const low = this.centre.value - this.width.value / 2, span = Math.max(Number(this.width.value), 1e-9);
      const overlay = this.overlayNow();
      for (const plane of this.planes) {
        if (!plane.box.hidden) this.drawPlane(plane, low, span, overlay);
      }
      this.drawLegend(overlay);
    }

    // What lies over the images: the voxel's value as a share of full colour, and the colours.
    overlayNow() {
      const chosen = this.facts.overlays.find((o) => o.name === this.overlay.value);
      if (!chosen) return null;
      const full = chosen.full / Number(this.strength.value);
      const of = (name) => this.pictures.get(name === "left" ? this.left.value : name === "right" ? this.right.value : name);
      const plus = of(chosen.plus), minus = chosen.minus ? of(chosen.minus) : null;
      const value = (i) => plus.offset + plus.step * plus.values[i] - (minus ? minus.offset + minus.step * minus.values[i] : 0);
      return { ...chosen, full, value, title: minus ? `${plus.label} \u2212 ${minus.label}` : plus.label };
    }

    drawPlane(plane, low, span, overlay) {
      const { shape } = this.facts, { canvas } = plane, width = shape[plane.x], height = shape[plane.y];
      const steps = [1, shape[0], shape[0] * shape[1]];
      const left = this.pictures.get(this.left.value), right = this.pictures.get(this.right.value);
      const divider = Math.round(this.split * canvas.width), firstRight = this.split * width;
      const picture = new ImageData(width, height), pixels = picture.data;
      for (let row = 0, out = 0; row < height; row++) {
        const y = plane.flip ? height - 1 - row : row;
        let index = this.at[plane.z] * steps[plane.z] + y * steps[plane.y];
        for (let column = 0; column < width; column++, out += 4, index += steps[plane.x]) {
          // The column that the divider cuts is drawn twice below, once from each side.
          const side = column + 0.5 < firstRight ? left : right;
          const grey = clamp((side.offset + side.step * side.values[index] - low) / span * 255, 0, 255);
          pixels[out] = pixels[out + 1] = pixels[out + 2] = grey;
          pixels[out + 3] = 255;
          if (overlay) tint(pixels, out, overlay.value(index) / overlay.full, overlay.signed);
        }
      }
      const source = (plane.source = plane.source || document.createElement("canvas"));
      source.width = width;
      source.height = height;
      source.getContext("2d").putImageData(picture, 0, 0);
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(source, 0, 0, canvas.width, canvas.height);
      this.drawMarks(plane, context, divider, left, right);
      plane.input.value = this.at[plane.z];
      plane.caption.textContent = `${plane.name} ${this.at[plane.z] + 1} / ${shape[plane.z]}`;
      canvas.setAttribute("aria-label", `${plane.caption.textContent}: ${left.label} left of the divider, ${right.label} right of it. Arrow keys change slice and divider.`);
    }

    drawMarks(plane, context, divider, left, right) {
      const { width, height } = context.canvas, size = Math.round(12 * devicePixelRatio), gap = size * 0.4;
      context.fillStyle = "#fff";
      context.fillRect(divider - devicePixelRatio / 2, 0, devicePixelRatio, height);
      context.font = `${size}px system-ui, sans-serif`;
      context.lineWidth = 3 * devicePixelRatio;
      context.strokeStyle = "rgba(0, 0, 0, 0.75)";
      const write = (text, x, y, align) => { context.textAlign = align; context.strokeText(text, x, y); context.fillText(text, x, y); };
      const fits = (text) => context.measureText(text).width < width / 2 - 2 * size;
      if (divider > 3 * size && fits(left.label)) write(left.label, gap, size + gap / 2, "left");
      if (width - divider > 3 * size && fits(right.label)) write(right.label, width - gap, size + gap / 2, "right");
      const [top, bottom, first, last] = plane.letters;
      write(top, width / 2, size + gap / 2, "center");
      write(bottom, width / 2, height - gap, "center");
      write(first, gap, height / 2 + size / 2, "left");
      write(last, width - gap, height / 2 + size / 2, "right");
    }

    drawLegend(overlay) {
      this.legend.replaceChildren();
      if (!overlay) return;
      const rgb = (colour) => `rgb(${colour.join()})`;
      const colours = overlay.signed ? [rgb(BELOW), "#555", rgb(ABOVE)] : ["#555", rgb(UNSURE)];
      const bar = element("i");
      bar.style.background = `linear-gradient(to right, ${colours.join()})`;
      const unit = this.facts.unit ? ` ${this.facts.unit}` : "";
      this.legend.append(`${overlay.title}: `, shown(overlay.signed ? -overlay.full : 0), bar, shown(overlay.full) + unit);
    }
  }

  function tint(pixels, out, value, signed) {
    const colour = signed ? (value < 0 ? BELOW : ABOVE) : UNSURE, share = Math.min(1, Math.abs(value));
    for (let c = 0; c < 3; c++) pixels[out + c] += share * (colour[c] - pixels[out + c]);
  }

  // --- start: a viewer comes alive when it is about to be seen ----------------------------------------------------------

  async function start(host) {
    const facts = JSON.parse(host.querySelector(".facts").textContent);
    try {
      host.viewer = new Viewer(host, facts, await unpack(host.querySelector(".data").textContent));
    } catch (error) {
      host.append(element("p", { class: "soft" }, `This browser cannot show the viewer (${error.message}); the pictures are above.`));
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      start(entry.target);
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll(".viewer").forEach((host) => seen.observe(host));
})();
