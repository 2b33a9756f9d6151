//! The report of `palmette bench search`: text, and one HTML page with SVG charts.

use std::fmt::Write;

use palmette_search::bench::Summary;

use crate::commands::bench::Report;

const COLOURS: [&str; 9] = [
    "#4c4c4c", "#1f77b4", "#17becf", "#9467bd", "#8c564b", "#e377c2", "#2ca02c", "#d62728",
    "#ff7f0e",
];

/// A table for people, or rows of an HTML table.
struct Grid {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// The report as text.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n", headline(report));
    for grid in grids(report) {
        let widths: Vec<usize> = (0..grid.header.len())
            .map(|i| {
                let cells = grid.rows.iter().map(|row| row[i].chars().count());
                cells.chain([grid.header[i].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let _ = writeln!(text, "\n{}", grid.title);
        for row in std::iter::once(&grid.header).chain(&grid.rows) {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
        }
    }
    text
}

/// The report as one self-contained page.
pub fn page(report: &Report) -> String {
    let mut body = format!("<h1>Search strategies</h1><p>{}</p>", escape(&headline(report)));
    if let Some(study) = &report.regret {
        let lines: Vec<(String, Vec<(f64, f64)>)> = study
            .methods
            .iter()
            .map(|method| {
                let points = method.curve.iter().enumerate();
                (method.method.clone(), points.map(|(i, &y)| ((i + 1) as f64, y)).collect())
            })
            .collect();
        body += &chart("Mean regret against distinct evaluations (log scale)", &lines, true);
    }
    if let Some(study) = &report.pareto {
        let lines: Vec<(String, Vec<(f64, f64)>)> = study
            .methods
            .iter()
            .map(|(name, shares)| {
                let points = study.checkpoints.iter().zip(shares);
                (name.clone(), points.map(|(&n, share)| (n as f64, share.mean)).collect())
            })
            .collect();
        body += &chart("Share of the table's hypervolume against evaluations", &lines, false);
    }
    if let Some(study) = &report.labels {
        let lines: Vec<(String, Vec<(f64, f64)>)> = study
            .predictors
            .iter()
            .map(|(name, taus)| {
                let points = study.labels.iter().zip(taus);
                (name.clone(), points.map(|(&n, tau)| (n as f64, tau.mean)).collect())
            })
            .collect();
        body += &chart("Kendall's tau against labels", &lines, false);
    }
    if let Some(values) = &report.autocorrelation {
        let points = values.iter().enumerate().map(|(i, &y)| ((i + 1) as f64, y)).collect();
        let line = [(report.quality.clone(), points)];
        body += &chart("Autocorrelation against Hamming distance", &line, false);
    }
    for grid in grids(report) {
        let row = |cells: &[String], tag: &str| {
            let cells: String =
                cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
            format!("<tr>{cells}</tr>")
        };
        let rows: String = grid.rows.iter().map(|cells| row(cells, "td")).collect();
        let _ = write!(
            body,
            "<h2>{}</h2><table>{}{rows}</table>",
            escape(&grid.title),
            row(&grid.header, "th")
        );
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Search strategies</title>\
         <style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         table{{border-collapse:collapse;margin:1rem 0}}td,th{{padding:.2rem .7rem;text-align:left;\
         border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}}svg{{max-width:100%}}</style>\
         <body>{body}</body></html>\n"
    )
}

fn headline(report: &Report) -> String {
    format!(
        "{}: {} networks{}, {}{}",
        report.table,
        report.networks,
        if report.is_pool { " (a pool: the nearest new row answers)" } else { "" },
        report.quality,
        if report.permuted { ", qualities permuted" } else { "" }
    )
}

fn grids(report: &Report) -> Vec<Grid> {
    let mut grids = Vec::new();
    if let Some(study) = &report.regret {
        let mut header = vec!["method".to_owned()];
        header.extend(study.checkpoints.iter().map(|n| format!("at {n}")));
        header.push("median to best".into());
        header.push("found best".into());
        let rows = study.methods.iter().map(|method| {
            let mut row = vec![method.method.clone()];
            row.extend(method.regret.iter().map(interval));
            row.push(number(method.median_to_best));
            let last = method.found_best.last().copied().unwrap_or(0.0);
            row.push(format!("{:.0} %", 100.0 * last));
            row
        });
        let title = format!("Regret, mean and 95 % interval over {} paired seeds", study.seeds);
        grids.push(Grid { title, header: header.clone(), rows: rows.collect() });
        let first = study.methods.first().map_or("", |method| &method.method);
        header.truncate(1 + study.checkpoints.len());
        let rows = study.methods.iter().skip(1).map(|method| {
            let mut row = vec![method.method.clone()];
            row.extend(
                method
                    .against_first
                    .iter()
                    .map(|p| format!("{} wins {:.0} %", interval(&p.difference), 100.0 * p.wins)),
            );
            row
        });
        let title = format!("Difference to {first} on the same seeds (below 0 is better)");
        grids.push(Grid { title, header, rows: rows.collect() });
        let tests = study.methods.first().map_or(&[][..], |method| &method.test_regret[..]);
        if !tests.is_empty() {
            let mut header = vec!["method".to_owned()];
            header.extend(tests.iter().map(|(name, _)| name.clone()));
            let rows = study.methods.iter().map(|method| {
                let mut row = vec![method.method.clone()];
                row.extend(method.test_regret.iter().map(|(_, summary)| interval(summary)));
                row
            });
            let title = "Test regret of the network chosen at the last checkpoint".to_owned();
            grids.push(Grid { title, header, rows: rows.collect() });
        }
    }
    if let Some(values) = &report.autocorrelation {
        grids.push(Grid {
            title: "Autocorrelation by Hamming distance".into(),
            header: (1..=values.len()).map(|d| d.to_string()).collect(),
            rows: vec![values.iter().map(|value| format!("{value:.3}")).collect()],
        });
    }
    if let Some(study) = &report.shrink {
        let header = [
            "method",
            "size",
            "mean",
            "density",
            "recall",
            "regret",
            "diversity",
            "pockets",
            "shrink index",
        ];
        let rows = study.methods.iter().map(|(name, means)| {
            vec![
                name.clone(),
                format!("{:.0}", means.size),
                format!("{:.2}", means.mean),
                interval(&means.density),
                interval(&means.recall),
                interval(&means.regret),
                format!("{:.2}", means.diversity),
                format!("{:.1}", means.pockets),
                format!("{:.2}", means.shrink_index),
            ]
        });
        grids.push(Grid {
            title: format!(
                "Shrinking over {} seeds: {:.1} % with density >= 25 %, recall >= 40 %, <= 250 \
                 members, <= 700 evaluations; mean {:.0}, most {} evaluations; {} refused by the gate",
                study.seeds,
                100.0 * study.share_within_promise,
                study.evaluations.0,
                study.evaluations.1,
                study.refused
            ),
            header: header.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        });
        if !study.transfer.is_empty() {
            let header = ["column", "regret", "full space", "shrunk", "shrunk in total"];
            let rows = study.transfer.iter().map(|transfer| {
                vec![
                    transfer.quality.clone(),
                    transfer.regret.to_string(),
                    number(transfer.full),
                    number(transfer.shrunk),
                    number(transfer.shrunk_in_total),
                ]
            });
            grids.push(Grid {
                title: "Median evaluations of evolution to a regret".into(),
                header: header.map(str::to_owned).to_vec(),
                rows: rows.collect(),
            });
        }
    }
    if let Some(study) = &report.labels {
        let mut header = vec!["predictor".to_owned()];
        header.extend(study.labels.iter().map(|n| format!("{n} labels")));
        let rows = study.predictors.iter().map(|(name, taus)| {
            std::iter::once(name.clone()).chain(taus.iter().map(interval)).collect()
        });
        grids.push(Grid {
            title: format!(
                "Kendall's tau on {} unseen networks, {} splits",
                study.tested, study.seeds
            ),
            header,
            rows: rows.collect(),
        });
    }
    if let Some(study) = &report.pareto {
        let mut header = vec!["method".to_owned()];
        header.extend(study.checkpoints.iter().map(|n| format!("at {n}")));
        let rows = study.methods.iter().map(|(name, shares)| {
            std::iter::once(name.clone()).chain(shares.iter().map(interval)).collect()
        });
        grids.push(Grid {
            title: format!(
                "Share of the hypervolume of {} and {}, {} seeds",
                study.quality, study.cost, study.seeds
            ),
            header,
            rows: rows.collect(),
        });
    }
    grids
}

fn interval(summary: &Summary) -> String {
    format!("{:.3} [{:.3}, {:.3}]", summary.mean, summary.low, summary.high)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A line chart; on a log scale values below 0.01 are drawn at 0.01.
fn chart(title: &str, lines: &[(String, Vec<(f64, f64)>)], log: bool) -> String {
    let (width, height, left, bottom) = (820.0, 360.0, 60.0, 40.0);
    let level = |y: f64| if log { y.max(0.01).log10() } else { y };
    let all = || lines.iter().flat_map(|(_, points)| points.iter());
    let most_x = all().map(|p| p.0).fold(1.0, f64::max);
    let low = all().map(|p| level(p.1)).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| level(p.1)).fold(f64::NEG_INFINITY, f64::max);
    let range = (high - low).max(1e-9);
    let x = |value: f64| left + (width - left - 170.0) * value / most_x;
    let y = |value: f64| 10.0 + (height - bottom - 10.0) * (high - level(value)) / range;
    let mut svg = String::new();
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let value = low + range * share;
        let shown = if log { 10f64.powf(value) } else { value };
        let at = 10.0 + (height - bottom - 10.0) * (1.0 - share);
        let _ = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{shown:.3}</text>",
            width - 170.0,
            left - 6.0,
            at + 4.0
        );
        let at = most_x * share;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.0}</text>",
            x(at),
            height - bottom + 18.0
        );
    }
    for (i, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|&(a, b)| format!("{:.1},{:.1}", x(a), y(b))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            path.join(" "),
            width - 160.0,
            22.0 + 18.0 * i as f64,
            escape(name)
        );
    }
    format!(
        "<h2>{}</h2><svg viewBox=\"0 0 {width} {height}\" font-size=\"12\" role=\"img\">{svg}</svg>",
        escape(title)
    )
}
