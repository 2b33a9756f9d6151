//! The report for people.

use super::Report;
use super::agreement::Agreement;
use super::compare::Comparison;
use super::peak::Peak;

/// Tables, one a workload.
pub fn text(report: &Report) -> String {
    let rate = |gflops: Option<f64>| gflops.map_or("unknown".into(), |g| format!("{g:.0} GFLOP/s"));
    let mut text = format!(
        "{} threads, {}; multiply-adds on registers: f32 {}, bf16 {}\n",
        report.threads,
        report.instruction_set,
        rate(report.peak_gflops.f32),
        rate(report.peak_gflops.bf16)
    );
    for workload in &report.workloads {
        text += &table(workload, report.peak_gflops);
    }
    text
}

fn table(comparison: &Comparison, peak: Peak) -> String {
    let mut text = format!("\n{}\n", comparison.title);
    text += &format!(
        "  {:<52} {:>8} {:>8} {:>8} {:>10} {:>8} {:>6}  time over Palmette's (least-most)\n",
        "", "ms", "least", "most", "samples/s", "GFLOP/s", "peak"
    );
    for side in &comparison.sides {
        let peak = if side.bf16 { peak.bf16 } else { peak.f32 };
        let share = peak.map_or("-".into(), |peak| format!("{:.0} %", 100.0 * side.gflops / peak));
        let ratio = match side.ratio {
            [median, least, most] if !side.name.starts_with("Palmette") => {
                format!("{median:.2} ({least:.2}-{most:.2})")
            }
            _ => String::new(),
        };
        let line = format!(
            "  {:<52} {:>8.2} {:>8.2} {:>8.2} {:>10.0} {:>8.0} {:>6}  {ratio}",
            side.name, side.median, side.least, side.most, side.samples, side.gflops, share
        );
        text += line.trim_end();
        text.push('\n');
    }
    if let (Some(released), Some(ours)) = (comparison.released, comparison.sides.first()) {
        text += &format!(
            "  released code, quoted: {released:.0} samples/s; Palmette does {:.1} times that\n",
            ours.samples / released
        );
    }
    for side in &comparison.sides {
        let Some(agreement) = &side.agreement else { continue };
        let verdict = if agreement.agrees { "agrees" } else { "DOES NOT AGREE" };
        let Agreement { first_step, first_loss, loss, .. } = agreement;
        text += &format!(
            "  {verdict}: {}: first step differs by {first_step:.1e}, its loss by {first_loss:.1e}, \
             later ones by {loss:.1e}\n",
            side.name
        );
    }
    text
}
