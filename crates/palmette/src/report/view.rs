//! The data as the template shows it: numbers as text, charts as SVG.

use serde::Serialize;

use super::charts;
use super::data::{Compared, Difference, Origin, ReportData, Spread, Verdict};
use crate::drawing::labels::count;

/// A figure with its name.
#[derive(Serialize)]
struct Fact {
    name: &'static str,
    value: String,
    hint: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    chosen: bool,
    seeds: usize,
    log_loss: String,
    auc: String,
    macs: String,
    difference: String,
    interval: String,
}

#[derive(Serialize)]
pub struct View<'a> {
    title: &'a str,
    style: &'static str,
    kind: &'static str,
    headline: String,
    detail: String,
    facts: Vec<Fact>,
    dataset: Vec<Fact>,
    progress: Option<String>,
    pareto: Option<String>,
    origins: Vec<(&'static str, &'static str)>,
    rank: Option<String>,
    rank_text: String,
    drawing: Option<&'a str>,
    calibration: Option<String>,
    calibration_text: String,
    rows: Vec<Row>,
    phases: Option<String>,
    total: String,
    command: Option<&'a str>,
    configuration: Option<&'a str>,
    notes: &'a [String],
    search_text: String,
}

impl<'a> View<'a> {
    pub fn new(data: &'a ReportData) -> Self {
        let (kind, headline, detail) = verdict(data.verdict.as_ref());
        let seconds: f64 = data.phases.iter().map(|p| p.seconds).sum();
        View {
            title: if data.title.is_empty() { "Palmette" } else { &data.title },
            style: include_str!("style.css"),
            kind,
            headline,
            detail,
            facts: facts(data),
            dataset: dataset(data),
            progress: charts::progress(&data.progress),
            pareto: charts::pareto(&data.models),
            origins: origins(data),
            rank: data.rank.as_ref().and_then(charts::rank),
            rank_text: rank_text(data),
            drawing: data.drawing.as_deref(),
            calibration: data.calibration.as_ref().and_then(charts::calibration),
            calibration_text: calibration_text(data),
            rows: rows(&data.comparison),
            phases: charts::phases(&data.phases),
            total: charts::duration(seconds),
            command: data.command.as_deref(),
            configuration: data.configuration.as_deref(),
            notes: &data.notes,
            search_text: search_text(data),
        }
    }
}

/// A difference with its sign, never a bare zero with a minus.
fn signed(value: f64) -> String {
    let text = format!("{:.5}", value.abs());
    let sign = if text.bytes().all(|b| b == b'0' || b == b'.') {
        ""
    } else if value < 0.0 {
        "−"
    } else {
        "+"
    };
    format!("{sign}{text}")
}

fn percent(confidence: f64) -> String {
    format!("{:.0} %", 100.0 * confidence)
}

fn verdict(verdict: Option<&Verdict>) -> (&'static str, String, String) {
    let Some(verdict) = verdict else {
        let detail = "Nothing was compared on the test part yet.".to_string();
        return ("none", "No verdict".into(), detail);
    };
    let Difference { difference, low, high, confidence } = verdict.difference;
    let incumbent = &verdict.incumbent;
    let interval = format!(
        "paired {} interval {} to {}, bootstrap over {}",
        percent(confidence),
        signed(low),
        signed(high),
        verdict.resampled
    );
    if verdict.ship() {
        let detail = format!(
            "Its test log loss is {:.5} below {incumbent}’s ({interval}).",
            difference.abs()
        );
        ("ship", "Ship the searched model".into(), detail)
    } else {
        let (kind, headline, reason) = match (verdict.own, low > 0.0) {
            (true, true) => ("keep", format!("Keep {incumbent}"), "The searched model is worse"),
            (true, false) => {
                let reason = "The searched model is not shown to be better";
                ("keep", format!("Keep {incumbent}"), reason)
            }
            (false, true) => {
                ("keep", format!("{incumbent} is better"), "The searched model is worse than")
            }
            (false, false) => {
                ("none", "No clear winner".into(), "The test part shows no difference to")
            }
        };
        let against = if verdict.own { "" } else { &format!(" {incumbent}") };
        let detail = format!(
            "{reason}{against}: test log loss differs by {} ({interval}).",
            signed(difference)
        );
        (kind, headline, detail)
    }
}

fn facts(data: &ReportData) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut push = |name, value: String, hint: &str| {
        facts.push(Fact { name, value, hint: hint.to_string() });
    };
    if let Some(test) = &data.test {
        push("Test log loss", format!("{:.5}", test.log_loss), "mean, in nats");
        if let Some(bayes) = test.bayes_log_loss {
            push("Bayes log loss", format!("{bayes:.5}"), "nobody can do better on these rows");
        }
        if let Some(auc) = test.auc {
            push("AUC", format!("{auc:.4}"), "rank statistic, ties half");
        }
        if let Some(auc) = test.grouped_auc {
            push("Per-group AUC", format!("{auc:.4}"), "weighted by group size");
        }
        if let Some(entropy) = test.normalised_entropy {
            push("Normalised entropy", format!("{entropy:.4}"), "1 is the base rate");
        }
    }
    if let Some(cost) = &data.cost {
        push("MACs a sample", count(cost.macs), "multiply-accumulates, tables excluded");
        push("Parameters", count(cost.params), "without embedding tables");
        push("Embedding parameters", count(cost.embedding_params), "");
    }
    facts
}

fn dataset(data: &ReportData) -> Vec<Fact> {
    let Some(dataset) = &data.dataset else { return Vec::new() };
    let mut facts = Vec::new();
    let mut push = |name, value: String| {
        facts.push(Fact { name, value, hint: String::new() });
    };
    push("Log", dataset.name.clone());
    push("Training rows", grouped(dataset.train_rows));
    push("Validation rows", grouped(dataset.validation_rows));
    push("Test rows", grouped(dataset.test_rows));
    if let Some(rate) = dataset.base_rate {
        let name = match dataset.weighted {
            true => "Clicks in the test part, weighted",
            false => "Clicks in the test part",
        };
        push(name, format!("{:.2} %", 100.0 * rate));
    }
    let fields =
        format!("{} dense, {} categorical", dataset.dense_fields, dataset.categorical_fields);
    push("Fields", fields);
    if let Some(fingerprint) = &dataset.fingerprint {
        push("Fingerprint", fingerprint.clone());
    }
    facts
}

/// `12,345,678`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn search_text(data: &ReportData) -> String {
    let total = data.progress.len();
    let infeasible = data.progress.iter().filter(|e| e.log_loss.is_none()).count();
    match infeasible {
        0 => format!("{total} evaluations; the line is the best so far."),
        _ => format!(
            "{total} evaluations, {infeasible} of them diverged or over a limit and not scored; \
             the line is the best so far."
        ),
    }
}

/// Legend of the cost chart: only what is in it.
fn origins(data: &ReportData) -> Vec<(&'static str, &'static str)> {
    let all = [
        (Origin::Chosen, "chosen", "chosen"),
        (Origin::Searched, "searched", "searched"),
        (Origin::Random, "random", "random search, same budget"),
        (Origin::Baseline, "baseline", "hand-made"),
    ];
    let present = all.into_iter().filter(|(o, _, _)| data.models.iter().any(|m| m.origin == *o));
    present.map(|(_, class, words)| (class, words)).collect()
}

fn rank_text(data: &ReportData) -> String {
    let Some(rank) = &data.rank else { return String::new() };
    let tau = |value: f64| format!("{value:.2}").replace('-', "−");
    let mut text = format!("Kendall’s tau {}", tau(rank.tau));
    if let Some((low, high)) = rank.interval {
        text += &format!(" (95 % interval {} to {})", tau(low), tau(high));
    }
    text += &format!(" over {} architectures", rank.pairs.len());
    if let Some(ceiling) = rank.ceiling {
        text += &format!("; two seeds from scratch agree with {}", tau(ceiling));
    }
    if let Some(macs) = rank.macs_tau {
        text += &format!("; cost alone ranks with {}", tau(macs));
    }
    text + "."
}

fn calibration_text(data: &ReportData) -> String {
    let Some(calibration) = &data.calibration else { return String::new() };
    let mut text = format!(
        "Test rows in {} bins of equal mass, bars are 95 % intervals; expected error {:.4}",
        calibration.bins.len(),
        calibration.expected_error
    );
    if let Some(ratio) = calibration.ratio {
        text += &format!(", mean prediction over mean label {ratio:.3}");
    }
    text + "."
}

fn rows(comparison: &[Compared]) -> Vec<Row> {
    let ends = comparison.iter().filter_map(|row| row.difference);
    let reach = ends.map(|d| d.low.abs().max(d.high.abs())).fold(1e-9, f64::max);
    let spread = |spread: &Spread, decimals: usize| match spread.deviation {
        Some(deviation) => format!("{:.decimals$} ± {deviation:.decimals$}", spread.mean),
        None => format!("{:.decimals$}", spread.mean),
    };
    let dash = || "–".to_string();
    comparison
        .iter()
        .map(|row| Row {
            name: row.name.clone(),
            chosen: row.origin == Origin::Chosen,
            seeds: row.seeds,
            log_loss: spread(&row.log_loss, 5),
            auc: row.auc.as_ref().map_or_else(dash, |auc| spread(auc, 4)),
            macs: row.macs.map_or_else(dash, count),
            difference: row.difference.map_or_else(dash, |d| {
                format!("{} [{}, {}]", signed(d.difference), signed(d.low), signed(d.high))
            }),
            interval: row.difference.map_or_else(String::new, |d| charts::interval(&d, reach)),
        })
        .collect()
}
