//! From a run's journal and summary to its report.

use anyhow::Result;
use palmette_ctr::metrics::PairedDifference;
use palmette_ctr::nasrec::LimitedSpace;
use palmette_data::Split;
use serde_json::Value;

use super::agreement::rank_agreement;
use super::clock::Clock;
use super::context::RunContext;
use super::export::write_json;
use super::results::{ModelResult, Summary};
use super::store::RunStore;
use crate::report::{
    Compared, Cost, CostedModel, DatasetFacts, Difference, Evaluated, Origin, Phase, ReportData,
    Spread, TestMetrics, Verdict, render,
};

/// Writes `report.json` (what the report shows) and `report.html`.
pub(super) fn write_report(
    context: &RunContext<'_>,
    store: &RunStore,
    space: &LimitedSpace,
    summary: &Summary,
) -> Result<()> {
    let data = report_data(context, store, space, summary)?;
    write_json(&store.dir().join("report.json"), &data)?;
    let page = render(&data)?;
    store.files().write("report.html", |out| Ok(out.write_all(page.as_bytes())?))?;
    Ok(())
}

fn report_data(
    context: &RunContext<'_>,
    store: &RunStore,
    space: &LimitedSpace,
    summary: &Summary,
) -> Result<ReportData> {
    let dataset = context.dataset;
    let sheet = space.sheet_of(&summary.architecture);
    let evaluation = &summary.evaluation;
    let name = dataset.dir().file_name().map_or("log".into(), |n| n.to_string_lossy().into_owned());
    Ok(ReportData {
        title: store.dir().file_name().map_or(name.clone(), |n| n.to_string_lossy().into_owned()),
        verdict: verdict(context, summary),
        dataset: Some(DatasetFacts {
            name,
            train_rows: dataset.rows(Split::Train) as u64,
            validation_rows: dataset.rows(Split::Validation) as u64,
            test_rows: dataset.rows(Split::Test) as u64,
            base_rate: Some(evaluation.base_rate),
            weighted: dataset.manifest().weighted,
            dense_fields: dataset.dense_fields(),
            categorical_fields: dataset.categorical_fields(),
            fingerprint: Some(dataset.fingerprint()),
        }),
        test: Some(TestMetrics {
            log_loss: evaluation.log_loss,
            bayes_log_loss: summary.bayes_log_loss,
            auc: evaluation.auc,
            grouped_auc: evaluation.grouped_auc.as_ref().and_then(|g| g.auc),
            normalised_entropy: evaluation.normalised_entropy,
        }),
        cost: Some(Cost {
            macs: sheet.macs,
            params: sheet.params,
            embedding_params: sheet.embedding_params,
        }),
        progress: search_events(store).map(|e| Evaluated { log_loss: e }).collect(),
        models: costed_models(store, summary),
        rank: rank_agreement(store),
        drawing: std::fs::read_to_string(store.dir().join("best/arch.svg")).ok(),
        calibration: Some((&evaluation.calibration).into()),
        comparison: summary.models.iter().map(compared).collect(),
        phases: phases(store),
        command: Some(command(store)),
        configuration: Some(context.config.to_toml()?),
        notes: notes(context, summary),
    })
}

fn difference(d: &PairedDifference) -> Difference {
    Difference { difference: d.difference, low: d.low, high: d.high, confidence: d.confidence }
}

/// Against the user's own model where there is one, else against the best of the others.
fn verdict(context: &RunContext<'_>, summary: &Summary) -> Option<Verdict> {
    let rival = summary.rival(context.config.data.baseline_column.is_some())?;
    let paired = rival.difference.as_ref()?;
    let unit = if context.config.data.interval_groups.is_some() { "groups" } else { "rows" };
    Some(Verdict {
        incumbent: rival.name.clone(),
        own: context.config.data.baseline_column.is_some(),
        difference: difference(paired),
        resampled: format!("{} {unit}", paired.units),
    })
}

/// The resolved configuration repeats the run, whatever options and stops it had.
fn command(store: &RunStore) -> String {
    let name = store.dir().file_name().map_or("run".into(), |n| n.to_string_lossy().into_owned());
    let file = store.dir().join("config.toml").display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let quoted = |text: String| match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    };
    format!("palmette search --config {} --name {}", quoted(file), quoted(format!("{name}-again")))
}

/// Scores of the search, in order.
fn search_events(store: &RunStore) -> impl Iterator<Item = Option<f64>> {
    store
        .all("score")
        .filter(|e| e["id"].as_str().is_some_and(|id| id.starts_with("search/")))
        .map(|e| e["result"]["score"].as_f64())
}

fn origin(id: &str) -> Origin {
    match id.split('/').next() {
        Some("searched") => Origin::Searched,
        Some("random-search") => Origin::Random,
        _ => Origin::Baseline,
    }
}

/// Every network trained from scratch; of a hand-made model its best learning rate.
fn costed_models(store: &RunStore, summary: &Summary) -> Vec<CostedModel> {
    let mut models: Vec<CostedModel> = Vec::new();
    for event in store.all("trial") {
        let (Some(id), Some(loss), Some(macs)) = (
            event["id"].as_str(),
            event["result"]["validation_log_loss"].as_f64(),
            event["result"]["macs"].as_u64(),
        ) else {
            continue;
        };
        let origin = origin(id);
        let name = id.split('/').next().unwrap_or(id);
        if origin == Origin::Baseline
            && let Some(known) = models.iter_mut().find(|m| m.name == name)
        {
            known.log_loss = known.log_loss.min(loss);
            continue;
        }
        let name = if origin == Origin::Baseline { name } else { id };
        models.push(CostedModel { name: name.into(), origin, macs, log_loss: loss });
    }
    if let Some(chosen) = summary.models.first()
        && let (Some(macs), Some(log_loss)) = (chosen.macs, chosen.validation_log_loss)
    {
        let name = "the chosen model".into();
        models.push(CostedModel { name, origin: Origin::Chosen, macs, log_loss });
    }
    models
}

fn spread(values: &[f64]) -> Option<Spread> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some(Spread { mean, deviation: (values.len() > 1).then(|| variance.sqrt()) })
}

fn compared(model: &ModelResult) -> Compared {
    let zero = Spread { mean: f64::NAN, deviation: None };
    Compared {
        name: match model.over_limit {
            true => format!("{} (over the limit)", model.name),
            false => model.name.clone(),
        },
        origin: if model.name == "searched" { Origin::Chosen } else { origin(&model.name) },
        seeds: model.log_losses.len(),
        log_loss: spread(&model.log_losses).unwrap_or(zero),
        auc: spread(&model.aucs),
        macs: model.macs,
        difference: model.difference.as_ref().map(difference),
    }
}

/// Time of each phase by the clock; what two phases share counts for the first.
fn phases(store: &RunStore) -> Vec<Phase> {
    let all = [
        ("plan", "plan", None),
        ("supernet", "supernet", None),
        ("ranking", "score", None),
        // Found and random networks are trained side by side.
        ("networks", "trial", Some(false)),
        ("hand-made models", "trial", Some(true)),
        ("final fits", "final", None),
    ];
    let mut clock = Clock::default();
    let phase = |(name, kind, hand_made): (&str, &str, Option<bool>)| {
        let before = clock.seconds();
        let is_hand_made = |e: &Value| e["id"].as_str().map(origin) == Some(Origin::Baseline);
        let is_of = |e: &&Value| hand_made.is_none_or(|wanted| is_hand_made(e) == wanted);
        store.all(kind).filter(is_of).for_each(|event| clock.add(event));
        Phase { name: name.into(), seconds: clock.seconds() - before }
    };
    all.map(phase).into()
}

fn notes(context: &RunContext<'_>, summary: &Summary) -> Vec<String> {
    let config = context.config;
    let mut notes = vec![
        summary.sentence.clone(),
        format!(
            "Every model was trained for {} epoch(s) with batches of {} and tried the learning rates {:?} on \
             validation rows; the test part was read once a model, after its final fit on training and \
             validation rows.",
            config.train.network.epochs,
            config.train.network.batch_size,
            config.train.learning_rates
        ),
    ];
    if !config.cost.limits.is_empty() {
        notes.push(format!(
            "Hard limits: {}. Models over them are shown and cannot win.",
            config.cost.limits.join(", ")
        ));
    }
    if !summary.diverged.is_empty() {
        notes.push(format!(
            "Diverged at every learning rate or in the final fit, and not in the table: {}.",
            summary.diverged.join(", ")
        ));
    }
    if config.train.final_seeds > 1 {
        notes.push(
            "Differences compare losses averaged over the seeds of each model; the figures on top, the \
             calibration and the exported files are those of the first final fit."
                .into(),
        );
    }
    if config.train.final_seeds < 2 {
        notes.push(
            "One final fit a model: the table has no spread over seeds (set train.final_seeds)."
                .into(),
        );
    }
    notes
}
