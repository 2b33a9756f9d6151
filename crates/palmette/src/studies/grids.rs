//! Tables of the studies.

use palmette_search::bench::{
    LabelStudy, LeakageStudy, LimitStudy, ParetoStudy, RegretStudy, ShrinkStudy, SpeedStudy,
    Summary,
};

use super::{SearchReport, Studied};

/// A table for people.
pub struct Grid {
    pub title: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// All tables of one quality.
pub fn of(studied: &Studied) -> Vec<Grid> {
    let mut grids: Vec<Grid> = studied.regret.iter().flat_map(regret).collect();
    if let Some(fit) = studied.surrogate {
        grids.push(Grid {
            title: "The surrogate on rows it has not seen".into(),
            header: texts(&["rows", "Kendall's tau"]),
            rows: vec![vec![fit.held_out.to_string(), format!("{:.3}", fit.tau)]],
        });
    }
    if let Some(values) = &studied.autocorrelation {
        grids.push(Grid {
            title: "Autocorrelation by Hamming distance".into(),
            header: (1..=values.len()).map(|d| d.to_string()).collect(),
            rows: vec![values.iter().map(|value| format!("{value:.4}")).collect()],
        });
    }
    grids.extend(studied.shrink.iter().flat_map(shrink));
    grids.extend(studied.labels.as_ref().map(labels));
    grids.extend(studied.limits.as_ref().map(limits));
    grids.extend(pareto(&studied.pareto));
    grids.extend(studied.leakage.as_ref().map(leakage));
    grids.extend(studied.speed.as_ref().map(speed));
    grids
}

/// Mean ranks over all regret studies, the best at the last checkpoint first.
pub fn mean_ranks(report: &SearchReport) -> Option<Grid> {
    let last = |ranks: &[Summary]| ranks.last().map_or(0.0, |rank| rank.mean);
    let mut ranked: Vec<_> = report.mean_ranks.iter().collect();
    ranked.sort_by(|a, b| last(&a.1).total_cmp(&last(&b.1)));
    let studies = report.studied.iter().map(|studied| studied.regret.len()).sum::<usize>();
    (!ranked.is_empty()).then(|| Grid {
        title: format!("Mean rank over {studies} searched tables (1 is best), 95 % interval"),
        header: at("method", &report.checkpoints),
        rows: ranked.into_iter().map(|(name, ranks)| row(name, ranks, interval2)).collect(),
    })
}

fn regret(study: &RegretStudy) -> Vec<Grid> {
    let RegretStudy { searched, seeds, checkpoints, reference, .. } = study;
    let mut header = at("method", checkpoints);
    header.push("median to best".into());
    let mut grids = Vec::new();
    grids.push(Grid {
        title: format!("Regret on {searched}, mean and 95 % interval over {seeds} paired seeds"),
        header,
        rows: study
            .methods
            .iter()
            .map(|method| {
                let mut cells = row(&method.method, &method.regret, interval);
                cells.push(count(method.median_to_best));
                cells
            })
            .collect(),
    });
    let mut header = at("method", checkpoints);
    header.push(format!("sooner than {reference}"));
    grids.push(Grid {
        title: "Seeds that found the best network".into(),
        header,
        rows: study
            .methods
            .iter()
            .map(|method| {
                let mut cells = row(&method.method, &method.found_best, |share| percent(*share));
                cells.push(percent(method.sooner_than_reference));
                cells
            })
            .collect(),
    });
    grids.push(Grid {
        title: "Rank on the same seed (1 is best)".into(),
        header: at("method", checkpoints),
        rows: study.methods.iter().map(|m| row(&m.method, &m.rank, interval2)).collect(),
    });
    let others = study.methods.iter().filter(|method| method.method != *reference);
    grids.push(Grid {
        title: format!("Regret minus that of {reference} on the same seeds (below 0 is better)"),
        header: at("method", checkpoints),
        rows: others
            .map(|method| {
                row(&method.method, &method.against_reference, |paired| {
                    format!("{} wins {}", interval(&paired.difference), percent(paired.wins))
                })
            })
            .collect(),
    });
    let tests = study.methods.first().map_or(&[][..], |method| &method.test_regret[..]);
    for (t, (column, _)) in tests.iter().enumerate() {
        grids.push(Grid {
            title: format!("Regret in {column} of the network chosen"),
            header: at("method", checkpoints),
            rows: study
                .methods
                .iter()
                .map(|method| row(&method.method, &method.test_regret[t].1, interval))
                .collect(),
        });
    }
    grids
}

fn shrink(study: &ShrinkStudy) -> Vec<Grid> {
    let header = [
        "method",
        "size",
        "size ratio",
        "mean",
        "density",
        "recall",
        "regret of the best",
        "diversity",
        "pockets",
        "shrink index",
    ];
    let rows = study.methods.iter().map(|(name, means)| {
        vec![
            name.clone(),
            format!("{:.0}", means.size),
            format!("{:.4}", means.size_ratio),
            format!("{:.2}", means.mean),
            interval(&means.density),
            interval(&means.recall),
            interval(&means.regret),
            format!("{:.2}", means.diversity),
            format!("{:.1}", means.pockets),
            format!("{:.2}", means.shrink_index),
        ]
    });
    let mut grids = vec![Grid {
        title: format!(
            "Shrinking over {} seeds: {} with density >= 25 %, recall >= 40 %, <= 250 members and \
             <= 700 evaluations; {:.0} evaluations in the mean, {} at most; {} refused by the gate",
            study.seeds,
            percent(study.share_within_promise),
            study.evaluations.0,
            study.evaluations.1,
            study.refused
        ),
        header: texts(&header),
        rows: rows.collect(),
    }];
    if !study.transfer.is_empty() {
        let header = ["column", "regret", "full space", "shrunk", "shrunk, shrinking included"];
        let rows = study.transfer.iter().map(|transfer| {
            vec![
                transfer.quality.clone(),
                transfer.regret.to_string(),
                count(transfer.full),
                count(transfer.shrunk),
                count(transfer.shrunk_in_total),
            ]
        });
        grids.push(Grid {
            title: "Median evaluations of evolution to a regret".into(),
            header: texts(&header),
            rows: rows.collect(),
        });
    }
    grids
}

fn labels(study: &LabelStudy) -> Grid {
    let mut header = vec!["predictor".to_owned()];
    header.extend(study.labels.iter().map(|n| format!("{n} labels")));
    let cost = study.cost.as_ref().map(|cost| format!("; cost: {cost}")).unwrap_or_default();
    Grid {
        title: format!(
            "Kendall's tau on {} unseen networks, {} splits{cost}",
            study.tested, study.seeds
        ),
        header,
        rows: study.predictors.iter().map(|(name, taus)| row(name, taus, interval)).collect(),
    }
}

fn limits(study: &LimitStudy) -> Grid {
    let mut header = texts(&["cost", "at most", "networks", "best"]);
    header.extend(study.methods.iter().cloned());
    header.push("over the limit".into());
    let rows = study.costs.iter().map(|cost| {
        let mut cells = vec![
            cost.cost.clone(),
            format!("{:.4}", cost.most),
            cost.networks.to_string(),
            format!("{:.3}", cost.best_quality),
        ];
        cells.extend(cost.regret.iter().map(interval));
        cells.push(cost.infeasible.to_string());
        cells
    });
    Grid {
        title: format!(
            "Hard limits that admit {} of the networks: regret after {} evaluations, {} seeds",
            percent(study.admitted),
            study.evaluations,
            study.seeds
        ),
        header,
        rows: rows.collect(),
    }
}

fn pareto(studies: &[ParetoStudy]) -> Option<Grid> {
    let first = studies.first()?;
    let mut header = texts(&["cost", "method"]);
    header.extend(first.checkpoints.iter().map(|n| format!("at {n}")));
    let rows = studies.iter().flat_map(|study| {
        study.methods.iter().map(|(name, shares)| {
            let mut cells = vec![study.cost.clone()];
            cells.extend(row(name, shares, interval));
            cells
        })
    });
    Some(Grid {
        title: format!("Share of the table's hypervolume, {} seeds", first.seeds),
        header,
        rows: rows.collect(),
    })
}

fn leakage(study: &LeakageStudy) -> Grid {
    let rows = study.methods.iter().map(|method| {
        vec![
            method.method.clone(),
            interval(&method.regret),
            format!("{:.2}", method.standard_errors),
            if method.is_clean { "no leak" } else { "LEAK" }.to_owned(),
        ]
    });
    Grid {
        title: format!(
            "Permuted qualities: regret after {} evaluations, {} seeds; by chance {:.4} +- {:.4}",
            study.evaluations,
            study.seeds,
            study.expected_regret,
            study.deviation / (study.seeds as f64).sqrt()
        ),
        header: texts(&["method", "regret", "standard errors from chance", "verdict"]),
        rows: rows.collect(),
    }
}

fn speed(study: &SpeedStudy) -> Grid {
    let rows = study.methods.iter().map(|method| {
        vec![
            method.method.clone(),
            format!("{:.0}", method.rounds_a_second),
            format!("{:.2}", method.seconds),
        ]
    });
    let seconds = format!(
        "s for {} searches of {} evaluations, {} threads",
        study.searches, study.evaluations, study.threads
    );
    Grid {
        title: "Speed".into(),
        header: vec!["method".into(), "rounds/s on one core".into(), seconds],
        rows: rows.collect(),
    }
}

fn at(first: &str, checkpoints: &[usize]) -> Vec<String> {
    let columns = checkpoints.iter().map(|n| format!("at {n}"));
    std::iter::once(first.to_owned()).chain(columns).collect()
}

fn row<T>(name: &str, values: &[T], show: impl Fn(&T) -> String) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(values.iter().map(show)).collect()
}

fn texts(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Three decimals, or as many as show two digits of a small interval's end.
fn interval(summary: &Summary) -> String {
    let size = summary.low.abs().max(summary.high.abs());
    let digits =
        if size > 0.0 && size < 0.01 { (1.0 - size.log10()).ceil().min(12.0) } else { 3.0 };
    let digits = digits as usize;
    format!("{:.digits$} [{:.digits$}, {:.digits$}]", summary.mean, summary.low, summary.high)
}

fn interval2(summary: &Summary) -> String {
    format!("{:.2} [{:.2}, {:.2}]", summary.mean, summary.low, summary.high)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn count(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_losses_show_their_digits() {
        let summary = |mean, low, high| Summary { mean, standard_error: 0.0, low, high };
        assert_eq!(interval(&summary(1.2345, 1.1, 1.3)), "1.234 [1.100, 1.300]");
        assert_eq!(interval(&summary(0.0, 0.0, 0.0)), "0.000 [0.000, 0.000]");
        assert_eq!(interval(&summary(2.04e-4, 1.0e-4, 3.1e-4)), "0.00020 [0.00010, 0.00031]");
    }
}
