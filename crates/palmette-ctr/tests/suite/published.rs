//! The published architectures: multiply-accumulates, parameters, reading and writing.

use std::path::PathBuf;

use palmette_ctr::nasrec::{
    ArchitectureFile, DatasetPreset, NasRecConfig, NasRecSpace, macs, macs_with_dead_code, params,
    params_with_dead_code,
};

/// The folder of development data, or a printed reason to skip.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("PALMETTE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")));
    if folder.join("data/arch").is_dir() {
        return Some(folder);
    }
    println!("skipped: no development data at {}", folder.display());
    None
}

fn read(folder: &std::path::Path, name: &str) -> ArchitectureFile {
    let text = std::fs::read_to_string(folder.join(format!("data/arch/{name}.json"))).unwrap();
    ArchitectureFile::parse(&text).unwrap()
}

#[test]
fn macs_agree_with_the_published_column() {
    let Some(folder) = shared() else { return };
    // Name, preset, published millions, with dead code.
    for (name, preset, live, naive) in [
        ("nasrec_criteo_small", "criteo", 2.208, 2.415),
        ("nasrec_criteo_full", "criteo", 1.448, 3.162),
        ("nasrec_avazu_small", "avazu", 3.086, 3.184),
        ("nasrec_avazu_full", "avazu", 1.867, 3.791),
    ] {
        let file = read(&folder, name);
        let shape = DatasetPreset::find(preset).unwrap().shape;
        let got = [macs(&file.path, shape), macs_with_dead_code(&file.path, shape)];
        for (got, want) in got.into_iter().zip([live, naive]) {
            let millions = got as f64 / 1e6;
            assert!((millions - want).abs() < 0.0006, "{name}: {millions} against {want}");
        }
    }
}

#[test]
fn params_agree_with_the_released_code() {
    let Some(folder) = shared() else { return };
    for name in ["nasrec_criteo_small", "nasrec_criteo_full", "nasrec_avazu_small"] {
        let file = read(&folder, name);
        let preset = if name.contains("criteo") { "criteo" } else { "avazu" };
        let shape = DatasetPreset::find(preset).unwrap().shape;
        let text =
            std::fs::read_to_string(folder.join(format!("data/golden/{name}.json"))).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (mut live, mut all) = (0, 0);
        for parameter in golden["parameters"].as_array().unwrap() {
            if parameter["kind"] == "embedding" {
                continue;
            }
            let size: u64 = parameter["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .product();
            all += size;
            live += if parameter["grad"].is_null() { 0 } else { size };
        }
        assert_eq!(params(&file.path, shape), live, "{name}, live");
        assert_eq!(params_with_dead_code(&file.path, shape), all, "{name}, all");
    }
}

#[test]
fn published_files_survive_a_round_trip() {
    let Some(folder) = shared() else { return };
    for name in
        ["nasrec_criteo_small", "nasrec_criteo_full", "nasrec_avazu_small", "nasrec_avazu_full"]
    {
        let file = read(&folder, name);
        let again = ArchitectureFile::parse(&file.to_json().unwrap().to_string()).unwrap();
        assert_eq!(file, again);
        let space = NasRecSpace::new(NasRecConfig::published(file.operators)).unwrap();
        let genotype = space.genotype(&file.path).unwrap();
        assert_eq!(space.path(&genotype), file.path);
    }
}
