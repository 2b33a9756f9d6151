//! What a recipe is expected to find, and whether a run found it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `[expected]`: figures by model, e.g. `[expected.searched]`; those of the run as a whole stand in
/// `[expected.run]`.
pub type Expected = BTreeMap<String, BTreeMap<String, Figure>>;

/// A figure and how far from it another run may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What the recipe's author found.
    pub value: f64,
    /// Largest difference that still agrees.
    pub tolerance: f64,
}

/// One expected figure beside what was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// `searched`, a baseline's name, or `run`.
    pub model: String,
    /// Name of the figure.
    pub figure: String,
    /// What the recipe expects.
    pub expected: Figure,
    /// What the run found.
    pub found: f64,
    /// Whether the difference is within the tolerance.
    pub agrees: bool,
}

/// Figures of a model in `summary.json`; lists are averaged over seeds.
const OF_MODELS: [(&str, &str); 6] = [
    ("log_loss", "log_losses"),
    ("auc", "aucs"),
    ("normalised_entropy", "normalised_entropies"),
    ("validation_log_loss", "validation_log_loss"),
    ("macs", "macs"),
    ("params", "params"),
];
/// Figures of a run in `summary.json`.
const OF_RUNS: [&str; 2] = ["rank_correlation", "bayes_log_loss"];

/// Reads `[expected]` of a recipe; empty where it has none.
///
/// # Errors
/// Names of figures that no run has, and tolerances that are no distance.
pub fn parse(text: &str) -> Result<Expected> {
    #[derive(Deserialize)]
    struct Recipe {
        #[serde(default)]
        expected: Expected,
    }
    let Recipe { expected } = toml::from_str(text).context(
        "[expected]: write for instance\n[expected.searched]\nlog_loss = { value = 0.5312, tolerance = 0.002 }",
    )?;
    for (model, figures) in &expected {
        let known: Vec<&str> =
            if model == "run" { OF_RUNS.to_vec() } else { OF_MODELS.map(|f| f.0).to_vec() };
        for (name, figure) in figures {
            if !known.contains(&name.as_str()) {
                bail!("[expected.{model}] {name}: there are {}", known.join(", "));
            }
            if !figure.value.is_finite() {
                bail!("[expected.{model}] {name}: {} is no figure", figure.value);
            }
            if !(figure.tolerance.is_finite() && figure.tolerance >= 0.0) {
                bail!(
                    "[expected.{model}] {name}: a tolerance is a distance, not {}",
                    figure.tolerance
                );
            }
        }
    }
    Ok(expected)
}

/// Compares every expected figure with a run's `summary.json`.
///
/// # Errors
/// A model or figure that the run does not have.
pub fn compare(expected: &Expected, summary: &Value) -> Result<Vec<Comparison>> {
    let mut all = Vec::new();
    for (model, figures) in expected {
        for (name, &figure) in figures {
            let found = found(summary, model, name)
                .with_context(|| format!("the run has no {name} of {model}"))?;
            all.push(Comparison {
                model: model.clone(),
                figure: name.clone(),
                expected: figure,
                found,
                agrees: (found - figure.value).abs() <= figure.tolerance,
            });
        }
    }
    Ok(all)
}

fn found(summary: &Value, model: &str, figure: &str) -> Option<f64> {
    if model == "run" {
        return summary[figure].as_f64();
    }
    let entry = summary["models"].as_array()?.iter().find(|m| m["name"] == model)?;
    let (_, key) = OF_MODELS.iter().find(|(name, _)| *name == figure)?;
    match &entry[key] {
        Value::Array(seeds) => {
            let values: Vec<f64> = seeds.iter().filter_map(Value::as_f64).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        }
        value => value.as_f64(),
    }
}

impl Comparison {
    /// `searched log_loss 0.5312 agrees with 0.531 +- 0.002`.
    pub fn text(&self) -> String {
        format!(
            "{} {} {} {} {} +- {}",
            self.model,
            self.figure,
            round(self.found),
            if self.agrees { "agrees with" } else { "DIFFERS from" },
            self.expected.value,
            self.expected.tolerance
        )
    }
}

/// Counts as they are, everything else to six digits.
fn round(value: f64) -> String {
    if value == value.trunc() { format!("{value}") } else { format!("{value:.6}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Value {
        serde_json::json!({
            "rank_correlation": 0.4,
            "models": [
                { "name": "searched", "log_losses": [0.50, 0.52], "aucs": [], "macs": 1000 },
                { "name": "mlp", "log_losses": [0.55], "aucs": [0.7], "macs": 90 },
            ],
        })
    }

    #[test]
    fn figures_agree_within_their_tolerance() {
        let check = |text: &str, expect: &[(&str, bool)]| {
            let found = compare(&parse(text).unwrap(), &summary()).unwrap();
            let found: Vec<_> = found.iter().map(|c| (c.text(), c.agrees)).collect();
            let expect: Vec<_> = expect.iter().map(|e| (e.0.to_owned(), e.1)).collect();
            assert_eq!(found, expect, "{text}");
        };
        check("", &[]);
        check("[search]\nevaluations = 3", &[]);
        check(
            "[expected.searched]\nlog_loss = { value = 0.511, tolerance = 0.002 }\n\
             macs = { value = 1001, tolerance = 0 }\n\
             [expected.run]\nrank_correlation = { value = 0.5, tolerance = 0.2 }",
            &[
                ("run rank_correlation 0.400000 agrees with 0.5 +- 0.2", true),
                ("searched log_loss 0.510000 agrees with 0.511 +- 0.002", true),
                ("searched macs 1000 DIFFERS from 1001 +- 0", false),
            ],
        );
        check(
            "[expected.mlp]\nauc = { value = 0.71, tolerance = 0.001 }",
            &[("mlp auc 0.700000 DIFFERS from 0.71 +- 0.001", false)],
        );
    }

    #[test]
    fn wrong_figures_say_what_would_be_right() {
        let check = |text: &str, expect: &str| {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expect), "{error:?} lacks {expect:?}");
        };
        check("[expected.searched]\nlog_loss = 0.5", "tolerance = 0.002");
        check("[expected.searched]\nlog_loss = { value = 0.5 }", "missing field `tolerance`");
        check(
            "[expected.searched]\nlogloss = { value = 0.5, tolerance = 0.1 }",
            "[expected.searched] logloss: there are log_loss, auc",
        );
        check(
            "[expected.run]\nlog_loss = { value = 0.5, tolerance = 0.1 }",
            "there are rank_correlation, bayes_log_loss",
        );
        check("[expected.mlp]\nauc = { value = 0.5, tolerance = -0.1 }", "a distance, not -0.1");
        check("[expected.mlp]\nauc = { value = nan, tolerance = 0.1 }", "NaN is no figure");
    }

    #[test]
    fn a_figure_that_a_run_lacks_is_an_error() {
        for text in [
            "[expected.searched]\nauc = { value = 0.7, tolerance = 1 }",
            "[expected.lr]\nlog_loss = { value = 0.7, tolerance = 1 }",
            "[expected.run]\nbayes_log_loss = { value = 0.7, tolerance = 1 }",
        ] {
            let error = compare(&parse(text).unwrap(), &summary()).unwrap_err().to_string();
            assert!(error.contains("the run has no"), "{error}");
        }
    }
}
