//! One workload: check, choose the peer's fastest variants, run all sides in alternation.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use palmette::console::Console;
use palmette_engine::Precision;
use serde::Serialize;
use serde_json::json;

use super::agreement::{Agreement, distance, distance_to_file};
use super::case::Gradients;
use super::peer::{Peer, PeerOptions};
use super::workloads::{Sizes, Workload};

/// How a comparison runs.
pub struct Options<'a> {
    pub peers: Option<&'a PeerOptions>,
    pub preload: &'a [PathBuf],
    pub rounds: u32,
    pub seconds: f64,
    pub variants: &'a [String],
    pub folder: &'a Path,
    pub sizes: Sizes<'a>,
}

/// Results of one workload.
#[derive(Serialize)]
pub struct Comparison {
    pub workload: String,
    pub title: String,
    pub rows: usize,
    /// Samples a second of the released code, quoted.
    pub released: Option<f64>,
    /// Palmette first.
    pub sides: Vec<Side>,
    /// Every variant of the peer that was tried, fastest first.
    pub tried: Vec<Tried>,
}

/// One side, in the rounds.
#[derive(Serialize)]
pub struct Side {
    pub name: String,
    pub bf16: bool,
    /// Milliseconds a step, by round.
    pub rounds: Vec<f64>,
    pub median: f64,
    pub least: f64,
    pub most: f64,
    /// Rows a second at the median.
    pub samples: f64,
    /// GFLOP/s of the products at the median; both sides are charged what Palmette computes.
    pub gflops: f64,
    /// Steps in a round.
    pub steps: u64,
    /// Median, least and most of this side's time over Palmette's with the same number type in
    /// the same round; f32 where Palmette has no bf16.
    pub ratio: [f64; 3],
    pub agreement: Option<Agreement>,
}

/// A variant of the peer that ran shortly.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    pub variant: String,
    /// Library that was loaded first.
    pub preload: Option<String>,
    pub milliseconds: Option<f64>,
    pub agreement: Option<Agreement>,
    /// Why it has no figure.
    pub failed: Option<String>,
}

impl Comparison {
    /// Whether every side that was timed computed the same thing.
    pub fn agrees(&self) -> bool {
        self.sides.iter().all(|side| side.agreement.is_none_or(|agreement| agreement.agrees))
    }
}

/// Steps whose losses are compared.
const CHECKED_STEPS: u64 = 5;

/// Variants of each number type that take part in the rounds: the order of short measurements is
/// not always that of the rounds.
const CONTENDERS: usize = 2;

/// A peer's process and its variant that takes part in the rounds.
struct Entrant {
    process: usize,
    tried: Tried,
    steps: u64,
    rounds: Vec<f64>,
}

/// Palmette with one number type.
struct Own {
    bf16: bool,
    /// bf16 against f32.
    agreement: Option<Agreement>,
    steps: u64,
    rounds: Vec<f64>,
}

impl Own {
    fn precision(&self) -> Precision {
        if self.bf16 { Precision::Bf16 } else { Precision::F32 }
    }
}

/// Measures one workload.
pub fn compare(workload: Workload, options: &Options<'_>, console: &Console) -> Result<Comparison> {
    let mut case = workload.case(options.sizes)?;
    let mut peers = Vec::new();
    if let Some(peer) = options.peers {
        case.write(options.folder)?;
        if workload.is_inference() {
            case.export(options.folder)?;
        }
        let preloads = std::iter::once(None).chain(options.preload.iter().map(Some));
        for preload in preloads {
            let preload = preload.map(PathBuf::as_path);
            let mut process = Peer::start(peer, workload.script(), options.folder, preload)?;
            let opened =
                process.ask(&json!({ "open": options.folder, "threads": peer.threads }))?;
            let named = opened["variants"].as_array().context("the peer named no variants")?;
            let named = named.iter().filter_map(|name| name.as_str().map(str::to_owned));
            let wanted = |name: &String| {
                options.variants.is_empty()
                    || options.variants.iter().any(|text| name.contains(text))
            };
            let version = opened["version"].as_str().unwrap_or("peer").to_owned();
            let variants: Vec<String> = named.filter(wanted).collect();
            peers.push((process, variants, preload.map(|p| p.display().to_string()), version));
        }
    }
    let mut own = vec![Own { bf16: false, agreement: None, steps: 1, rounds: Vec::new() }];
    let first = case.first_results()?;
    let start = Precision::bf16_is_available().then(|| case.model.try_clone()).transpose()?;
    let losses = case.losses(CHECKED_STEPS)?;
    if let Some(start) = start {
        case.restart(start);
        case.set_precision(Precision::Bf16);
        let apart = distance(&first, &case.first_results()?);
        let rounded = case.losses(CHECKED_STEPS)?;
        let agreement = Some(Agreement::new(apart, &losses, &rounded, true, case.rows)?);
        own.push(Own { bf16: true, agreement, steps: 1, rounds: Vec::new() });
    }
    let mut tried = Vec::new();
    let mut best: [Vec<Entrant>; 2] = [Vec::new(), Vec::new()];
    for (process, (peer, variants, preload, _)) in peers.iter_mut().enumerate() {
        for variant in variants.iter() {
            let bf16 = variant.starts_with("bf16");
            let attempt =
                attempt(peer, variant, options, (&first, &losses), (case.period(), case.rows));
            let (agreement, per_step, failed) = match attempt {
                Ok((agreement, seconds)) => (Some(agreement), Some(seconds), None),
                Err(error) => (None, None, Some(format!("{error:#}"))),
            };
            let entry = Tried {
                variant: variant.clone(),
                preload: preload.clone(),
                milliseconds: per_step.map(|seconds| seconds * 1e3),
                agreement,
                failed,
            };
            console.note(&entry.line());
            tried.push(entry.clone());
            let drop = |peer: &mut Peer, name: &str| peer.ask(&json!({ "drop": name })).map(|_| ());
            let (Some(seconds), true) = (per_step, agreement.is_some_and(|a| a.agrees)) else {
                // The process may be gone; then the next request says so.
                let _ = drop(peer, variant);
                continue;
            };
            let steps = steps_for(options.seconds, seconds, case.period());
            let contenders = &mut best[usize::from(bf16)];
            contenders.push(Entrant { process, tried: entry, steps, rounds: Vec::new() });
            contenders.sort_by(|a, b| a.tried.time().total_cmp(&b.tried.time()));
            let slowest = if contenders.len() > CONTENDERS { contenders.pop() } else { None };
            if let Some(slowest) = slowest.filter(|slowest| slowest.process == process) {
                drop(peer, &slowest.tried.variant)?;
            }
        }
    }
    for side in &mut own {
        case.set_precision(side.precision());
        let probe = case.timed(case.period())?.seconds / case.period() as f64;
        side.steps = steps_for(options.seconds, probe, case.period());
    }
    let mut macs = 0;
    let mut entrants: Vec<Entrant> = best.into_iter().flatten().collect();
    let progress = console.progress(u64::from(options.rounds), "rounds");
    let sides = own.len() + entrants.len();
    for round in 0..options.rounds as usize {
        // Sides take turns at going first.
        for turn in 0..sides {
            let side = (round + turn) % sides;
            if let Some(own) = own.get_mut(side) {
                case.set_precision(own.precision());
                let stretch = case.timed(own.steps)?;
                own.rounds.push(stretch.seconds * 1e3 / own.steps as f64);
                macs = stretch.macs / own.steps;
            } else {
                let entrant = &mut entrants[side - own.len()];
                let peer = &mut peers[entrant.process].0;
                let seconds = peer.time(&entrant.tried.variant, entrant.steps)?;
                entrant.rounds.push(seconds * 1e3 / entrant.steps as f64);
            }
        }
        progress.add(1);
    }
    progress.finish();
    tried.sort_by(|a, b| a.time().total_cmp(&b.time()));
    let flops = 2.0 * macs as f64;
    let side = |name: String, bf16, rounds: Vec<f64>, steps, agreement| {
        let [median, least, most] = spread(&rounds);
        let ours = own.iter().rev().find(|own| own.bf16 == bf16).unwrap_or(&own[0]);
        let ratios: Vec<f64> = rounds.iter().zip(&ours.rounds).map(|(a, b)| a / b).collect();
        Side {
            name,
            bf16,
            samples: case.rows as f64 / median * 1e3,
            gflops: flops / median / 1e6,
            ratio: spread(&ratios),
            median,
            least,
            most,
            rounds,
            steps,
            agreement,
        }
    };
    let mut sides = Vec::new();
    for own in &own {
        let name = if own.bf16 { "Palmette bf16" } else { "Palmette f32" };
        sides.push(side(name.into(), own.bf16, own.rounds.clone(), own.steps, own.agreement));
    }
    for entrant in entrants {
        let (_, _, preload, version) = &peers[entrant.process];
        let preload = preload.as_ref().map_or(String::new(), |library| format!(", {library}"));
        let bf16 = entrant.tried.variant.starts_with("bf16");
        let name = format!("{version}, {}{preload}", entrant.tried.variant);
        sides.push(side(name, bf16, entrant.rounds, entrant.steps, entrant.tried.agreement));
    }
    Ok(Comparison {
        workload: workload.name(),
        title: workload.title(case.rows),
        rows: case.rows,
        released: workload.released(),
        sides,
        tried,
    })
}

/// Checks a variant from the start and times it: the least of three short stretches.
fn attempt(
    peer: &mut Peer,
    variant: &str,
    options: &Options<'_>,
    (first, our_losses): (&Gradients, &[f64]),
    (period, rows): (u64, usize),
) -> Result<(Agreement, f64)> {
    let file = options.folder.join("results.bin");
    let request = json!({ "check": variant, "steps": CHECKED_STEPS, "results": file });
    let answer = peer.ask(&request)?;
    let losses = answer["losses"].as_array().context("the peer's answer has no losses")?;
    let losses: Vec<f64> = losses.iter().filter_map(serde_json::Value::as_f64).collect();
    let bf16 = variant.starts_with("bf16");
    let distance = distance_to_file(first, &file)?;
    let agreement = Agreement::new(distance, our_losses, &losses, bf16, rows)?;
    if period > 1 {
        let steps = period.min(20);
        let seconds = peer.time(variant, steps)?;
        return Ok((agreement, seconds / steps as f64));
    }
    let one = peer.time(variant, 3)? / 3.0;
    let steps = steps_for(0.3, one, 1);
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        least = least.min(peer.time(variant, steps)? / steps as f64);
    }
    Ok((agreement, least))
}

/// Steps that fill `seconds`, in whole lists.
fn steps_for(seconds: f64, step: f64, period: u64) -> u64 {
    let lists = (seconds / (step * period as f64)).round().clamp(1.0, 1e6);
    lists as u64 * period
}

/// Median, least and most.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => 0.5 * (sorted[middle - 1] + sorted[middle]),
    };
    let [least, most] = [sorted.first(), sorted.last()].map(|v| v.copied().unwrap_or(f64::NAN));
    [median, least, most]
}

impl Tried {
    /// Milliseconds; endless where there are none.
    fn time(&self) -> f64 {
        self.milliseconds.unwrap_or(f64::INFINITY)
    }

    fn line(&self) -> String {
        let preload = self.preload.as_ref().map_or(String::new(), |p| format!(", {p}"));
        let name = format!("{}{preload}", self.variant);
        match (self.milliseconds, &self.agreement, &self.failed) {
            (Some(ms), Some(agreement), _) if agreement.agrees => format!("  {name}: {ms:.2} ms"),
            (Some(ms), Some(agreement), _) => format!(
                "  {name}: {ms:.2} ms, left out: first steps differ by {:.1e}, their losses by {:.1e}, \
                 later ones by {:.1e}",
                agreement.first_step, agreement.first_loss, agreement.loss
            ),
            (_, _, Some(why)) => format!("  {name}: {why}"),
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_and_whole_lists() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(spread(&[4.0, 1.0]), [2.5, 1.0, 4.0]);
        assert_eq!(steps_for(1.0, 0.1, 1), 10);
        assert_eq!(steps_for(1.0, 0.1, 200), 200);
        assert_eq!(steps_for(60.0, 0.1, 200), 600);
    }
}
