// Lines over time. A Track keeps the last numbers of a source in rings, a Chart draws some of them on a canvas.
"use strict";

// Rows of a track, at most; lengths of rings are powers of two, so that a mask takes an index around the end.
const MOST_ROWS = 1 << 17;

// A table that loses its first rows: times, and for each metric a column of values. NaN: there is none, a gap in the line.
class Track {
    at = new Float64Array(256);
    columns = new Map();
    head = 0;
    length = 0;

    index(row) {
        return (this.head + row) & (this.at.length - 1);
    }

    time(row) {
        return this.at[this.index(row)];
    }

    value(row, metric) {
        return this.columns.get(metric)?.[this.index(row)] ?? NaN;
    }

    // The first row that is not before a time.
    find(time) {
        let from = 0;
        let to = this.length;
        while (from < to) {
            const middle = (from + to) >>> 1;
            if (this.time(middle) < time) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        return from;
    }

    // The row nearest to a time, unless it is further away than `reach`; -1: there is none.
    nearest(time, reach) {
        let row = this.find(time);
        if (row === this.length || (row > 0 && time - this.time(row - 1) < this.time(row) - time)) {
            row -= 1;
        }
        return row >= 0 && Math.abs(this.time(row) - time) <= reach ? row : -1;
    }

    // Adds a row of gaps, for `set` to fill.
    push(at) {
        // A clock that was put back takes with it what was said too early.
        while (this.length > 0 && this.time(this.length - 1) > at) {
            this.length -= 1;
        }
        if (this.length === MOST_ROWS) {
            this.drop(1);
        } else if (this.length === this.at.length) {
            this.#grow();
        }
        this.length += 1;
        const end = this.index(this.length - 1);
        this.at[end] = at;
        for (const column of this.columns.values()) {
            column[end] = NaN;
        }
    }

    // Sets a value of the last row.
    set(metric, value) {
        let column = this.columns.get(metric);
        if (!column) {
            column = new Float32Array(this.at.length).fill(NaN);
            this.columns.set(metric, column);
        }
        column[this.index(this.length - 1)] = value;
    }

    // Drops rows from the start.
    drop(rows) {
        this.head = this.index(rows);
        this.length -= rows;
    }

    #grow() {
        const unrolled = (ring) => {
            const longer = new ring.constructor(2 * ring.length);
            longer.set(ring.subarray(this.head));
            longer.set(ring.subarray(0, this.head), ring.length - this.head);
            return longer;
        };
        this.at = unrolled(this.at);
        this.columns.forEach((column, metric) => this.columns.set(metric, unrolled(column)));
        this.head = 0;
    }
}

const LEFT = 48;
const TOP = 18;
const BOTTOM = 20;

const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

// The smallest step for a scale that is not less.
function round(least) {
    const power = 10 ** Math.floor(Math.log10(least));
    return power * ([1, 2, 2.5, 5].find((step) => step * power >= least) ?? 10);
}

const withoutSeconds = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const withSeconds = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

// A time of the collector for people here, whose clock may be another one.
const timeOfDay = (at, shift) => withSeconds.format(at - shift);

class Chart {
    #canvas;
    #pen;
    #format;
    #width = 0;
    #height = 0;
    #ratio = 1;
    // The ends of the scale, and the step between its lines.
    #low = 0;
    #high = 0;
    #step = 1;
    #thickness = 1.5;
    #view = { from: 0, to: 1 };
    #ink = {};

    // `format` makes a text of a value; `resized` is called when there has to be another picture.
    constructor(canvas, format, resized) {
        this.#canvas = canvas;
        this.#pen = canvas.getContext("2d");
        this.#format = format;
        this.dress();
        new ResizeObserver(() => {
            this.#ratio = devicePixelRatio;
            this.#width = canvas.clientWidth;
            this.#height = canvas.clientHeight;
            canvas.width = Math.round(this.#width * this.#ratio);
            canvas.height = Math.round(this.#height * this.#ratio);
            resized();
        }).observe(canvas);
    }

    // Reads the colours that the style sheet has for it now.
    dress() {
        const style = getComputedStyle(this.#canvas);
        this.#ink = {
            text: style.color, line: style.borderTopColor, paper: style.backgroundColor,
            font: `${style.fontSize} ${style.fontFamily}`,
        };
    }

    // Forgets its scale, since something else is to be drawn.
    reset() {
        this.#high = this.#low = 0;
    }

    // The time below a place, in CSS pixels from the left of the canvas.
    time(x) {
        return this.#view.from + (x - LEFT) * this.pixel;
    }

    // Milliseconds of a CSS pixel.
    get pixel() {
        return (this.#view.to - this.#view.from) / Math.max(1, this.#width - LEFT);
    }

    #x(at) {
        return LEFT + (at - this.#view.from) / this.pixel;
    }

    #y(value) {
        return this.#height - BOTTOM - (value - this.#low) / (this.#high - this.#low) * (this.#height - TOP - BOTTOM);
    }

    // What lines have near a time, the largest first.
    read(lines, time) {
        const reach = Math.max(2_000, 8 * this.pixel);
        const found = lines.map((line) => {
            const row = line.track.nearest(time, reach);
            return { line, value: row < 0 ? NaN : line.track.value(row, line.metric) };
        });
        return found.filter(({ value }) => !Number.isNaN(value)).sort((one, other) => other.value - one.value)
            .map(({ line, value }) => ({ ...line, value, text: this.#format(value) }));
    }

    // Draws `lines` ({ track, metric, color, label, isFaint }) and `marks` ({ at, color, text }) from one time to another;
    // `cursor` is the time at which values are read out, if any; `shift` is what the collector's clock is ahead of ours.
    draw({ from, to, lines, marks, cursor, shift }) {
        if (this.#width === 0) {
            return;
        }
        const pen = this.#pen;
        this.#view = { from, to };
        pen.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
        pen.clearRect(0, 0, this.#width, this.#height);
        pen.font = this.#ink.font;
        pen.textBaseline = "middle";
        pen.lineJoin = "round";
        this.#scale(lines);
        this.#drawGrid(shift);
        this.#drawMarks(marks);
        pen.save();
        pen.beginPath();
        pen.rect(LEFT, 0, this.#width - LEFT, this.#height);
        pen.clip();
        for (const line of lines) {
            this.#drawLine(line);
        }
        pen.restore();
        if (cursor >= from && cursor <= to) {
            this.#drawCursor(lines, cursor, shift);
        }
    }

    // The rows of a track that are in sight, and one more at each side, whose lines begin or end there.
    #rows(track) {
        return [Math.max(0, track.find(this.#view.from) - 1), Math.min(track.length, track.find(this.#view.to) + 1)];
    }

    // Fits the scale to what is in sight. It begins at 0 and shrinks late: a scale that jumps can not be read.
    #scale(lines) {
        let low = 0;
        let high = 0;
        let points = 0;
        for (const { track, metric } of lines) {
            const values = track.columns.get(metric);
            const [first, end] = values ? this.#rows(track) : [0, 0];
            points += end - first;
            for (let row = first; row < end; row++) {
                const value = values[track.index(row)];
                if (value > high) {
                    high = value;
                } else if (value < low) {
                    low = value;
                }
            }
        }
        // Where points are dense, lines are of one device pixel: without a graphics card these are drawn ten times faster.
        this.#thickness = points > 2 * this.#canvas.width ? 1 / this.#ratio : 1.5;
        if (high > this.#high || low < this.#low || high - low < (this.#high - this.#low) / 2.5 || this.#high === this.#low) {
            // Where all is 0, the scale ends at 1.
            high = high === low ? 1 : high * 1.05;
            this.#step = round(Math.max(0.01, high - low) / 5);
            this.#high = this.#step * Math.ceil(high / this.#step);
            this.#low = this.#step * Math.floor(low / this.#step);
        }
    }

    #drawGrid(shift) {
        const pen = this.#pen;
        const { from, to } = this.#view;
        const bottom = this.#height - BOTTOM;
        pen.strokeStyle = this.#ink.line;
        pen.fillStyle = this.#ink.text;
        pen.lineWidth = 1;
        pen.beginPath();
        pen.textAlign = "right";
        const steps = Math.round((this.#high - this.#low) / this.#step);
        for (let step = 0; step <= steps; step++) {
            const value = this.#low + step * this.#step;
            const y = Math.round(this.#y(value)) + 0.5;
            pen.moveTo(LEFT, y);
            pen.lineTo(this.#width, y);
            pen.fillText(this.#format(value, true), LEFT - 6, y);
        }
        const seconds = SECONDS.find((seconds) => seconds * 1_000 >= 84 * this.pixel) ?? SECONDS.at(-1);
        const format = seconds < 60 ? withSeconds : withoutSeconds;
        // Hours are whole ones where we are.
        const zone = shift + new Date().getTimezoneOffset() * 60_000;
        pen.textAlign = "center";
        for (let at = Math.ceil((from - zone) / seconds / 1_000) * seconds * 1_000 + zone; at <= to; at += seconds * 1_000) {
            const x = Math.round(this.#x(at)) + 0.5;
            pen.moveTo(x, bottom);
            pen.lineTo(x, bottom + 4);
            const text = format.format(at - shift);
            const half = pen.measureText(text).width / 2;
            if (x - half >= LEFT && x + half <= this.#width) {
                pen.fillText(text, x, bottom + 12);
            }
        }
        pen.stroke();
    }

    #drawVertical(x, color) {
        this.#pen.strokeStyle = color;
        this.#pen.beginPath();
        this.#pen.moveTo(x, TOP - 4);
        this.#pen.lineTo(x, this.#height - BOTTOM);
        this.#pen.stroke();
    }

    // A vertical line for each mark, with its text above where there is room.
    #drawMarks(marks) {
        const pen = this.#pen;
        let end = LEFT;
        pen.lineWidth = 1;
        pen.textAlign = "left";
        pen.fillStyle = this.#ink.text;
        pen.setLineDash([2, 3]);
        for (const { at, color, text } of marks) {
            const x = Math.round(this.#x(at)) + 0.5;
            if (x < LEFT || x > this.#width) {
                continue;
            }
            this.#drawVertical(x, color ?? this.#ink.text);
            const width = pen.measureText(text).width;
            const left = Math.min(x - 2, this.#width - width);
            if (left >= end) {
                pen.fillText(text, left, TOP - 11);
                end = left + width + 8;
            }
        }
        pen.setLineDash([]);
    }

    // Of all points in a column of device pixels only the first, the lowest, the highest and the last can be seen. Columns are
    // counted from the start of time, not from the left: what moves keeps its shape.
    #drawLine({ track, metric, color, isFaint }) {
        const values = track.columns.get(metric);
        if (!values) {
            return;
        }
        const pen = this.#pen;
        const { at } = track;
        const [begin, end] = this.#rows(track);
        const width = this.pixel / this.#ratio;
        let column = NaN;
        let isDown = false;
        let low, high, first, last;
        const flush = () => {
            const x = this.#x(column * width);
            if (isDown) {
                pen.lineTo(x, this.#y(first));
            } else {
                // So a point between two gaps is a dot.
                pen.moveTo(x - 0.5, this.#y(first));
                pen.lineTo(x + 0.5, this.#y(first));
                isDown = true;
            }
            if (low < high) {
                pen.lineTo(x, this.#y(low));
                pen.lineTo(x, this.#y(high));
                pen.lineTo(x, this.#y(last));
            }
        };
        pen.beginPath();
        for (let row = begin; row < end; row++) {
            const index = track.index(row);
            const value = values[index];
            const its = Number.isNaN(value) ? NaN : Math.floor(at[index] / width);
            if (its === column) {
                if (value < low) {
                    low = value;
                } else if (value > high) {
                    high = value;
                }
                last = value;
                continue;
            }
            if (!Number.isNaN(column)) {
                flush();
            }
            isDown &&= !Number.isNaN(its);
            column = its;
            low = high = first = last = value;
        }
        if (!Number.isNaN(column)) {
            flush();
        }
        pen.strokeStyle = color;
        pen.lineWidth = this.#thickness;
        pen.globalAlpha = isFaint ? 0.25 : 1;
        pen.stroke();
        pen.globalAlpha = 1;
    }

    // A vertical line, a dot on each line, and a box of values beside it.
    #drawCursor(lines, cursor, shift) {
        const pen = this.#pen;
        const x = Math.round(this.#x(cursor)) + 0.5;
        pen.lineWidth = 1;
        this.#drawVertical(x, this.#ink.text);
        const all = this.read(lines, cursor);
        for (const { color, value } of all) {
            pen.fillStyle = color;
            pen.beginPath();
            pen.arc(x, this.#y(value), 3, 0, 2 * Math.PI);
            pen.fill();
        }
        const room = Math.floor((this.#height - TOP - BOTTOM) / 16) - 2;
        const rows = all.length > room ? all.slice(0, room - 1) : all;
        const title = timeOfDay(cursor, shift) + (rows.length < all.length ? `, ${all.length - rows.length} more` : "");
        const widths = rows.map(({ label, text }) => pen.measureText(label + text).width + 30);
        const width = Math.max(pen.measureText(title).width, ...widths) + 16;
        const left = x + 10 + width > this.#width ? Math.max(0, x - 10 - width) : x + 10;
        pen.fillStyle = this.#ink.paper;
        pen.strokeStyle = this.#ink.line;
        pen.beginPath();
        pen.roundRect(left, TOP + 0.5, width, 16 * rows.length + 24, 4);
        pen.fill();
        pen.stroke();
        pen.fillStyle = this.#ink.text;
        pen.textAlign = "left";
        pen.fillText(title, left + 8, TOP + 12);
        rows.forEach(({ color, label, text }, row) => {
            const y = TOP + 30 + 16 * row;
            pen.fillStyle = color;
            pen.fillRect(left + 8, y - 4, 8, 8);
            pen.fillStyle = this.#ink.text;
            pen.textAlign = "left";
            pen.fillText(label, left + 22, y);
            pen.textAlign = "right";
            pen.fillText(text, left + width - 8, y);
        });
    }
}
