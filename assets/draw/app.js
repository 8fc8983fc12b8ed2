// The lanes under a pointer or the keyboard's focus say what happened when.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const detail = document.getElementById("detail");
  const lanes = [...document.querySelectorAll(".lane")];
  const span = data.chart.span_us;
  let shown = null;
  let moment = 0;

  const time = (at) => `${(at / data.unit.us).toFixed(data.unit.decimals)} ${data.unit.word}`;
  const drawn = (lane) => data.chart.panels[lane.dataset.panel].lanes[lane.dataset.lane];

  /** The bytes that had come of an attempt by then, and all of them in the end; null: its reads were not kept. */
  function bytes(lane, at) {
    const panel = data.chart.panels[lane.dataset.panel];
    const task = data.runs[lane.dataset.panel].report.tasks[lane.dataset.lane];
    const since = at - panel.start_us;
    const attempts = [...(task.earlier || []).filter((attempt) => attempt.end_us > since), task];
    const { events, bytes } = attempts[0];
    if (events.length === 0) return null;
    return [events.reduce((sum, [when, more]) => (when <= since ? sum + more : sum), 0), bytes];
  }

  function words(lane, at) {
    const { label, note, phases, end } = drawn(lane);
    const phase = phases.find(([, start, stop]) => start <= at && at < stop);
    const begin = `${label}: at ${time(at)} `;
    if (!phase) return end && at >= end[1] ? `${begin}${end[0]} (${note})` : `${begin}nothing`;
    const count = phase[0] === "receiving" ? bytes(lane, at) : null;
    return `${begin}${phase[0]}, from ${time(phase[1])} to ${time(phase[2])}${count ? `, ${count[0]} of ${count[1]} bytes` : ""}`;
  }

  function show(lane, at) {
    if (shown !== lane) hide();
    shown = lane;
    moment = Math.min(Math.max(at, 0), span);
    lane.classList.add("shown");
    const cursor = lane.querySelector(".cursor");
    cursor.hidden = false;
    cursor.style.left = `${(100 * moment) / span}%`;
    detail.textContent = words(lane, moment);
    detail.hidden = false;
  }

  function hide() {
    if (!shown) return;
    shown.classList.remove("shown");
    shown.querySelector(".cursor").hidden = true;
    detail.hidden = true;
    shown = null;
  }

  /** The moments at which something begins or ends in a lane, in order. */
  function moments(lane) {
    const { phases, failures, end } = drawn(lane);
    const all = [...phases.map((phase) => phase[1]), ...failures.map((failure) => failure[1]), ...(end ? [end[1]] : [])];
    return [...new Set(all)].sort((one, other) => one - other);
  }

  function focus(lane) {
    for (const other of lanes) other.tabIndex = other === lane ? 0 : -1;
    lane.focus();
  }

  function step(lane, key) {
    const index = lanes.indexOf(lane);
    const all = moments(lane);
    switch (key) {
      case "ArrowDown": return focus(lanes[Math.min(index + 1, lanes.length - 1)]);
      case "ArrowUp": return focus(lanes[Math.max(index - 1, 0)]);
      case "Home": return focus(lanes[0]);
      case "End": return focus(lanes[lanes.length - 1]);
      case "ArrowRight": return show(lane, all.find((at) => at > moment) ?? moment);
      case "ArrowLeft": return show(lane, all.findLast((at) => at < moment) ?? moment);
      case "Escape": return hide();
      default: return undefined;
    }
  }

  const keys = ["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Home", "End", "Escape"];
  for (const lane of lanes) {
    const bar = lane.querySelector(".bar");
    lane.addEventListener("pointermove", (event) => {
      const { left, width } = bar.getBoundingClientRect();
      show(lane, Math.round((span * (event.clientX - left)) / width));
    });
    lane.addEventListener("pointerleave", () => {
      if (document.activeElement === lane) show(lane, moment);
      else hide();
    });
    lane.addEventListener("focus", () => {
      for (const other of lanes) other.tabIndex = other === lane ? 0 : -1;
      show(lane, moment);
    });
    lane.addEventListener("blur", hide);
    lane.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !keys.includes(event.key)) return;
      event.preventDefault();
      step(lane, event.key);
    });
  }
})();
