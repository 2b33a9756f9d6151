//! A figure of measurements that stands alone: lines with the spread of every point.

use super::plot::{Axis, dot, horizontal, line, plot, polyline, vertical};
use super::scale::Scale;
use crate::drawing::labels::count;

/// A measured point: median, least and most of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// What was varied.
    pub x: f64,
    /// Median.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Written at its last point.
    pub name: String,
    /// Ascending in x.
    pub points: Vec<Measured>,
}

/// Colours of the series, which repeat after the fourth; the medium tones are readable on light
/// and on dark pages.
const STYLE: &str = "<style>\
text{font:12.5px system-ui,sans-serif;fill:#7a7784}.end{text-anchor:end}.middle{text-anchor:middle}\
.grid{stroke:#8d8a94;stroke-opacity:.25}.axis{stroke:#8d8a94}polyline{fill:none;stroke-width:2}\
.s0{stroke:#5f6fd0;fill:#5f6fd0}.s1{stroke:#1f9483;fill:#1f9483}\
.s2{stroke:#c0702a;fill:#c0702a}.s3{stroke:#a05a9c;fill:#a05a9c}\
polyline.s0,polyline.s1,polyline.s2,polyline.s3{fill:none}</style>\n";

/// Draws `series` over two logarithmic axes as a whole SVG file.
pub fn figure(title: &str, x_title: &str, y_title: &str, series: &[Series]) -> String {
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    let points = || series.iter().flat_map(|s| s.points.iter());
    let x = Scale::logarithmic(points().map(|p| p.x), left, right);
    let y = Scale::logarithmic(points().flat_map(|p| [p.least, p.most]), bottom, top);
    let axes = (
        Axis { scale: x, title: x_title, label: &amount },
        Axis { scale: y, title: y_title, label: &amount },
    );
    let fragment = plot(title, &axes.0, &axes.1, |canvas| {
        let mut taken: Vec<f64> = Vec::new();
        for (i, series) in series.iter().enumerate() {
            let class = ["s0", "s1", "s2", "s3"][i % 4];
            let places: Vec<_> =
                series.points.iter().map(|p| (x.at(p.x), y.at(p.median))).collect();
            polyline(canvas, class, &places);
            for (point, &at) in series.points.iter().zip(&places) {
                line(canvas, class, (at.0, y.at(point.least)), (at.0, y.at(point.most)));
                let tooltip = format!(
                    "{}: {} at {}, {} to {}",
                    series.name,
                    amount(point.median),
                    amount(point.x),
                    amount(point.least),
                    amount(point.most)
                );
                dot(canvas, class, at, 3.2, &tooltip);
            }
            if let Some(&(end, height)) = places.last() {
                // Names of lines that meet are moved apart.
                let mut at = height - 8.0;
                while taken.iter().any(|other| (other - at).abs() < 14.0) {
                    at -= 14.0;
                }
                taken.push(at);
                canvas.text("end", end, at, &series.name);
            }
        }
    });
    let open = "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\"";
    let whole = fragment.replacen("<svg class=\"chart\"", open, 1);
    whole.replacen('\n', &format!("\n{STYLE}"), 1)
}

/// A number as short as it can be read: `128`, `10 k`, `0.25`.
fn amount(value: f64) -> String {
    if value < 100.0 {
        let digits = if value < 1.0 { 3 } else { 1 };
        let text = format!("{value:.digits$}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        return text.to_owned();
    }
    let text = count(value.round() as u64);
    text.replacen(".00", "", 1).replacen(".0 ", " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_whole_file_with_every_point() {
        let point = |x: f64| Measured { x, median: 2.0 * x, least: 1.9 * x, most: 2.5 * x };
        let series = |name: &str| Series {
            name: name.into(),
            points: vec![point(128.0), point(1024.0), point(8192.0)],
        };
        let svg = figure("Step time", "rows of a batch", "ms", &[series("a < b"), series("c")]);
        assert!(
            svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.ends_with("</svg>")
        );
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains("a &lt; b") && svg.contains("<style>"));
        assert_eq!(amount(0.25), "0.25");
        assert_eq!(amount(3.0), "3");
    }
}
