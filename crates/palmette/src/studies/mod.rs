/*!
What `palmette bench search` found: as text, and as one self-contained HTML page.

A [`SearchReport`] holds studies of [`palmette_search::bench`], each optional, for
one or several qualities of one or several tables. [`text`] and [`page`] show
them; nothing here searches, and the page needs no network and no script.
*/

mod charts;
mod grids;

use std::fmt::Write;

use palmette_search::bench::{
    LabelStudy, LeakageStudy, LimitStudy, ParetoStudy, RegretStudy, ShrinkStudy, SpeedStudy,
    Summary,
};
use serde::Serialize;

use crate::drawing::svg::escape;
use grids::Grid;

/// All studies of a call.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SearchReport {
    /// What looks wrong with the tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// One entry per table and quality.
    pub studied: Vec<Studied>,
    /// Numbers of evaluations of the mean ranks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<usize>,
    /// Per method, its mean rank over all regret studies, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean_ranks: Vec<(String, Vec<Summary>)>,
}

/// Studies of one quality of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Studied {
    /// The table's name.
    pub table: String,
    /// Networks in it.
    pub networks: usize,
    /// Whether it lacks networks of its space.
    pub is_pool: bool,
    /// Columns of the genotype.
    pub genotype: Vec<String>,
    /// The quality.
    pub quality: String,
    /// Whether qualities were dealt to other networks first.
    pub is_permuted: bool,
    /// Regret on the table or pool, then on a surrogate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regret: Vec<RegretStudy>,
    /// How well the surrogate ranks held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surrogate: Option<SurrogateFit>,
    /// Correlation of qualities at distance 1, 2, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autocorrelation: Option<Vec<f64>>,
    /// Shrinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shrink: Option<ShrinkStudy>,
    /// Predictors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelStudy>,
    /// Searches under hard limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitStudy>,
    /// Two objectives, one entry per cost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pareto: Vec<ParetoStudy>,
    /// Permuted labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leakage: Option<LeakageStudy>,
    /// Speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedStudy>,
}

/// Held-out quality of a surrogate.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SurrogateFit {
    /// Kendall's tau on rows that the trees have not seen.
    pub tau: f64,
    /// Number of these rows.
    pub held_out: usize,
}

/// The report as text.
pub fn text(report: &SearchReport) -> String {
    let mut text = String::new();
    for studied in &report.studied {
        let _ = writeln!(text, "{}", headline(studied));
        let _ = writeln!(text, "genotype: {}", studied.genotype.join(", "));
        grids::of(studied).iter().for_each(|grid| write_grid(&mut text, grid));
        text += "\n";
    }
    if let Some(grid) = grids::mean_ranks(report) {
        write_grid(&mut text, &grid);
    }
    text
}

fn write_grid(text: &mut String, grid: &Grid) {
    let width = |i: usize| {
        let cells = grid.rows.iter().map(|row| row[i].chars().count());
        cells.chain([grid.header[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..grid.header.len()).map(width).collect();
    let _ = writeln!(text, "\n{}", grid.title);
    for row in std::iter::once(&grid.header).chain(&grid.rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
}

/// The report as one page.
pub fn page(report: &SearchReport) -> String {
    let mut body = String::from("<h1>Search strategies on tables of trained networks</h1>\n");
    if let Some(grid) = grids::mean_ranks(report) {
        let _ = writeln!(body, "<section>{}</section>", table(&grid));
    }
    for studied in &report.studied {
        let _ = writeln!(body, "<section><h2>{}</h2>", escape(&headline(studied)));
        let _ = writeln!(body, "<p>Genotype: {}</p>", escape(&studied.genotype.join(", ")));
        for chart in charts::of(studied) {
            let _ = writeln!(body, "<figure>{chart}</figure>");
        }
        for grid in grids::of(studied) {
            body += &table(&grid);
        }
        body += "</section>\n";
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Search strategies</title><style>{}{}</style></head>\
         <body><main>\n{body}</main></body></html>\n",
        include_str!("../report/style.css"),
        include_str!("style.css")
    )
}

fn table(grid: &Grid) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = grid.rows.iter().map(|cells| row(cells, "td")).collect();
    format!(
        "<h3>{}</h3><div class=\"scroll\"><table><thead>{}</thead><tbody>{rows}</tbody></table></div>\n",
        escape(&grid.title),
        row(&grid.header, "th")
    )
}

fn headline(studied: &Studied) -> String {
    format!(
        "{}: {} networks{}, {}{}",
        studied.table,
        studied.networks,
        if studied.is_pool { " (a pool: the nearest new row answers)" } else { "" },
        studied.quality,
        if studied.is_permuted { ", qualities permuted" } else { "" }
    )
}
