//! The colours of the picture: literal, in light and dark, and how far they stand out from their page.

use svg::node::Node;

/// A colour on a light page and on a dark one.
#[derive(Debug, Clone, Copy)]
struct Colour {
    light: &'static str,
    dark: &'static str,
}

/// How the parts of one kind are painted. What a part is painted with is an attribute of each, because many programs
/// that show pictures know no style sheets; only the dark page is left to one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink {
    class: &'static str,
    fill: Paint,
    stroke: Paint,
    /// Other attributes of the stroke.
    pen: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy)]
enum Paint {
    None,
    Colour(Colour),
    /// A pattern, by its id.
    Pattern(&'static str),
}

const PAGE_COLOUR: Colour = Colour { light: "#ffffff", dark: "#0d1117" };
const TEXT_COLOUR: Colour = Colour { light: "#1f2328", dark: "#e6edf3" };
const FAINT_COLOUR: Colour = Colour { light: "#59636e", dark: "#9198a1" };
const RULE_COLOUR: Colour = Colour { light: "#d8dee4", dark: "#30363d" };
const CONNECTING_COLOUR: Colour = Colour { light: "#9a6700", dark: "#d29922" };
const PAUSING_COLOUR: Colour = Colour { light: "#bf3989", dark: "#db61a2" };
const WAITING_COLOUR: Colour = Colour { light: "#818b98", dark: "#6e7681" };
const RECEIVING_COLOUR: Colour = Colour { light: "#218bff", dark: "#1f6feb" };
const READ_COLOUR: Colour = Colour { light: "#0550ae", dark: "#79c0ff" };
const TRANSFORMING_COLOUR: Colour = Colour { light: "#8250df", dark: "#a371f7" };
const DELIVERING_COLOUR: Colour = Colour { light: "#1a7f37", dark: "#3fb950" };
const BAD_COLOUR: Colour = Colour { light: "#cf222e", dark: "#f85149" };

pub(super) const PAGE: Ink = Ink::filled("page", PAGE_COLOUR);
pub(super) const TITLE: Ink = Ink::filled("title", TEXT_COLOUR);
pub(super) const LABEL: Ink = Ink::filled("label", TEXT_COLOUR);
pub(super) const FAINT: Ink = Ink::filled("faint", FAINT_COLOUR);
pub(super) const BAD: Ink = Ink::filled("bad", BAD_COLOUR);
pub(super) const RULE: Ink = Ink::drawn("rule", RULE_COLOUR, &[]);
pub(super) const NOT_STARTED: Ink = Ink::drawn("not-started", FAINT_COLOUR, &[("stroke-dasharray", "1 4")]);
pub(super) const PAUSING: Ink =
    Ink::drawn("pausing", PAUSING_COLOUR, &[("stroke-width", "2"), ("stroke-dasharray", "6 3")]);
pub(super) const CONNECTING: Ink = Ink::hatched("connecting", CONNECTING_COLOUR);
pub(super) const HATCH: Ink = Ink::drawn("hatch", CONNECTING_COLOUR, &[("stroke-width", "1.5")]);
pub(super) const WAITING: Ink = Ink::filled("waiting", WAITING_COLOUR);
pub(super) const RECEIVING: Ink = Ink::filled("receiving", RECEIVING_COLOUR);
pub(super) const READ: Ink = Ink::drawn("read", READ_COLOUR, &[]);
pub(super) const TRANSFORMING: Ink = Ink::hatched("transforming", TRANSFORMING_COLOUR);
pub(super) const DELIVERING: Ink = Ink::filled("delivering", DELIVERING_COLOUR);
pub(super) const CROSS: Ink = Ink::drawn("cross", TRANSFORMING_COLOUR, &[]);
pub(super) const DONE: Ink = Ink::filled("done", READ_COLOUR);
pub(super) const END: Ink = Ink::drawn("end", BAD_COLOUR, &[("stroke-width", "2")]);

/// The line that runs along the time axis of a picture that moves.
pub(super) const PLAYHEAD: Ink = Ink::drawn("playhead", TEXT_COLOUR, &[("stroke-width", "1.5")]);

const INKS: [Ink; 19] = [
    PAGE,
    TITLE,
    LABEL,
    FAINT,
    BAD,
    RULE,
    NOT_STARTED,
    PAUSING,
    CONNECTING,
    HATCH,
    WAITING,
    RECEIVING,
    READ,
    TRANSFORMING,
    DELIVERING,
    CROSS,
    DONE,
    END,
    PLAYHEAD,
];

impl Ink {
    const fn filled(class: &'static str, colour: Colour) -> Self {
        Self { class, fill: Paint::Colour(colour), stroke: Paint::None, pen: &[] }
    }

    const fn drawn(class: &'static str, colour: Colour, pen: &'static [(&'static str, &'static str)]) -> Self {
        Self { class, fill: Paint::None, stroke: Paint::Colour(colour), pen }
    }

    /// Filled with the pattern of the same name, within an outline.
    const fn hatched(class: &'static str, colour: Colour) -> Self {
        Self { class, fill: Paint::Pattern(class), stroke: Paint::Colour(colour), pen: &[] }
    }

    /// Paints an element.
    pub(super) fn paint<N: Node>(self, mut node: N) -> N {
        node.assign("class", self.class);
        let paint = |paint| match paint {
            Paint::None => "none".to_owned(),
            Paint::Colour(colour) => colour.light.to_owned(),
            Paint::Pattern(id) => format!("url(#{id})"),
        };
        node.assign("fill", paint(self.fill));
        if !matches!(self.stroke, Paint::None) {
            node.assign("stroke", paint(self.stroke));
        }
        for (name, value) in self.pen {
            node.assign(*name, *value);
        }
        node
    }

    /// The rule that repaints it on a dark page.
    fn dark(self) -> String {
        let property = |name: &str, paint| match paint {
            Paint::Colour(Colour { dark, .. }) => format!("{name}: {dark}; "),
            Paint::None | Paint::Pattern(_) => String::new(),
        };
        format!("  [class={}] {{ {}{}}}\n", self.class, property("fill", self.fill), property("stroke", self.stroke))
    }
}

/// Colours for a reader who prefers a dark page.
///
/// LibreOffice does not know the condition, and obeys the rules whatever it says; but it does not know selectors of
/// attributes either.
pub(super) fn style() -> String {
    let rules: String = INKS.map(Ink::dark).concat();
    format!("\n@media (prefers-color-scheme: dark) {{\n{rules}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The relative luminance of a colour (WCAG 2.2, "relative luminance").
    fn luminance(colour: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).expect("two digits")) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn text_and_states_stand_out_from_either_page() {
        assert!((contrast("#ffffff", "#000000") - 21.0).abs() < 1e-9);
        let texts = [TITLE, LABEL, FAINT, BAD].map(|ink| (ink, 4.5));
        let states =
            [NOT_STARTED, PAUSING, CONNECTING, WAITING, RECEIVING, READ, TRANSFORMING, DELIVERING, DONE, END, PLAYHEAD]
                .map(|ink| (ink, 3.0));
        for (ink, least) in texts.into_iter().chain(states) {
            let ((Paint::Colour(colour), _) | (_, Paint::Colour(colour))) = (ink.fill, ink.stroke) else {
                panic!("{} has no colour", ink.class);
            };
            let (light, dark) = (contrast(colour.light, PAGE_COLOUR.light), contrast(colour.dark, PAGE_COLOUR.dark));
            assert!(light >= least && dark >= least, "{}: {light:.2} and {dark:.2} of {least}", ink.class);
        }
        // Each read is a stroke on what was received.
        for (read, block) in [(READ_COLOUR.light, RECEIVING_COLOUR.light), (READ_COLOUR.dark, RECEIVING_COLOUR.dark)] {
            assert!(contrast(read, block) >= 1.8, "{:.2}", contrast(read, block));
        }
    }
}
