//! Limits on the time of predictions: foretold for candidates, measured before a network is trained.
//!
//! Measuring every candidate would take longer than scoring it and depend on what else the machine
//! does. So some random networks are measured at the start, a linear model over their operators is
//! fitted, and candidates are held to what it foretells with its margin. Whatever is to be trained
//! from scratch is measured itself, and left out where it is over the limit. Measurements are
//! events of the journal: a resumed run reads them and measures nothing twice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use palmette_cost::{LatencyLimit, LinearLatency};
use palmette_ctr::nasrec::{LatencyBound, canonical_key, latency_counts};
use palmette_ctr::train::nasrec_tables;
use palmette_space::{Domain, Genotype};
use serde::{Deserialize, Serialize};

use super::setup::Run;
use super::store::RunStore;
use super::trials::{Contender, record};
use crate::measured::{Latency, LatencyProbe};

/// Random networks that are measured at the start.
const NETWORKS: usize = 48;
/// Rounds over them: what disturbs a moment then falls on different networks.
const ROUNDS: usize = 3;
/// Time of one measurement of a round.
const SHORT: Duration = Duration::from_millis(40);
/// Time of a measurement that decides.
const LONG: Duration = Duration::from_millis(500);
/// Candidates that are measured in vain before the search gives up, for each that is wanted.
const MOST_TRIED: usize = 8;

/// One network measured at the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    genotype: Genotype,
    /// Medians of the rounds, in microseconds.
    medians: Vec<f64>,
}

impl Measured {
    /// Whatever disturbs a round adds time: the fastest round counts.
    fn microseconds(&self) -> f64 {
        self.medians.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// The event `latency-model` of a limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Calibration {
    microseconds: f64,
    batch: usize,
    model: LinearLatency,
    networks: Vec<Measured>,
}

impl Run<'_, '_> {
    fn latency_limits(&self) -> Result<Vec<LatencyLimit>> {
        Ok(self.context.config.cost.limits()?.latency)
    }

    /// A probe with the tables of the final fits, whose rows no cache may hold.
    fn probe(&self, batch: usize) -> Result<LatencyProbe> {
        let rows = self.context.final_tables(self.space.table_cap());
        let specs = nasrec_tables(&self.context.field_names(), &rows);
        LatencyProbe::new(self.shape.dense, specs, self.context.dataset.list_fields(), batch)
    }

    /// Puts the limits on latency into the space; measures random networks for that unless the
    /// journal holds them.
    ///
    /// # Errors
    /// Limits that no network of the space is expected to meet.
    pub(super) fn calibrate_latency(&mut self, store: &mut RunStore) -> Result<()> {
        let limits = self.latency_limits()?;
        if limits.is_empty() {
            return Ok(());
        }
        let (mut calibrations, mut fresh) = (Vec::new(), Vec::new());
        for limit in &limits {
            let id = limit.batch.to_string();
            let begin = Instant::now();
            let known = store.find("latency-model", &id);
            let calibration = match known {
                Some(event) => Calibration::deserialize(&event["result"])?,
                None => {
                    let found = self.measure_networks(limit)?;
                    fresh.push((id, found.clone(), begin));
                    found
                }
            };
            calibrations.push(calibration);
        }
        let bounds = calibrations.iter().map(|calibration| LatencyBound {
            model: calibration.model.clone(),
            microseconds: calibration.microseconds,
        });
        self.space = self.space.clone().with_latency(bounds.collect()).map_err(|fastest| {
            let parts = limits.iter().zip(&fastest).map(|(limit, microseconds)| {
                format!("{microseconds:.0} us at {} rows", limit.batch)
            });
            anyhow!(
                "no network of the space is expected to meet latency_us={}: the fastest possible \
                 one probably takes {}",
                limits
                    .iter()
                    .map(|limit| format!("{}@{}", limit.microseconds, limit.batch))
                    .collect::<Vec<_>>()
                    .join(" "),
                parts.collect::<Vec<_>>().join(", ")
            )
        })?;
        // An impossible limit leaves no trace; hence not sooner.
        for (id, calibration, begin) in fresh {
            record(store, "latency-model", &id, &calibration, begin)?;
            self.context.console.note(&format!(
                "latency at {id} rows: foretold from {} measured networks; nine of ten unseen ones \
                 took at most {:.0} % more, which is added",
                calibration.networks.len(),
                100.0 * calibration.model.margin()
            ));
        }
        Ok(())
    }

    fn measure_networks(&self, limit: &LatencyLimit) -> Result<Calibration> {
        let genotypes = self.random_genotypes(NETWORKS);
        let mut networks: Vec<Measured> = genotypes
            .into_iter()
            .map(|genotype| Measured { genotype, medians: Vec::new() })
            .collect();
        let mut probe = self.probe(limit.batch)?;
        let inputs = self.context.inputs(&self.context.final_tables(self.space.table_cap()));
        let rounds = (networks.len() * ROUNDS) as u64;
        let progress = self.context.console.progress(rounds, "measuring latency");
        for _ in 0..ROUNDS {
            for network in &mut networks {
                self.context.stop.check()?;
                let mut compiled = self.network(&network.genotype).compile(&inputs, false)?;
                network.medians.push(probe.measure(&mut compiled, SHORT)?.median);
                progress.add(1);
            }
        }
        progress.finish();
        let counts: Vec<Vec<f64>> = networks
            .iter()
            .map(|network| latency_counts(&self.space.nasrec().path(&network.genotype), self.shape))
            .collect();
        let times: Vec<f64> = networks.iter().map(Measured::microseconds).collect();
        let model = LinearLatency::fit(&counts, &times).with_context(|| {
            format!(
                "the space has too few networks ({}) to foretell latency; leave out latency_us",
                networks.len()
            )
        })?;
        let LatencyLimit { microseconds, batch } = *limit;
        Ok(Calibration { microseconds, batch, model, networks })
    }

    /// The first `count` of the networks that keep the limits on latency when they are measured.
    ///
    /// # Errors
    /// None of those that were tried keeps them.
    pub(super) fn fast_enough(
        &self,
        store: &mut RunStore,
        genotypes: Vec<Genotype>,
        count: usize,
    ) -> Result<Vec<Genotype>> {
        let limits = self.latency_limits()?;
        if limits.is_empty() {
            return Ok(genotypes.into_iter().take(count).collect());
        }
        let mut probes: Vec<Option<LatencyProbe>> = limits.iter().map(|_| None).collect();
        let (mut kept, mut least) = (Vec::new(), vec![f64::INFINITY; limits.len()]);
        for genotype in genotypes.into_iter().take(MOST_TRIED * count) {
            if kept.len() == count {
                break;
            }
            let mut keeps = true;
            for ((limit, probe), least) in limits.iter().zip(&mut probes).zip(&mut least) {
                let median = self.measured_median(store, limit, probe, &genotype)?;
                keeps &= median <= limit.microseconds;
                *least = least.min(median);
            }
            if keeps {
                kept.push(genotype);
            }
        }
        if kept.is_empty() {
            bail!(
                "none of the best candidates keeps its latency when it is measured (fastest {} us); \
                 the machine may do other work now than when the run began, or the limit is too near \
                 to what the space can do",
                least.iter().map(|us| format!("{us:.0}")).collect::<Vec<_>>().join(", ")
            );
        }
        Ok(kept)
    }

    /// The median of a network's predictions, from the journal or else measured now.
    fn measured_median(
        &self,
        store: &mut RunStore,
        limit: &LatencyLimit,
        probe: &mut Option<LatencyProbe>,
        genotype: &Genotype,
    ) -> Result<f64> {
        let id = format!("{}/{:032x}", limit.batch, self.space.key(genotype));
        if let Some(event) = store.find("latency", &id) {
            return Ok(Latency::deserialize(&event["result"])?.median);
        }
        self.context.stop.check()?;
        let begin = Instant::now();
        let probe = match probe {
            Some(probe) => probe,
            None => probe.insert(self.probe(limit.batch)?),
        };
        let inputs = self.context.inputs(&self.context.final_tables(self.space.table_cap()));
        let mut compiled = self.network(genotype).compile(&inputs, false)?;
        let found = probe.measure(&mut compiled, LONG)?;
        record(store, "latency", &id, &found, begin)?;
        Ok(found.median)
    }

    /// Whether a trained model keeps the limits on latency: networks were measured before, hand-made
    /// models are now.
    pub(super) fn keeps_latency(
        &self,
        store: &mut RunStore,
        name: &str,
        contender: &Contender,
    ) -> Result<bool> {
        let mut keeps = true;
        for limit in self.latency_limits()? {
            let id = match contender {
                Contender::Network(path) => {
                    format!("{}/{:032x}", limit.batch, canonical_key(path))
                }
                Contender::Baseline(_) => format!("{}/{name}", limit.batch),
            };
            let median = match store.find("latency", &id) {
                Some(event) => Latency::deserialize(&event["result"])?.median,
                None => {
                    let begin = Instant::now();
                    let rows = self.context.final_tables(self.space.table_cap());
                    let inputs = self.context.inputs(&rows);
                    let mut compiled = contender.compile(&inputs, false)?;
                    let specs = compiled.tables.clone();
                    let mut probe = LatencyProbe::new(
                        self.shape.dense,
                        specs,
                        inputs.lists.len(),
                        limit.batch,
                    )?;
                    let found = probe.measure(&mut compiled, LONG)?;
                    record(store, "latency", &id, &found, begin)?;
                    found.median
                }
            };
            keeps &= median <= limit.microseconds;
        }
        Ok(keeps)
    }
}
