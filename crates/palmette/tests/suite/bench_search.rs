//! `palmette bench search` through the real binary, on a user's own table.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("palmette-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, text: &str) -> String {
        let file = self.0.join("own.csv");
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palmette"))
        .args(["bench", "search"])
        .args(args)
        .output()
        .unwrap()
}

/// 3 x 4 x 5 networks without the first: a pool. The best has every gene at its largest.
fn own_table() -> String {
    let mut text = "operator,depth,width,accuracy,ms\n".to_owned();
    for (o, operator) in ["skip", "pool", "conv"].iter().enumerate() {
        for depth in 1..=4 {
            for width in [8, 16, 24, 32, 40] {
                let accuracy = 10 * o + depth + width / 8;
                if accuracy == 2 {
                    continue;
                }
                text += &format!("{operator},{depth},{width},{accuracy},{}\n", depth * width);
            }
        }
    }
    text
}

#[test]
fn a_table_of_ones_own_is_searched_and_drawn() {
    let folder = Folder::new("own");
    let file = folder.write(&own_table());
    let output = folder.0.join("report");
    let run = |threads: &str| {
        let out = bench(&[
            &file,
            "--score=accuracy",
            "--cost=ms",
            "--study=regret,surrogate,locality,labels,limits,pareto,leakage",
            "--labels=10",
            "--splits=3",
            "--predictors=ridge,process,dense-sparse-cost,trees",
            "--methods=random,local-search,predictor-guided",
            "--against=local-search",
            "--evaluations=10,60",
            "--seeds=8",
            "--format=json",
            "--threads",
            threads,
            "--output",
            output.to_str().unwrap(),
        ]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let report = run("1");
    let studied = &report["studied"][0];
    assert_eq!(
        (studied["networks"].as_u64(), studied["is_pool"].as_bool()),
        (Some(59), Some(true))
    );
    assert_eq!(studied["genotype"], serde_json::json!(["operator", "depth", "width"]));
    for method in studied["regret"][0]["methods"].as_array().unwrap() {
        // All 59 networks were asked for, so the best was found.
        assert_eq!(method["regret"][1]["mean"], 0.0, "{method}");
        assert_eq!(method["found_best"][1], 1.0);
    }
    let random = studied["regret"][0]["methods"][0]["regret"][0]["mean"].as_f64().unwrap();
    assert!(random > 0.0);
    assert_eq!(studied["regret"][1]["searched"], format!("{file} (fitted surrogate)"));
    assert!(studied["autocorrelation"][0].as_f64().unwrap() > 0.3);
    assert_eq!(studied["labels"]["predictors"].as_array().unwrap().len(), 4);
    assert_eq!(studied["limits"]["costs"][0]["infeasible"], 0);
    assert_eq!(studied["pareto"][0]["methods"][0][1][1]["mean"], 1.0);
    assert_eq!(report["mean_ranks"].as_array().unwrap().len(), 3);
    let written = std::fs::read_to_string(output.join("search.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), report);
    let page = std::fs::read_to_string(output.join("search.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("local-search") && !page.contains("http"));
    assert_eq!(run("2"), report, "threads changed a result");
}

#[test]
fn tables_with_different_scores_go_together_and_json_carries_warnings() {
    let folder = Folder::new("two");
    let first = folder.write(&own_table());
    let second = folder.0.join("second.csv");
    let mut text = "kernel,seconds,quality\n".to_owned();
    for kernel in 0..12 {
        text += &format!("{kernel},{}.25,{}\n", kernel * 7, kernel % 5);
        text += &format!("{kernel},{}.75,{}\n", kernel * 7, kernel % 4);
    }
    std::fs::write(&second, text).unwrap();
    let second = second.to_str().unwrap();
    let args = ["--methods=random", "--evaluations=5", "--seeds=4", "--format=json"];
    let scores = ["--score=accuracy,quality", "--test=ms"];
    let out = bench(&[&[&first, second], &args[..], &scores].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let qualities: Vec<_> =
        report["studied"].as_array().unwrap().iter().map(|s| s["quality"].clone()).collect();
    assert_eq!(qualities, ["accuracy", "quality"]);
    // `seconds` has its own number in every row and was given no role.
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].as_str().unwrap().contains("column `seconds`"), "{warnings:?}");

    // A name that no table has is still an error.
    let out = bench(&[&[&first, second], &args[..], &["--score=accuracy,qualty"]].concat());
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && text.contains("second.csv: no score"), "{text}");
}

#[test]
fn mistakes_are_named() {
    let folder = Folder::new("mistakes");
    let file = folder.write("operator,accuracy\na,1\nb,high\n");
    let check = |args: &[&str], want: &str| {
        let out = bench(&[&[&file[..]], args].concat());
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(text.contains(want), "{want}\n{text}");
    };
    check(&["--score", "accuracy"], "row 3, column `accuracy`: `high`");
    check(&["--score", "acc"], "column `acc` is missing; there are: operator, accuracy");
    check(&[], "no score is named");
    check(&["--score", "accuracy", "--methods", "local-serch"], "local-search");
    check(&["--score", "accuracy", "--seeds", "0"], "0");
    folder.write(&own_table());
    check(&["--score=accuracy", "--methods=random", "--against=nsga2"], "--against nsga2");
    check(&["--score=accuracy", "--cost=ms", "--limit=ms=1"], "no network of the table has `ms`");
    check(&["--score=accuracy", "--study=pareto"], "needs a cost column");
    check(&["--score=accuracy", "--study=limits"], "has no cost column");
    check(&["--score=accuracy", "--cost=ms", "--limit=mss=9"], "did you mean `ms`?");
    check(&["--score=accuracy", "--transfer=accuracie"], "did you mean `accuracy`?");
    check(&["--score=accuracy", "--cost=accuracy"], "is both a score and a cost");
    check(&["--score=accuracy", "--evaluations=1000000000"], "has 59 networks");
    check(&["--score=accuracy", "--study=labels"], "at most 30 of the 59 networks");
}
