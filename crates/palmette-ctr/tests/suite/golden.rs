//! Logits, loss and gradients of the released PyTorch code.

use palmette_ctr::nasrec::{ArchitectureFile, GoldenFile, check_golden};

#[test]
fn released_code_is_reproduced() {
    let shared = std::env::var("PALMETTE_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let data = std::path::Path::new(&shared).join("data");
    if !data.is_dir() {
        println!("skipped: no golden files at {}", data.display());
        return;
    }
    for name in ["nasrec_criteo_full", "nasrec_criteo_small", "nasrec_avazu_small"] {
        let read = |folder: &str| {
            std::fs::read_to_string(data.join(folder).join(format!("{name}.json"))).unwrap()
        };
        let architecture = ArchitectureFile::parse(&read("arch")).unwrap();
        let golden: GoldenFile = serde_json::from_str(&read("golden")).unwrap();
        for report in [
            check_golden::<f64>(&golden, &architecture, 1e-9).unwrap(),
            check_golden::<f32>(&golden, &architecture, 1e-4).unwrap(),
        ] {
            println!("{name} {} {:?}", report.precision, report.worst());
            assert!(report.comparisons.len() > 100);
            assert!(report.passes(), "{name} {:?}", report.worst());
        }
    }
}
