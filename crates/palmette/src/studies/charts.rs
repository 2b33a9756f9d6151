//! Charts of the studies: lines with bands of 95 %.

use palmette_search::bench::{LabelStudy, ParetoStudy, RegretStudy, Summary};

use super::Studied;
use crate::drawing::svg::{Canvas, escape, number};
use crate::report::plot::{Axis, horizontal, plot, polyline, vertical};
use crate::report::scale::Scale;

/// Colours that the style sheet knows.
const COLOURS: usize = 10;
/// Regrets below this share of the largest are drawn there: the scale is logarithmic, and scores may
/// be percents, or losses that differ in their third digit.
const LEAST_SHARE: f64 = 1e-3;
/// Points of a line at most.
const POINTS: usize = 120;

/// A named line; each point has the ends of its interval.
struct Line {
    name: String,
    /// Its colour, and whether it is dashed.
    class: String,
    points: Vec<(f64, f64, f64, f64)>,
}

/// All charts of a table.
pub fn of(studied: &Studied) -> Vec<String> {
    let mut charts: Vec<String> = studied.regret.iter().map(regret).collect();
    if let Some(values) = &studied.autocorrelation {
        let point = |(i, &y): (usize, &f64)| ((i + 1) as f64, y, y, y);
        let line = Line {
            name: studied.quality.clone(),
            class: class(0),
            points: values.iter().enumerate().map(point).collect(),
        };
        charts.push(chart("Hamming distance", "autocorrelation", &[line], false));
    }
    if let Some(study) = &studied.labels {
        charts.push(chart("labels", "Kendall's tau on unseen networks", &labels(study), false));
    }
    charts.extend(pareto(&studied.pareto));
    charts
}

/// A predictor has one colour; with isomorphs its line is dashed.
fn labels(study: &LabelStudy) -> Vec<Line> {
    let mut plain = 0;
    let line = |(name, taus): &(String, Vec<Summary>)| {
        let is_augmented = name.ends_with(" + isomorphs");
        plain += usize::from(!is_augmented);
        let dashed = if is_augmented { " dashed" } else { "" };
        let class = format!("c{}{dashed}", (plain + COLOURS - 1) % COLOURS);
        Line { name: name.clone(), class, points: points(&study.labels, taus) }
    };
    study.predictors.iter().map(line).collect()
}

fn regret(study: &RegretStudy) -> String {
    let means = study.methods.iter().flat_map(|method| method.curve.iter().copied());
    let largest = means.fold(0.0, f64::max);
    // One digit, for the title.
    let digit = 10f64.powf((LEAST_SHARE * largest).max(f64::MIN_POSITIVE).log10().floor());
    let least = if largest > 0.0 { digit } else { LEAST_SHARE };
    let lines: Vec<Line> = study
        .methods
        .iter()
        .enumerate()
        .map(|(m, method)| {
            let step = method.curve.len().div_ceil(POINTS).max(1);
            let all = method.curve.iter().zip(&method.curve_error).enumerate();
            let shown = all.filter(|(i, _)| i % step == 0 || i + 1 == method.curve.len());
            let point = |(i, (&mean, &error)): (usize, (&f64, &f64))| {
                let low = (mean - 1.96 * error).max(least);
                ((i + 1) as f64, mean.max(least), low, (mean + 1.96 * error).max(low))
            };
            let points = shown.map(point).collect();
            Line { name: method.method.clone(), class: class(m), points }
        })
        .collect();
    let title = format!("mean regret ({least} or less at the bottom), {}", study.searched);
    chart("distinct evaluations", &title, &lines, true)
}

/// One chart over all costs: the mean share of the hypervolume, with the mean of the intervals.
fn pareto(studies: &[ParetoStudy]) -> Option<String> {
    let first = studies.first()?;
    let mean = |m: usize, i: usize, of: fn(&Summary) -> f64| {
        let all = studies.iter().map(|study| of(&study.methods[m].1[i]));
        all.sum::<f64>() / studies.len() as f64
    };
    let lines: Vec<Line> = first
        .methods
        .iter()
        .enumerate()
        .map(|(m, (name, _))| {
            let point = |(i, &n): (usize, &usize)| {
                (n as f64, mean(m, i, |s| s.mean), mean(m, i, |s| s.low), mean(m, i, |s| s.high))
            };
            let points = first.checkpoints.iter().enumerate().map(point).collect();
            Line { name: name.clone(), class: class(m), points }
        })
        .collect();
    let title = format!("share of the hypervolume, mean over {} costs", studies.len());
    Some(chart("distinct evaluations", &title, &lines, false))
}

fn points(at: &[usize], values: &[Summary]) -> Vec<(f64, f64, f64, f64)> {
    at.iter().zip(values).map(|(&n, s)| (n as f64, s.mean, s.low, s.high)).collect()
}

fn chart(x_title: &str, y_title: &str, lines: &[Line], is_logarithmic: bool) -> String {
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    let all = || lines.iter().flat_map(|line| &line.points);
    let x = Scale::between(0.0, all().map(|p| p.0).fold(1.0, f64::max), left, right);
    let ends = all().flat_map(|p| [p.1, p.2, p.3]);
    let y = if is_logarithmic {
        Scale::logarithmic(ends, bottom, top)
    } else {
        Scale::linear(ends, bottom, top)
    };
    let decimals = if is_logarithmic { 0 } else { y.decimals(5) };
    let label = |value: f64| {
        if is_logarithmic { format!("{value}") } else { format!("{value:.decimals$}") }
    };
    let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    let describe = format!("{y_title} against {x_title}: {}", names.join(", "));
    let axes = (
        Axis { scale: x, title: x_title, label: &|value| format!("{value:.0}") },
        Axis { scale: y, title: y_title, label: &label },
    );
    let svg = plot(&describe, &axes.0, &axes.1, |canvas| {
        lines.iter().for_each(|line| band(canvas, line, &x, &y));
        for line in lines {
            let places: Vec<(f64, f64)> =
                line.points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
            polyline(canvas, &line.class, &places);
        }
    });
    format!("{svg}\n{}", legend(lines))
}

fn band(canvas: &mut Canvas, line: &Line, x: &Scale, y: &Scale) {
    let points = &line.points;
    let low = points.iter().map(|p| (p.0, p.2));
    let high = points.iter().rev().map(|p| (p.0, p.3));
    let corners: Vec<String> =
        low.chain(high).map(|(a, b)| format!("{},{}", number(x.at(a)), number(y.at(b)))).collect();
    canvas.raw(format_args!(
        "<polygon class=\"{}\" points=\"{}\"/>\n",
        line.class,
        corners.join(" ")
    ));
}

/// The colour of a line; from the eleventh on the colours come again, dashed.
fn class(line: usize) -> String {
    let dashed = if line >= COLOURS { " dashed" } else { "" };
    format!("c{}{dashed}", line % COLOURS)
}

fn legend(lines: &[Line]) -> String {
    let item = |line: &Line| {
        format!(
            "<li><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><line class=\"{}\" x1=\"0\" x2=\"22\" \
             y1=\"4\" y2=\"4\"/></svg>{}</li>",
            line.class,
            escape(&line.name)
        )
    };
    format!("<ul class=\"legend\">{}</ul>", lines.iter().map(item).collect::<String>())
}
