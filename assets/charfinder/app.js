// With this the page does not have to be turned: what comes next is asked for when the end comes into sight, and a query is
// answered while it is typed. Rows are the server's: it knows which characters may be shown as they are.
"use strict";

const form = document.querySelector("form");
const input = form.elements.query;

// Ends whatever is asked for now.
let asking = new AbortController();
// Whether the newest entry of the history is a query that is still being typed.
let typing = false;
let pause;

const main = () => document.querySelector("main");

const address = () => form.action + (input.value.trim() ? "?" + new URLSearchParams({ query: input.value }) : "");

async function page(url, signal) {
    const response = await fetch(url, { signal, headers: { Accept: "text/html" } });
    return new DOMParser().parseFromString(await response.text(), "text/html");
}

// Shows another answer instead of this one.
async function show(url) {
    asking.abort();
    asking = new AbortController();
    const signal = asking.signal;
    try {
        const found = await page(url, signal);
        main().replaceWith(document.adoptNode(found.querySelector("main")));
        document.title = found.title;
        watch();
    } catch (error) {
        if (!signal.aborted) {
            tell(`No answer: ${error.message}`);
        }
    }
}

function tell(text) {
    document.getElementById("status").textContent = text;
}

// Adds the next rows when the end of those that are there comes into sight, until there are no more.
function watch() {
    const pages = document.querySelector(".pages");
    if (!pages?.querySelector("[rel=next]")) {
        return;
    }
    const progress = document.querySelector("progress");
    const rows = document.querySelector("tbody");
    progress.hidden = false;
    const { signal } = asking;
    const observer = new IntersectionObserver(async ([entry]) => {
        if (!entry.isIntersecting) {
            return;
        }
        observer.disconnect();
        try {
            const next = await page(pages.querySelector("[rel=next]").href, signal);
            rows.append(...next.querySelectorAll("tbody > tr"));
            progress.value = Number(progress.dataset.start) + rows.rows.length;
            const link = next.querySelector("[rel=next]");
            pages.replaceChildren(`${progress.value.toLocaleString("en")} of ${progress.max.toLocaleString("en")} `);
            if (link) {
                pages.append(document.adoptNode(link));
                // Anew, for the end may still be in sight.
                observer.observe(pages);
            } else {
                progress.hidden = true;
            }
        } catch (error) {
            if (!signal.aborted) {
                tell(`The rest is missing: ${error.message}`);
            }
        }
    }, { rootMargin: "100% 0px" });
    signal.addEventListener("abort", () => observer.disconnect());
    observer.observe(pages);
}

function go(isTyping) {
    clearTimeout(pause);
    const url = address();
    if (url !== location.href) {
        // One step back from what was typed is what was there before.
        history[typing ? "replaceState" : "pushState"](null, "", url);
    }
    typing = isTyping;
    scrollTo(0, 0);
    return show(url);
}

form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(false);
});

input.addEventListener("input", () => {
    // Nobody waits for the rest of the last answer.
    asking.abort();
    clearTimeout(pause);
    pause = setTimeout(go, 200, true);
});

// Whoever leaves the field has found what was looked for.
input.addEventListener("change", () => {
    typing = false;
});

addEventListener("popstate", () => {
    clearTimeout(pause);
    typing = false;
    input.value = new URLSearchParams(location.search).get("query") ?? "";
    show(location.href);
});

watch();
