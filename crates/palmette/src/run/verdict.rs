//! What the test part says: every model beside the searched one, with paired intervals.

use anyhow::{Context, Result, bail};
use palmette_ctr::metrics::{Bootstrap, log_loss, paired_bootstrap, row_log_losses};
use palmette_ctr::nasrec::Path;
use palmette_data::{Dataset, Split, TimeFormat};

use super::agreement::rank_agreement;
use super::context::RunContext;
use super::final_fits::Tested;
use super::results::{ModelResult, Summary};
use super::setup::Run;
use super::store::RunStore;
use super::trials::{ScoredPart, sample_weights};

/// Groups below which a bootstrap over groups says nothing.
const FEWEST_GROUPS: usize = 10;

impl Run<'_, '_> {
    /// Fails where the test part could not be judged at the end: it has no rows, a column of
    /// probabilities is missing or holds something else, or there are too few groups to resample.
    /// Only columns that the user named are looked at.
    pub(super) fn check_test_part(&self) -> Result<()> {
        let RunContext { config, dataset, .. } = *self.context;
        if dataset.rows(Split::Test) == 0 {
            bail!(
                "the dataset has no test rows, on which the models are compared at the end; prepare \
                 it with a test part (--split, or [split] in the schema)"
            );
        }
        let data = &config.data;
        for (key, column) in
            [("baseline_column", &data.baseline_column), ("bayes_column", &data.bayes_column)]
        {
            if let Some(column) = column {
                self.given_column(column).with_context(|| format!("[data] {key}"))?;
            }
        }
        if let Some(groups) = interval_groups(dataset, data.interval_groups.as_deref())? {
            let distinct = groups.iter().collect::<std::collections::BTreeSet<_>>().len();
            if distinct < FEWEST_GROUPS {
                bail!(
                    "[data] interval_groups: the test part has {distinct} groups, and intervals over \
                     fewer than {FEWEST_GROUPS} say nothing; leave it out to resample rows"
                );
            }
        }
        Ok(())
    }

    pub(super) fn summarise(
        &self,
        store: &RunStore,
        architecture: Path,
        models: Vec<Tested>,
        diverged: Vec<String>,
    ) -> Result<Summary> {
        let RunContext { config, dataset, .. } = *self.context;
        let mut rows: Vec<(ModelResult, Vec<f64>)> = Vec::new();
        let mut evaluation = None;
        let auc_groups = match &dataset.manifest().schema.group {
            Some(column) => Some(dataset.extra_keys(Split::Test, column)?),
            None => None,
        };
        for Tested { result, logits } in models {
            let mut losses = vec![0.0; dataset.rows(Split::Test)];
            let fits = logits.len() as f64;
            for logits in logits {
                let part = ScoredPart::new(dataset, Split::Test, logits)?;
                if evaluation.is_none() {
                    evaluation = Some(part.evaluate(auc_groups.as_deref())?);
                }
                for (mean, loss) in losses.iter_mut().zip(row_log_losses(&part.scores()?)) {
                    *mean += loss / fits;
                }
            }
            rows.push((result, losses));
        }
        if let Some(column) = &config.data.baseline_column {
            rows.push(self.given_column(column)?);
        }
        let weights = sample_weights(dataset, Split::Test)?;
        let groups = interval_groups(dataset, config.data.interval_groups.as_deref())?;
        let Some(((_, searched), others)) = rows.split_first_mut() else {
            bail!("no model was trained")
        };
        for (result, losses) in others.iter_mut() {
            let options = Bootstrap { seed: config.run.seed, ..Bootstrap::default() };
            let difference =
                paired_bootstrap(searched, losses, weights.as_deref(), groups.as_deref(), options)?;
            result.difference = Some(difference);
        }
        let bayes_log_loss = match &config.data.bayes_column {
            Some(column) => {
                let (_, losses) = self.given_column(column)?;
                Some(losses.iter().sum::<f64>() / losses.len() as f64)
            }
            None => None,
        };
        let models: Vec<ModelResult> = rows.into_iter().map(|(result, _)| result).collect();
        let (verdict, sentence) = verdict(&models, config.data.baseline_column.is_some());
        Ok(Summary {
            verdict,
            sentence,
            architecture,
            models,
            diverged,
            evaluation: evaluation.context("the searched model was not trained")?,
            bayes_log_loss,
            rank_correlation: rank_agreement(store).map(|agreement| agreement.tau),
        })
    }

    /// A model that the log itself carries as a column of probabilities.
    fn given_column(&self, column: &str) -> Result<(ModelResult, Vec<f64>)> {
        let dataset = self.context.dataset;
        let probabilities = dataset.extra_f64(Split::Test, column)?;
        let logits = probabilities
            .iter()
            .enumerate()
            .map(|(row, &p)| {
                if !(0.0..=1.0).contains(&p) {
                    bail!("column {column}, test row {}: {p} is not a probability", row + 1);
                }
                let p = p.clamp(1e-7, 1.0 - 1e-7);
                Ok((p / (1.0 - p)).ln())
            })
            .collect::<Result<Vec<f64>>>()?;
        let part = ScoredPart::new(dataset, Split::Test, logits)?;
        let evaluation = part.evaluate(None)?;
        let result = ModelResult {
            name: column.into(),
            macs: None,
            params: None,
            learning_rate: None,
            validation_log_loss: None,
            log_losses: vec![log_loss(&part.scores()?)],
            aucs: evaluation.auc.into_iter().collect(),
            normalised_entropies: evaluation.normalised_entropy.into_iter().collect(),
            over_limit: false,
            difference: None,
        };
        Ok((result, row_log_losses(&part.scores()?)))
    }
}

/// Groups of test rows that are resampled together; a time column is cut into days, unless its
/// numbers have a unit of the user's own.
fn interval_groups(dataset: &Dataset, column: Option<&str>) -> Result<Option<Vec<u64>>> {
    let Some(column) = column else { return Ok(None) };
    if let Ok(keys) = dataset.extra_keys(Split::Test, column) {
        return Ok(Some(keys));
    }
    let seconds = dataset
        .extra_f64(Split::Test, column)
        .with_context(|| format!("[data] interval_groups = \"{column}\""))?;
    // Numbers below those of 1973 in seconds are days or steps already.
    let rule = dataset.manifest().schema.time.as_ref().map(|time| time.format);
    let largest = seconds.iter().copied().fold(0.0, f64::max);
    let unit = if rule == Some(TimeFormat::Number) && largest < 1e8 { 1.0 } else { 86_400.0 };
    Ok(Some(seconds.iter().map(|s| (s / unit).floor() as i64 as u64).collect()))
}

/// Ship when the searched model beats the model to beat with the whole interval: the user's own
/// model where there is one, else the best of the others on the test rows. The user's own is kept
/// unless the searched one is shown to be better.
fn verdict(models: &[ModelResult], own_model: bool) -> (String, String) {
    let Some((rival, difference)) =
        Summary::rival_of(models, own_model).and_then(|m| m.difference.map(|d| (m, d)))
    else {
        return ("undecided".into(), "There is nothing to compare with.".into());
    };
    let interval = format!(
        "log loss {:+.5} against {} (paired {:.0} % interval {:+.5} to {:+.5})",
        difference.difference,
        rival.name,
        difference.confidence * 100.0,
        difference.low,
        difference.high
    );
    if difference.first_is_better() {
        ("ship".into(), format!("Ship the searched model: {interval}."))
    } else if own_model {
        let reason = if difference.second_is_better() { "" } else { ", not shown to be worse" };
        ("keep".into(), format!("Keep {}{reason}: {interval}.", rival.name))
    } else if difference.second_is_better() {
        ("keep".into(), format!("{} is better: {interval}.", rival.name))
    } else {
        let cost = match (models.first().and_then(|m| m.macs), rival.macs) {
            (Some(own), Some(other)) if own != other => format!(
                " The searched model costs {} multiply-accumulates a sample, {} {}.",
                palmette_cost::format_count(own),
                rival.name,
                palmette_cost::format_count(other)
            ),
            _ => String::new(),
        };
        let sentence = format!("No difference that this test part could show: {interval}.{cost}");
        ("undecided".into(), sentence)
    }
}
