// Follows /feed, keeps what it says for as long as the collector does, and shows it.
"use strict";

const MOST_MARKS = 500;
const MOST_LISTED = 30;
const MOST_METRICS = 24;
// Milliseconds from one picture to the next, unless somebody does something.
const REDRAW_MS = 250;
// A source that says nothing for so long is stale, unless it never said more.
const STALE_MS = 3_000;
// Counters: what matters is by how much they grow in a second. All other numbers are drawn as they are.
const COUNTERS = /^(accepted|lost|hits|misses|received|delivered|dropped|cuts|disturbed|samples|(?!queue_).*_bytes)$/;
const COLOR = /^(#[0-9a-f]{3}|#[0-9a-f]{6}|[a-z]{3,20})$/i;
// For sources whose key is no colour.
const PALETTE = ["#3f7fd4", "#d97a1e", "#2e9d6b", "#c2508f", "#8569d0", "#a38420", "#2a97ae", "#cc4b41"];

const element = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const sources = new Map();
const marks = [];

const stream = {
    state: "connecting",
    isPaused: false,
    // What the collector's clock is ahead of ours, and for how long it keeps what it has.
    shift: 0,
    keep: 600_000,
    // The run of the collector, and the number of the last of its events that was taken.
    boot: "",
    sequence: -1,
    missed: 0,
    failures: 0,
};

const view = {
    // Milliseconds that are shown; Infinity: all.
    window: 300_000,
    // The end of what is shown, while it is paused.
    held: undefined,
    // The time at which values are read out, and the source that is pointed at.
    cursor: undefined,
    pointed: undefined,
    // What the third chart shows.
    metric: "",
    drawn: 0,
    took: 0,
};

const now = () => Date.now() + stream.shift;

// Text is never markup, and is set only where there was another.
function tell(where, text) {
    if (where.textContent !== text) {
        where.textContent = text;
    }
}

function make(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
}

// ---- Numbers and words

// With one decimal; on a scale with those that its steps need.
const digits = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const decimal = (value, isOnScale) => (isOnScale ? scaled(value) : digits.format(value));

// With three digits, and k, M, G, T.
function scaled(value) {
    const rounded = Number(value.toPrecision(3));
    const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.abs(rounded) || 1) / 3)));
    return Number((rounded / 1_000 ** power).toPrecision(3)) + ["", " k", " M", " G", " T"][power];
}

const words = (metric) => metric.replaceAll("_", " ");
const clip = (text, most) => (text.length > most ? [...text].slice(0, most - 1).join("") + "\u2026" : text);

// ---- Colours

const palette = document.createElement("canvas").getContext("2d");

// Red, green and blue of a colour; undefined: it is none, or one that cannot be seen.
function parsed(text) {
    if (!COLOR.test(text) || !CSS.supports("color", text)) {
        return undefined;
    }
    // What only a style sheet takes for a colour, such as "inherit", changes nothing.
    palette.fillStyle = "#0000";
    palette.fillStyle = text;
    return /^#(..)(..)(..)$/.exec(palette.fillStyle)?.slice(1).map((hex) => parseInt(hex, 16));
}

// How much light a colour has (WCAG 2.1, relative luminance).
function light(color) {
    const [red, green, blue] = color.map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

// A colour as it can be seen on this page, in a contrast of 3: yellow is darker on white, navy is lighter on black.
function inked(color) {
    const style = getComputedStyle(document.body);
    const [paper, ink] = [style.backgroundColor, style.color].map((text) => text.match(/[\d.]+/g).slice(0, 3).map(Number));
    const mixed = (share) => color.map((part, index) => Math.round(part + (ink[index] - part) * share));
    const stands = (one, other) => Math.max(one, other) + 0.05 >= 3 * (Math.min(one, other) + 0.05);
    let share = 0;
    while (share < 1 && !stands(light(mixed(share)), light(paper))) {
        share += 0.05;
    }
    return `rgb(${mixed(share).join(", ")})`;
}

// ---- Sources

class Source {
    track = new Track();
    // The last values of counters, and when they were that.
    counts = new Map();
    // How long it usually says nothing, in milliseconds.
    pause = 0;
    skew = 0;
    isHidden = false;

    constructor(key, name) {
        this.key = key;
        this.name = name;
        this.color = parsed(key);
        if (!this.color) {
            const taken = [...sources.values()].map(({ slot }) => slot);
            const free = PALETTE.findIndex((_, slot) => !taken.includes(slot));
            // More sources than colours share them.
            this.slot = free < 0 ? sources.size % PALETTE.length : free;
            this.color = parsed(PALETTE[this.slot]);
        }
        this.swatch = make("i");
        this.label = make("span");
        this.badge = make("small");
        this.button = make("button", { type: "button", ariaPressed: "true" }, this.swatch, this.label);
        this.row = make("tr", {}, make("th", { scope: "row" }, this.button, this.badge));
        this.cells = [0, 1, 2].map(() => this.row.insertCell());
        this.button.addEventListener("click", () => {
            this.isHidden = !this.isHidden;
            this.button.ariaPressed = String(!this.isHidden);
            redraw();
        });
        const point = (pointed) => () => {
            view.pointed = pointed;
            redraw();
        };
        this.row.addEventListener("pointerenter", point(this));
        this.row.addEventListener("pointerleave", point(undefined));
        this.dress();
    }

    dress() {
        this.ink = inked(this.color);
        this.swatch.style.color = this.ink;
    }

    get last() {
        return this.track.time(this.track.length - 1);
    }

    // How long it may say nothing before it is missed.
    get patience() {
        return Math.max(STALE_MS, 3 * this.pause);
    }

    take({ at, skew, name, ...numbers }) {
        const { track } = this;
        this.name = name || this.key;
        this.skew = skew ?? 0;
        if (track.length > 0) {
            const since = Math.max(0, at - this.last);
            if (since > this.patience) {
                // The line has a gap there.
                track.push(at - since / 2);
            }
            this.pause += this.pause ? 0.2 * (Math.min(since, 3 * this.pause) - this.pause) : since;
        }
        track.push(at);
        for (const [metric, value] of Object.entries(numbers)) {
            if (Number.isFinite(value) && (track.columns.has(metric) || track.columns.size < MOST_METRICS)) {
                track.set(metric, COUNTERS.test(metric) ? this.#perSecond(metric, value, at) : value);
            }
        }
    }

    // A counter that is less than before began anew: nobody knows how much was added.
    #perSecond(metric, value, at) {
        const before = this.counts.get(metric);
        this.counts.set(metric, { value, at });
        const rate = before ? (value - before.value) / (at - before.at) * 1_000 : NaN;
        return rate >= 0 && rate < Infinity ? rate : NaN;
    }

    // Brings its row of the table up to date.
    show() {
        const isStale = stream.state === "live" && now() - this.last > this.patience;
        const clock = `clock ${this.skew > 0 ? "+" : "\u2212"}${scaled(Math.abs(this.skew) / 1_000)} s`;
        tell(this.label, this.name);
        tell(this.badge, [isStale && "stale", this.skew !== 0 && clock].filter(Boolean).join(", "));
        this.button.title = this.key;
        this.row.classList.toggle("stale", isStale);
        [["cpu", decimal], ["mem", decimal], [view.metric, scaled]].forEach(([metric, format], index) => {
            const value = this.track.value(this.track.length - 1, metric);
            tell(this.cells[index], Number.isNaN(value) ? "" : format(value));
        });
    }
}

const order = new Intl.Collator("en", { numeric: true });

// The source with a key; a new one gets its place in the table, which is in order of names.
function source(key, name = key) {
    let found = sources.get(key);
    if (!found) {
        found = new Source(key, name);
        sources.set(key, found);
        const inOrder = [...sources.values()].sort((one, other) => order.compare(one.name, other.name));
        element("sources").insertBefore(found.row, inOrder[inOrder.indexOf(found) + 1]?.row ?? null);
    }
    return found;
}

function forget(key) {
    sources.get(key)?.row.remove();
    sources.delete(key);
}

// ---- Marks

function mark({ color, at, what, ...more }) {
    const rest = Object.entries(more).map(([name, value]) => `${words(name)} ${value}`);
    const text = [sources.get(color)?.name ?? color, what, ...rest].filter(Boolean).join(" \u00b7 ");
    const kept = { at, key: color, text: clip(String(what), 20), swatch: make("i") };
    marks.push(kept);
    dressMark(kept);
    const time = make("time", { textContent: timeOfDay(at, stream.shift) });
    element("marks").prepend(make("li", {}, time, kept.swatch, clip(text, 200)));
    trimMarks(-Infinity);
}

function dressMark({ key, swatch }) {
    swatch.style.color = sources.get(key)?.ink ?? "";
}

function trimMarks(oldest) {
    while (marks.length > MOST_MARKS || marks[0]?.at < oldest) {
        marks.shift();
    }
    const list = element("marks");
    while (list.children.length > Math.min(marks.length, MOST_LISTED)) {
        list.lastElementChild.remove();
    }
    element("no-marks").hidden = marks.length > 0;
}

// ---- The stream

let events;
let retry;

function become(state) {
    stream.state = state;
    element("state").dataset.state = state;
    tell(element("state"), state);
    redraw();
}

// Opens the stream where it ended, if somebody looks: a browser has few connections to one host, so a page in the
// background has none.
function open() {
    clearTimeout(retry);
    events?.close();
    if (stream.isPaused) {
        return become("paused");
    }
    if (stream.state !== "connecting") {
        become("reconnecting");
    }
    if (document.hidden) {
        return;
    }
    events = new EventSource(stream.sequence < 0 ? "feed" : `feed?since=${stream.boot}-${stream.sequence}`);
    events.onerror = () => {
        become("reconnecting");
        // After an answer that is no stream the browser does not try again.
        if (events.readyState === EventSource.CLOSED) {
            retry = setTimeout(open, 1_000 + Math.random() * Math.min(4_000, 500 * 2 ** stream.failures++));
        }
    };
    for (const [name, take] of Object.entries(HEARD)) {
        events.addEventListener(name, (event) => {
            take(JSON.parse(event.data), event.lastEventId);
            redraw(calm.matches ? 1_000 : REDRAW_MS);
        });
    }
}

// Whether an event was not taken before. Its id is the run of the collector and a number that grows.
function isNew(id) {
    const [boot, number] = id.split("-");
    const sequence = Number(number);
    if (boot === stream.boot && sequence <= stream.sequence) {
        return false;
    }
    Object.assign(stream, { boot, sequence });
    return true;
}

const HEARD = {
    hello({ boot, now, keep_s }) {
        const before = stream.boot;
        Object.assign(stream, { shift: now - Date.now(), keep: keep_s * 1_000, failures: 0 });
        if (before !== boot) {
            Object.assign(stream, { boot, sequence: -1 });
        }
        if (before && before !== boot) {
            mark({ at: now, what: "collector restarted" });
        }
        become("live");
    },
    message({ color, timestamp, ...sample }, id) {
        if (isNew(id)) {
            source(color, sample.name).take(sample);
            // Nothing comes from the future: the greeting was on its way for a while, or time goes faster in a replay.
            stream.shift = Math.max(stream.shift, sample.at - Date.now());
        }
    },
    mark(what, id) {
        if (isNew(id)) {
            mark(what);
        }
    },
    gone({ color }) {
        forget(color);
    },
    missed({ count }) {
        stream.missed += count;
        tell(element("note"), `${stream.missed.toLocaleString("en")} samples were missed here.`);
    },
};

// ---- The picture

const charts = [["cpu", "CPU", decimal], ["mem", "Memory", decimal], ["other", "", scaled]].map(([id, title, format]) => {
    const canvas = element(id);
    const chart = new Chart(canvas, format, () => redraw());
    const it = { canvas, chart, title, metric: () => (id === "other" ? view.metric : id) };
    for (const event of ["pointermove", "pointerdown"]) {
        canvas.addEventListener(event, ({ offsetX }) => point(chart.time(offsetX)));
    }
    canvas.addEventListener("pointerleave", ({ pointerType }) => pointerType === "touch" || point(undefined));
    canvas.addEventListener("blur", () => point(undefined));
    canvas.addEventListener("keydown", (event) => {
        const { from, to } = span();
        const step = Math.max(1_000, chart.pixel) * (event.shiftKey ? 10 : 1);
        const time = view.cursor ?? to;
        const goes = { ArrowLeft: time - step, ArrowRight: time + step, Home: from, End: to, Escape: undefined };
        if (event.key in goes) {
            event.preventDefault();
            point(goes[event.key] && Math.min(to, Math.max(from, goes[event.key])));
            tell(element("readout"), view.cursor ? `${timeOfDay(view.cursor, stream.shift)}: ${said(it, view.cursor)}` : "");
        }
    });
    return it;
});

function point(time) {
    view.cursor = time;
    redraw();
}

// What a chart says about a time.
function said({ chart, metric }, time) {
    const read = chart.read(lines(metric()), time);
    const values = read.slice(0, 8).map(({ label, text }) => `${label} ${text}`);
    return [...values, ...(read.length > 8 ? [`${read.length - 8} more`] : [])].join(", ") || "nothing";
}

// From when to when is shown; all is not less than ten seconds.
function span() {
    const to = view.held ?? now();
    const starts = [...sources.values()].map(({ track }) => track.time(0));
    return { from: view.window < Infinity ? to - view.window : Math.min(to - 10_000, ...starts), to };
}

function lines(metric) {
    const pointed = view.pointed?.isHidden ? undefined : view.pointed;
    return [...sources.values()].filter(({ isHidden }) => !isHidden).map((its) => ({
        track: its.track, metric, color: its.ink, label: clip(its.name, 24), isFaint: (pointed ?? its) !== its,
    }));
}

let frame;
let timer;

// Asks for another picture, but not sooner than so many milliseconds after the last.
function redraw(pause = 0) {
    const wait = view.drawn + pause - performance.now();
    if (wait > 0) {
        timer ??= setTimeout(redraw, wait);
    } else {
        frame ??= requestAnimationFrame(draw);
    }
}

function draw() {
    view.drawn = performance.now();
    clearTimeout(timer);
    frame = timer = undefined;
    element("measured").hidden = sources.size === 0;
    element("empty").hidden = sources.size > 0 || stream.state !== "live";
    const shown = marks.filter(({ key }) => !sources.get(key)?.isHidden)
        .map(({ at, key, text }) => ({ at, text, color: sources.get(key)?.ink }));
    for (const { chart, metric } of charts) {
        chart.draw({ ...span(), lines: lines(metric()), marks: shown, cursor: view.cursor, shift: stream.shift });
    }
    view.took = performance.now() - view.drawn;
}

// Which metrics the third chart can show; the first choice is clients.
function showMetrics() {
    const found = new Set([...sources.values()].flatMap(({ track }) => [...track.columns.keys()]));
    const metrics = [...found].filter((metric) => metric !== "cpu" && metric !== "mem").sort();
    const select = element("metric");
    if (metrics.join() !== [...select.options].map(({ value }) => value).join()) {
        select.replaceChildren(...metrics.map((metric) => new Option(words(metric), metric)));
        choose([view.metric, "clients"].find((metric) => metrics.includes(metric)) ?? metrics[0] ?? "");
    }
    element("third").hidden = metrics.length === 0;
}

function choose(metric) {
    const unit = COUNTERS.test(metric) ? "per second" : "";
    view.metric = element("metric").value = metric;
    charts[2].title = `${words(metric)} ${unit}`.trim();
    charts[2].chart.reset();
    tell(element("unit"), unit);
    tell(element("metric-column"), charts[2].title);
    redraw();
}

// Twice a second: what is read rather than seen, and what is too old.
let ticked = Date.now();
function tick() {
    // A machine that slept has a connection that is no more, and nobody tells.
    if (Date.now() - ticked > 30_000) {
        open();
    }
    ticked = Date.now();
    if (document.hidden || stream.isPaused) {
        return;
    }
    if (stream.state === "live") {
        const oldest = now() - stream.keep;
        for (const [key, { track }] of sources) {
            track.drop(track.find(oldest));
            if (track.length === 0) {
                forget(key);
            }
        }
        trimMarks(oldest);
    }
    showMetrics();
    sources.forEach((its) => its.show());
    for (const it of charts) {
        const { from, to } = span();
        it.canvas.setAttribute("aria-label", `${it.title}, last ${Math.round((to - from) / 1_000)} seconds, now: ${said(it, to)}`);
    }
    redraw(calm.matches ? 1_000 : REDRAW_MS);
}

// ---- Whoever looks

element("pause").addEventListener("click", ({ currentTarget }) => {
    stream.isPaused = !stream.isPaused;
    view.held = stream.isPaused ? now() : undefined;
    tell(currentTarget, stream.isPaused ? "Resume" : "Pause");
    open();
});

element("windows").addEventListener("change", ({ target }) => {
    view.window = target.value === "all" ? Infinity : Number(target.value) * 1_000;
    redraw();
});

element("metric").addEventListener("change", ({ target }) => choose(target.value));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    charts.forEach(({ chart }) => chart.dress());
    sources.forEach((its) => its.dress());
    marks.forEach(dressMark);
    redraw();
});

document.addEventListener("visibilitychange", open);
addEventListener("online", open);
setInterval(tick, 500);
open();

// What there is, for tests and for whoever opens the console.
window.monitor = () => ({
    ...stream,
    sources: [...sources.keys()],
    points: [...sources.values()].reduce((sum, { track }) => sum + track.length, 0),
    marks: marks.length,
    redrawMs: view.took,
});
