//! A few functions that write SVG, shared by the drawing and the report's charts.

use std::fmt::{Display, Write};

/// Escapes text for element content and attribute values.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no way to write the other control characters.
            c if c.is_control() && c != '\n' && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate with at most one decimal, so that files stay small and diffs readable.
pub fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    if rounded == rounded.trunc() { format!("{rounded:.0}") } else { format!("{rounded:.1}") }
}

/// An SVG fragment that grows.
#[derive(Default)]
pub struct Canvas {
    text: String,
}

impl Canvas {
    /// Adds markup as it is.
    pub fn raw(&mut self, markup: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{markup}");
    }

    /// Opens a group with a class and a tooltip; close it with [`Self::end`].
    pub fn group(&mut self, class: &str, tooltip: &str) {
        self.raw(format_args!("<g class=\"{class}\">"));
        if !tooltip.is_empty() {
            self.raw(format_args!("<title>{}</title>", escape(tooltip)));
        }
    }

    /// Closes a group.
    pub fn end(&mut self) {
        self.raw("</g>\n");
    }

    /// A text whose baseline starts, or is centred, at a point as its class says.
    pub fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let (x, y) = (number(x), number(y));
        self.raw(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
            escape(text)
        ));
    }

    /// A rectangle with rounded corners.
    pub fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64, radius: f64) {
        let [x, y, w, h, r] = [x, y, width, height, radius].map(number);
        self.raw(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{r}\"/>"
        ));
    }

    /// A dot.
    pub fn circle(&mut self, class: &str, x: f64, y: f64, radius: f64) {
        let [x, y, r] = [x, y, radius].map(number);
        self.raw(format_args!("<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{r}\"/>"));
    }

    /// A path through right-angled points with rounded corners; `attributes` is extra markup.
    pub fn route(&mut self, class: &str, attributes: &str, points: &[(f64, f64)], radius: f64) {
        let d = rounded(points, radius);
        self.raw(format_args!("<path class=\"{class}\" {attributes} d=\"{d}\"/>"));
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Path data through `points` whose corners are rounded by at most `radius`.
fn rounded(points: &[(f64, f64)], radius: f64) -> String {
    let mut d = String::new();
    for (index, &(x, y)) in points.iter().enumerate() {
        let corner = index.checked_sub(1).and_then(|i| points.get(i)).zip(points.get(index + 1));
        let Some((&before, &after)) = corner else {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(d, "{command}{} {}", number(x), number(y));
            continue;
        };
        let (from, to) = (towards((x, y), before, radius), towards((x, y), after, radius));
        let [a, b, x, y, e, f] = [from.0, from.1, x, y, to.0, to.1].map(number);
        let _ = write!(d, "L{a} {b}Q{x} {y} {e} {f}");
    }
    d
}

/// The point `radius` away from `corner` towards `end`, at most half-way.
fn towards(corner: (f64, f64), end: (f64, f64), radius: f64) -> (f64, f64) {
    let (dx, dy) = (end.0 - corner.0, end.1 - corner.1);
    let length = dx.hypot(dy);
    let share = if length > 0.0 { (radius / length).min(0.5) } else { 0.0 };
    (corner.0 + dx * share, corner.1 + dy * share)
}
