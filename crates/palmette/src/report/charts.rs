//! The charts of the report, each from its own part of the data.

use super::data::{
    CalibrationPlot, CostedModel, Difference, Evaluated, Origin, Phase, RankAgreement,
};
use super::plot::{Axis, dot, horizontal, line, plot, polyline, vertical};
use super::scale::Scale;
use crate::drawing::labels::count;
use crate::drawing::svg::{Canvas, number};

/// Validation loss of every evaluation, and the best so far.
pub fn progress(evaluations: &[Evaluated]) -> Option<String> {
    let losses: Vec<(usize, f64)> =
        evaluations.iter().enumerate().filter_map(|(i, e)| Some((i, e.log_loss?))).collect();
    let best = losses.iter().map(|l| l.1).fold(f64::INFINITY, f64::min);
    if losses.is_empty() {
        return None;
    }
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    // The worst tenth would flatten everything else; it is drawn at the upper edge.
    let mut sorted: Vec<f64> = losses.iter().map(|l| l.1).collect();
    sorted.sort_by(f64::total_cmp);
    let cap = sorted[(sorted.len() - 1) * 9 / 10];
    let x = Scale::between(0.0, evaluations.len() as f64, left, right);
    let y = Scale::linear([best, cap], bottom, top);
    let decimals = y.decimals(5);
    let describe = format!(
        "Search progress: {} evaluations, best validation log loss {best:.5}",
        losses.len()
    );
    let axes = (
        Axis { scale: x, title: "evaluations", label: &|v| format!("{v:.0}") },
        Axis { scale: y, title: "validation log loss", label: &|v| format!("{v:.decimals$}") },
    );
    Some(plot(&describe, &axes.0, &axes.1, |canvas| {
        let mut steps = Vec::new();
        let mut running = f64::INFINITY;
        for &(index, loss) in &losses {
            let tooltip = format!("evaluation {}: {loss:.5}", index + 1);
            let at = (x.at(index as f64 + 1.0), y.at(loss.min(cap)));
            dot(canvas, if loss > cap { "faint" } else { "searched" }, at, 2.6, &tooltip);
            if loss < running {
                if running.is_finite() {
                    steps.push((at.0, y.at(running.min(cap))));
                }
                running = loss;
                steps.push((at.0, y.at(loss.min(cap))));
            }
        }
        steps.push((right, y.at(running)));
        polyline(canvas, "best", &steps);
    }))
}

/// Loss against cost, with the front: models that no other beats in both.
pub fn pareto(models: &[CostedModel]) -> Option<String> {
    if models.is_empty() {
        return None;
    }
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    let x = Scale::logarithmic(models.iter().map(|m| m.macs as f64), left, right);
    let y = Scale::linear(models.iter().map(|m| m.log_loss), bottom, top);
    let decimals = y.decimals(5);
    let front = front(models);
    let describe =
        format!("{} models by cost and loss; {} on the front", models.len(), front.len());
    let axes = (
        Axis {
            scale: x,
            title: "multiply-accumulates a sample (logarithmic)",
            label: &round_count,
        },
        Axis { scale: y, title: "validation log loss", label: &|v| format!("{v:.decimals$}") },
    );
    let place = |m: &CostedModel| (x.at(m.macs.max(1) as f64), y.at(m.log_loss));
    Some(plot(&describe, &axes.0, &axes.1, |canvas| {
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for model in &front {
            let at = place(model);
            if let Some(&(_, last)) = steps.last() {
                steps.push((at.0, last));
            }
            steps.push(at);
        }
        polyline(canvas, "front", &steps);
        for origin in [Origin::Random, Origin::Searched, Origin::Baseline, Origin::Chosen] {
            for model in models.iter().filter(|m| m.origin == origin) {
                let tooltip =
                    format!("{}: {:.5}, {} MACs", model.name, model.log_loss, count(model.macs));
                let at = place(model);
                match origin {
                    Origin::Random => dot(canvas, "random", at, 3.2, &tooltip),
                    Origin::Searched => dot(canvas, "searched", at, 3.6, &tooltip),
                    Origin::Baseline => dot(canvas, "baseline", at, 4.2, &tooltip),
                    Origin::Chosen => {
                        dot(canvas, "halo", at, 8.5, &tooltip);
                        dot(canvas, "chosen", at, 5.0, &tooltip);
                    }
                }
            }
        }
        // The chosen model's name has the first pick of a place.
        let named = [Origin::Chosen, Origin::Baseline]
            .into_iter()
            .flat_map(|origin| models.iter().filter(move |m| m.origin == origin))
            .map(|model| (place(model), model.name.as_str()));
        names(canvas, &named.collect::<Vec<_>>());
    }))
}

/// A round count without its empty decimals: `500`, `10 k`, `2 M`.
fn round_count(value: f64) -> String {
    let text = count(value.round() as u64);
    match text.split_once('.') {
        Some((whole, rest)) if rest.starts_with('0') => {
            format!("{whole}{}", rest.trim_start_matches('0'))
        }
        _ => text,
    }
}

/// A name beside each dot, where no other name and no other named dot is; names further from
/// their dot get a line to it.
fn names(canvas: &mut Canvas, named: &[((f64, f64), &str)]) {
    let mut taken: Vec<Extent> = named.iter().map(|&(at, _)| Extent::around(at, 6.0)).collect();
    for (index, &(at, text)) in named.iter().enumerate() {
        let places = label_places(at, text);
        let free = |extent: &Extent| {
            taken.iter().enumerate().all(|(i, other)| i == index || !extent.overlaps(other))
        };
        // Where everything is taken, names overlap as far from the frame's edge as they can.
        let inside = |place: &&LabelPlace| place.extent.is_inside();
        let chosen = places
            .iter()
            .filter(inside)
            .find(|place| free(&place.extent))
            .or_else(|| places.iter().find(inside))
            .unwrap_or(&places[0]);
        if chosen.is_far {
            line(canvas, "leader", at, (chosen.x, chosen.y - 4.0));
        }
        let class = if chosen.ends { "name end" } else { "name" };
        canvas.text(class, chosen.x, chosen.y, text);
        taken.push(chosen.extent);
    }
}

/// A rectangle of the chart.
#[derive(Clone, Copy)]
struct Extent {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Extent {
    fn around((x, y): (f64, f64), reach: f64) -> Self {
        Self { left: x - reach, right: x + reach, top: y - reach, bottom: y + reach }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn is_inside(&self) -> bool {
        let ((left, right), (bottom, top)) = (horizontal(), vertical());
        self.left >= left
            && self.right <= right + 16.0
            && self.top >= top - 12.0
            && self.bottom <= bottom
    }
}

/// Where a name may stand: its anchor, whether it ends there, and what it covers.
struct LabelPlace {
    x: f64,
    y: f64,
    ends: bool,
    is_far: bool,
    extent: Extent,
}

/// Places by preference: right, left, then ever further above and below.
fn label_places((x, y): (f64, f64), text: &str) -> Vec<LabelPlace> {
    // 11.5 px letters of a sans serif are 6.3 px wide on average.
    let width = 6.3 * text.chars().count() as f64;
    let shifts = (0..).map(|i| 13.0 * ((i + 1) / 2) as f64 * if i % 2 == 0 { 1.0 } else { -1.0 });
    shifts
        .take(15)
        .flat_map(|shift| [(shift, false), (shift, true)])
        .map(|(shift, ends)| {
            let is_far = shift != 0.0;
            // Beyond the chosen model's halo.
            let gap = if is_far { 14.0 } else { 11.0 };
            let anchor = if ends { x - gap } else { x + gap };
            let (left, right) =
                if ends { (anchor - width, anchor) } else { (anchor, anchor + width) };
            let baseline = y + 4.0 + shift;
            let extent = Extent { left, right, top: baseline - 10.0, bottom: baseline + 3.0 };
            LabelPlace { x: anchor, y: baseline, ends, is_far, extent }
        })
        .collect()
}

/// Models that no other beats in cost and loss, by rising cost.
pub fn front(models: &[CostedModel]) -> Vec<&CostedModel> {
    let mut sorted: Vec<&CostedModel> = models.iter().collect();
    sorted.sort_by(|a, b| a.macs.cmp(&b.macs).then(a.log_loss.total_cmp(&b.log_loss)));
    let mut best = f64::INFINITY;
    sorted.retain(|model| {
        let better = model.log_loss < best;
        best = best.min(model.log_loss);
        better
    });
    sorted
}

/// Supernet score against loss from scratch, one dot an architecture.
pub fn rank(agreement: &RankAgreement) -> Option<String> {
    if agreement.pairs.is_empty() {
        return None;
    }
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    let x = Scale::linear(agreement.pairs.iter().map(|p| p.0), left, right);
    let y = Scale::linear(agreement.pairs.iter().map(|p| p.1), bottom, top);
    let (dx, dy) = (x.decimals(5), y.decimals(5));
    let describe = format!(
        "Supernet against from scratch: {} architectures, Kendall's tau {:.2}",
        agreement.pairs.len(),
        agreement.tau
    );
    let axes = (
        Axis { scale: x, title: "log loss in the supernet", label: &|v| format!("{v:.dx$}") },
        Axis { scale: y, title: "log loss from scratch", label: &|v| format!("{v:.dy$}") },
    );
    Some(plot(&describe, &axes.0, &axes.1, |canvas| {
        for &(supernet, scratch) in &agreement.pairs {
            let tooltip = format!("supernet {supernet:.5}, from scratch {scratch:.5}");
            dot(canvas, "searched", (x.at(supernet), y.at(scratch)), 3.6, &tooltip);
        }
    }))
}

/// Observed against predicted rates with their intervals; the diagonal is perfect.
pub fn calibration(calibration: &CalibrationPlot) -> Option<String> {
    if calibration.bins.is_empty() {
        return None;
    }
    let ((left, right), (bottom, top)) = (horizontal(), vertical());
    let high = calibration.bins.iter().map(|b| b.high.max(b.predicted)).fold(0.0, f64::max);
    let high = (1.05 * high).min(1.0);
    let x = Scale::between(0.0, high, left, right);
    let y = Scale::between(0.0, high, bottom, top);
    let decimals = x.decimals(5);
    let describe = format!(
        "Calibration in {} bins, expected error {:.4}",
        calibration.bins.len(),
        calibration.expected_error
    );
    let label = |v: f64| format!("{v:.decimals$}");
    let axes = (
        Axis { scale: x, title: "predicted rate", label: &label },
        Axis { scale: y, title: "observed rate", label: &label },
    );
    Some(plot(&describe, &axes.0, &axes.1, |canvas| {
        line(canvas, "diagonal", (x.at(0.0), y.at(0.0)), (x.at(high), y.at(high)));
        for bin in &calibration.bins {
            let at = x.at(bin.predicted);
            line(canvas, "interval", (at, y.at(bin.low)), (at, y.at(bin.high)));
            let tooltip = format!(
                "predicted {:.4}, observed {:.4} (95 % interval {:.4} to {:.4})",
                bin.predicted, bin.observed, bin.low, bin.high
            );
            dot(canvas, "chosen", (at, y.at(bin.observed)), 3.6, &tooltip);
        }
    }))
}

/// Horizontal bars of the time that each phase took.
pub fn phases(phases: &[Phase]) -> Option<String> {
    let longest = phases.iter().map(|p| p.seconds).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let (width, row, label) = (520.0, 30.0, 150.0);
    let height = row * phases.len() as f64 + 6.0;
    let mut canvas = Canvas::default();
    let total: f64 = phases.iter().map(|p| p.seconds).sum();
    canvas.raw(format_args!(
        "<svg class=\"chart\" viewBox=\"0 0 {width} {}\" role=\"img\" aria-label=\"Time by phase, {} in all\">\n",
        number(height),
        duration(total)
    ));
    for (index, phase) in phases.iter().enumerate() {
        let y = row * index as f64 + 6.0;
        let length = (phase.seconds / longest * (width - label - 84.0)).max(2.0);
        canvas.text("tick end", label - 10.0, y + 14.0, &phase.name);
        canvas.rect("bar", label, y, length, 19.0, 4.0);
        canvas.text("tick", label + length + 8.0, y + 14.0, &duration(phase.seconds));
    }
    canvas.raw("</svg>");
    Some(canvas.finish())
}

/// `42.0 s`, `3 min 20 s` or `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..100 => format!("{seconds:.1} s"),
        100..7_200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3_600, whole % 3_600 / 60),
    }
}

/// A difference with its interval on a scale that all rows of the table share.
pub fn interval(difference: &Difference, reach: f64) -> String {
    let scale = Scale::between(-reach, reach, 2.0, 138.0);
    let mut canvas = Canvas::default();
    canvas.raw("<svg class=\"interval-cell\" viewBox=\"0 0 140 18\" aria-hidden=\"true\">");
    let class = match (difference.high < 0.0, difference.low > 0.0) {
        (true, _) => "better",
        (_, true) => "worse",
        _ => "open",
    };
    line(&mut canvas, "zero", (scale.at(0.0), 1.0), (scale.at(0.0), 17.0));
    let ends = (scale.at(difference.low), scale.at(difference.high));
    line(&mut canvas, class, (ends.0, 9.0), (ends.1, 9.0));
    canvas.circle(class, scale.at(difference.difference), 9.0, 4.0);
    canvas.raw("</svg>");
    canvas.finish()
}
