/*!
One self-contained HTML page about a run.

[`ReportData`] is what it is made of, every part optional; [`render`] turns it
into a page that needs no network, no script and no other file: charts are
inline SVG, styles follow the reader's light or dark setting, and every chart
has a description and tooltips. The first line says ship or keep.

```
use palmette::report::{Difference, ReportData, Verdict, render};

let verdict = Verdict {
    incumbent: "DeepFM".into(),
    own: true,
    difference: Difference { difference: -0.003, low: -0.004, high: -0.002, confidence: 0.95 },
    resampled: "61 days".into(),
};
let page = render(&ReportData { verdict: Some(verdict), ..ReportData::default() })?;
assert!(page.contains("<h1>Ship the searched model</h1>"));
# Ok::<(), palmette::report::ReportError>(())
```
*/

mod charts;
mod data;
mod figure;
pub(crate) mod plot;
pub(crate) mod scale;
mod view;

use thiserror::Error;

pub use data::{
    CalibrationBin, CalibrationPlot, Compared, Cost, CostedModel, DatasetFacts, Difference,
    Evaluated, Origin, Phase, RankAgreement, ReportData, Spread, TestMetrics, Verdict,
};
pub use figure::{Measured, Series, figure};

/// Why a report cannot be written.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The page's template failed.
    #[error("the report's template failed: {0}")]
    Template(#[from] minijinja::Error),
}

/// Renders the page.
pub fn render(data: &ReportData) -> Result<String, ReportError> {
    let mut environment = minijinja::Environment::new();
    // The name's ending turns on HTML escaping; only SVG made here is marked safe.
    environment.add_template("report.html", include_str!("template.html"))?;
    let view = minijinja::value::Serde(view::View::new(data));
    let page = environment.get_template("report.html")?.render(view)?;
    Ok(page)
}

#[cfg(test)]
mod tests;
