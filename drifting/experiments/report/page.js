"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tip = document.getElementById("tip");

  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), edge = document.documentElement.clientWidth;
    tip.style.left = Math.max(6, Math.min(x - box.width / 2, edge - box.width - 6)) + "px";
    tip.style.top = (y - box.height - 14 < window.scrollY ? y + 18 : y - box.height - 14) + "px";
  };
  const hide = () => { tip.hidden = true; };
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });

  // Points: one stop for the tab key in each chart, arrows go from point to point. The stop is one that is shown.
  const visible = chart => all(".series:not(.off) .point", chart);
  const reachable = chart => {
    const shown = visible(chart);
    if (!shown.length || shown.some(point => point.tabIndex === 0)) return;
    all(".point", chart).forEach(point => { point.tabIndex = point === shown[0] ? 0 : -1; });
  };
  for (const chart of all(".chart")) {
    const points = all(".point", chart);
    points.forEach((point, index) => {
      const say = () => {
        const box = point.getBoundingClientRect();
        show(point.getAttribute("aria-label"), box.left + box.width / 2 + window.scrollX, box.top + box.height / 2 + window.scrollY);
      };
      point.tabIndex = index ? -1 : 0;
      point.addEventListener("focus", say);
      point.addEventListener("blur", hide);
      point.addEventListener("pointerenter", say);
      point.addEventListener("pointerleave", hide);
      point.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const shown = visible(chart);
        const next = shown[(shown.indexOf(point) + step + shown.length) % shown.length];
        points.forEach(other => { other.tabIndex = other === next ? 0 : -1; });
        next.focus();
      });
    });
  }

  // Curves: the values of all lines at a step, under the pointer or moved by arrows.
  for (const chart of all(".chart[data-x]")) {
    const [left, right, low, high] = chart.dataset.x.split(" ").map(Number);
    const lines = all(".series[data-values]", chart).map(group => ({
      group, name: group.dataset.name, values: JSON.parse(group.dataset.values),
    }));
    const steps = [...new Set(lines.flatMap(line => line.values.map(value => value[0])))].sort((a, b) => a - b);
    const cursor = chart.querySelector(".cursor");
    let at = steps.length - 1;
    const say = index => {
      at = Math.max(0, Math.min(index, steps.length - 1));
      const x = left + (steps[at] - low) / (high - low) * (right - left), box = chart.getBoundingClientRect();
      cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); cursor.style.visibility = "visible";
      const shown = lines.filter(line => !line.group.classList.contains("off"));
      const text = shown.map(line => {
        const found = line.values.find(value => value[0] === steps[at]);
        return found ? line.name + "  " + found[1] : null;
      }).filter(Boolean);
      const scale = box.width / chart.viewBox.baseVal.width;
      show(["step " + steps[at], ...text].join("\n"), box.left + x * scale + window.scrollX, box.top + 40 + window.scrollY);
    };
    const leave = () => { cursor.style.visibility = "hidden"; hide(); };
    chart.tabIndex = 0;
    chart.addEventListener("pointermove", event => {
      const box = chart.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
      const step = low + (x - left) / (right - left) * (high - low);
      say(steps.reduce((best, value, i) => Math.abs(value - step) < Math.abs(steps[best] - step) ? i : best, 0));
    });
    chart.addEventListener("pointerleave", leave);
    chart.addEventListener("blur", leave);
    chart.addEventListener("focus", () => say(at));
    chart.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
      if (step) { event.preventDefault(); say(at + step); }
    });
  }

  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      const figures = button.closest("[data-figures]");
      for (const group of all(".chart .series", figures))
        if (group.dataset.series === button.dataset.series) group.classList.toggle("off", !on);
      all(".chart", figures).forEach(reachable);
    });
  }

  for (const button of all("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = head.closest("table").tBodies[0];
      const column = [...head.parentNode.children].indexOf(head), up = head.getAttribute("aria-sort") !== "ascending";
      all("th[aria-sort]", head.parentNode).forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => { const cell = row.children[column]; return cell.dataset.value ?? cell.textContent; };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
        const numbers = !isNaN(x) && !isNaN(y);
        return (up ? 1 : -1) * (numbers ? x - y : x.localeCompare(y));
      });
      body.append(...rows);
    });
  }

  // Two cells side by side: pictures are taken from the gallery, so each is in the page once.
  for (const select of all("select[data-side]")) {
    const figure = select.closest("figure");
    const put = () => {
      const source = document.getElementById(select.value);
      figure.querySelector(".shown").replaceChildren(...[...source.children].map(child => child.cloneNode(true)));
    };
    select.addEventListener("change", put);
    put();
  }
  for (const slider of all("input[data-steps]")) {
    const pictures = all("[data-step]", slider.closest("section"));
    const put = () => {
      pictures.forEach((picture, index) => { picture.hidden = index !== Number(slider.value); });
      const label = "step " + Number(pictures[slider.value].dataset.step).toLocaleString("en");
      slider.setAttribute("aria-valuetext", label);
      slider.parentNode.querySelector("output").textContent = label;
    };
    slider.addEventListener("input", put);
    put();
  }

  const theme = document.getElementById("theme");
  const dark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; name(); });
  name();

  const version = document.documentElement.dataset.version;
  if (version !== undefined) {
    const place = Number(sessionStorage.getItem("scroll"));
    if (place) window.scrollTo(0, place);
    setInterval(async () => {
      try {
        const now = await (await fetch("version")).text();
        if (now !== version) { sessionStorage.setItem("scroll", String(window.scrollY)); location.reload(); }
      } catch { /* the server has been stopped: the page stays as it is */ }
    }, 2000);
  }
})();
