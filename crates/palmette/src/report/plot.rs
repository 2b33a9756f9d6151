//! The frame that charts share: size, axes, grid, labels.

use super::scale::Scale;
use crate::drawing::svg::{Canvas, escape, number};

/// Width and height of a chart, in SVG units.
const SIZE: (f64, f64) = (520.0, 340.0);
const LEFT: f64 = 66.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;
const TICKS: usize = 5;

/// What stands at an axis.
pub struct Axis<'a> {
    pub scale: Scale,
    pub title: &'a str,
    pub label: &'a dyn Fn(f64) -> String,
}

/// Left and right ends of the plotting area.
pub fn horizontal() -> (f64, f64) {
    (LEFT, SIZE.0 - RIGHT)
}

/// Bottom and top of the plotting area.
pub fn vertical() -> (f64, f64) {
    (SIZE.1 - BOTTOM, TOP)
}

/// Draws a chart: `describe` is what a screen reader says, `marks` draws into the frame.
pub fn plot(describe: &str, x: &Axis, y: &Axis, marks: impl FnOnce(&mut Canvas)) -> String {
    let mut canvas = Canvas::default();
    canvas.raw(format_args!(
        "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
        SIZE.0,
        SIZE.1,
        escape(describe)
    ));
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    for tick in y.scale.ticks(TICKS) {
        let at = y.scale.at(tick);
        line(&mut canvas, "grid", (left, at), (right, at));
        canvas.text("tick end", left - 8.0, at + 4.0, &(y.label)(tick));
    }
    for tick in x.scale.ticks(TICKS) {
        let at = x.scale.at(tick);
        line(&mut canvas, "grid", (at, bottom), (at, top));
        canvas.text("tick middle", at, bottom + 18.0, &(x.label)(tick));
    }
    line(&mut canvas, "axis", (left, bottom), (right, bottom));
    canvas.text("axis-title end", right, SIZE.1 - 8.0, x.title);
    canvas.text("axis-title", 4.0, 15.0, y.title);
    marks(&mut canvas);
    canvas.raw("</svg>");
    canvas.finish()
}

/// A straight line.
pub fn line(canvas: &mut Canvas, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
    canvas.raw(format_args!(
        "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
    ));
}

/// A line through points.
pub fn polyline(canvas: &mut Canvas, class: &str, points: &[(f64, f64)]) {
    let points: Vec<String> =
        points.iter().map(|p| format!("{},{}", number(p.0), number(p.1))).collect();
    canvas.raw(format_args!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" ")));
}

/// A dot with a tooltip.
pub fn dot(canvas: &mut Canvas, class: &str, at: (f64, f64), radius: f64, tooltip: &str) {
    let [x, y, r] = [at.0, at.1, radius].map(number);
    canvas.raw(format_args!(
        "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{r}\"><title>{}</title></circle>\n",
        escape(tooltip)
    ));
}
