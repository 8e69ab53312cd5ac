// Looking closer at a plot of points: by buttons, by ctrl and wheel, by dragging. Without it the plot is as it is drawn.
"use strict";
(() => {
  const MOST = 16;
  const number = (element, name) => Number(element.getAttribute(name));

  const zoom = (figure) => {
    const plot = figure.querySelector("svg");
    const { width, height } = plot.viewBox.baseVal;
    let k = 1, x = 0, y = 0;
    // Points keep their size and stay where they are; ticks keep their size and stay at their edge.
    const marks = [...plot.querySelectorAll("a.mark")].map((mark) => {
      const hit = mark.querySelector(".hit");
      return { mark, x: number(hit, "cx"), y: number(hit, "cy") };
    });
    const words = [...plot.querySelectorAll("text.tick, text.axis")].map((word) => {
      const axis = word.matches(".axis"), across = word.matches(".across");
      return { word, x: number(word, "x"), y: number(word, "y"), right: axis || !across, down: axis || across };
    });
    const show = () => {
      x = Math.min(Math.max(x, 0), width - width / k);
      y = Math.min(Math.max(y, 0), height - height / k);
      plot.setAttribute("viewBox", `${x} ${y} ${width / k} ${height / k}`);
      const place = (element, from, to) =>
        element.setAttribute("transform", `translate(${to.x} ${to.y}) scale(${1 / k}) translate(${-from.x} ${-from.y})`);
      for (const one of marks) place(one.mark, one, one);
      for (const one of words) {
        place(one.word, one, { x: one.right ? x + one.x / k : one.x, y: one.down ? y + one.y / k : one.y });
      }
      plot.classList.toggle("near", k > 1);
      for (const button of figure.querySelectorAll(".zoom button")) {
        button.disabled = button.value === "in" ? k >= MOST : k <= 1;
      }
    };
    const by = (factor, u = x + width / k / 2, v = y + height / k / 2) => {
      const next = Math.min(Math.max(k * factor, 1), MOST);
      x = u - (u - x) * k / next;
      y = v - (v - y) * k / next;
      k = next;
      show();
    };
    const at = (event) => {
      const box = plot.getBoundingClientRect();
      return [x + (event.clientX - box.left) / box.width * width / k, y + (event.clientY - box.top) / box.height * height / k];
    };

    const bar = document.createElement("div");
    bar.className = "zoom";
    for (const [value, sign, label] of [["in", "+", "Closer (ctrl and wheel)"], ["out", "−", "Farther"], ["all", "⤢", "All of it"]]) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", value, textContent: sign, title: label, ariaLabel: label });
      bar.append(button);
    }
    bar.addEventListener("click", (event) => {
      const value = event.target.closest("button")?.value;
      if (value) by({ in: 2, out: 1 / 2, all: 1 / MOST }[value]);
    });
    figure.append(bar);

    plot.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      by(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
    }, { passive: false });

    let start = null, moved = false;
    plot.addEventListener("dragstart", (event) => event.preventDefault());
    plot.addEventListener("pointerdown", (event) => { moved = false; start = k > 1 && event.button === 0 ? at(event) : null; });
    addEventListener("pointermove", (event) => {
      if (!start) return;
      const [u, v] = at(event);
      if (Math.hypot(u - start[0], v - start[1]) * k > 4) moved = true;
      if (!moved) return;
      x += start[0] - u;
      y += start[1] - v;
      show();
    });
    addEventListener("pointerup", () => { start = null; });
    addEventListener("pointercancel", () => { start = null; });
    plot.addEventListener("click", (event) => {
      if (moved && event.detail) event.preventDefault(); // the end of a drag is no click; a key is
      moved = false;
    });
    plot.addEventListener("focusin", (event) => {
      const one = marks.find((it) => it.mark === event.target);
      if (!one || (one.x >= x && one.x <= x + width / k && one.y >= y && one.y <= y + height / k)) return;
      x = one.x - width / k / 2;
      y = one.y - height / k / 2;
      show();
    });
    show();
  };
  document.querySelectorAll("figure[data-zoom]").forEach(zoom);
})();
