//! `palmette prepare` through the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use palmette_data::{Dataset, Split};
use palmette_random::{Draw, stream};

fn palmette(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palmette")).current_dir(dir).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A log in Criteo's form.
fn criteo(dir: &Path, name: &str, rows: usize) {
    let mut random = stream(9, "test/prepare", rows as u64);
    let mut log = String::new();
    for _ in 0..rows {
        log.push(if random.chance(0.25) { '1' } else { '0' });
        (0..13).for_each(|_| log.push_str(&format!("\t{}", random.below(500))));
        (0..26).for_each(|_| log.push_str(&format!("\t{:08x}", random.next_below())));
        log.push('\n');
    }
    std::fs::write(dir.join(name), log).unwrap();
}

trait NextBelow {
    /// Ids with a few frequent and many rare values.
    fn next_below(&mut self) -> u64;
}

impl<R: Draw> NextBelow for R {
    fn next_below(&mut self) -> u64 {
        let limit = 10u64.pow(1 + self.below(6) as u32);
        self.below(limit).wrapping_mul(0x9e37_79b9) & 0xffff_ffff
    }
}

/// All files of a dataset but its lock.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => waiting.push(path),
                false => files
                    .push((path.strip_prefix(dir).unwrap().into(), std::fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn prepares_criteo_and_prints_json() {
    let dir = tempfile::tempdir().unwrap();
    criteo(dir.path(), "train.txt", 2_000);
    let args = ["prepare", "--schema", "criteo", "train.txt", "-o", "data", "--format", "json"];
    let output = palmette(dir.path(), &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["rows"], serde_json::json!([1600, 200, 200]));
    assert_eq!(summary["dense_fields"], 13);
    assert_eq!(summary["table_rows"], 33_762_601);
    let dataset = Dataset::open(&dir.path().join("data")).unwrap();
    dataset.verify().unwrap();
    assert_eq!(summary["fingerprint"], dataset.fingerprint());
    // the same command again finds the work done
    let again = palmette(dir.path(), &args);
    assert_eq!(again.stdout, output.stdout);
}

#[test]
fn bad_input_is_an_error_with_file_row_and_field() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.toml"), "label = \"y\"\ncategorical = [\"c\"]\n").unwrap();
    std::fs::write(dir.path().join("bad.csv"), "y,c\n1,a\n3,b\n").unwrap();
    std::fs::write(dir.path().join("empty.csv"), "").unwrap();
    std::fs::write(dir.path().join("typo.toml"), "label = \"y\"\ncategoricall = [\"c\"]\n")
        .unwrap();
    let check = |schema: &str, input: &str, expect: &str| {
        let output = palmette(dir.path(), &["prepare", "--schema", schema, input, "-o", "out"]);
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains(expect), "got: {error}\nexpect: {expect}");
        assert!(output.stdout.is_empty());
    };
    check("s.toml", "bad.csv", "error: bad.csv: row 3, field `y`: label 3 is outside {0, 1}");
    check("s.toml", "empty.csv", "error: empty.csv: the file has no rows");
    check("s.toml", "nowhere.csv", "cannot open nowhere.csv");
    check(
        "typo.toml",
        "bad.csv",
        "typo.toml: unknown key `categoricall`; did you mean `categorical`?",
    );
    check("criteoo", "bad.csv", "did you mean `criteo`?");
    check("kdd12", "bad.csv", "--profile");
}

#[test]
fn quarantine_goes_on_up_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.toml"), "label = \"y\"\ncategorical = [\"c\"]\n").unwrap();
    let mut log = String::from("y,c\n");
    (0..50).for_each(|i| log.push_str(if i % 10 == 5 { "x,a\n" } else { "1,a\n" }));
    std::fs::write(dir.path().join("log.csv"), log).unwrap();
    let run = |max: &str, out: &str| {
        let args = ["--on-bad-row=quarantine", "--max-bad", max, "-o", out];
        palmette(
            dir.path(),
            &[&["prepare", "--schema", "s.toml", "log.csv"][..], &args[..]].concat(),
        )
    };
    let output = run("5", "a");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("5 bad rows in quarantine.jsonl"));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("a/quarantine.jsonl")).unwrap().lines().count(),
        5
    );
    let output = run("4", "b");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("5 bad rows, more than the 4 allowed"));
}

#[test]
fn dry_run_writes_nothing_and_comes_close() {
    let dir = tempfile::tempdir().unwrap();
    criteo(dir.path(), "train.txt", 3_000);
    let args = [
        "prepare",
        "--schema",
        "criteo",
        "train.txt",
        "-o",
        "data",
        "--dry-run",
        "--format",
        "json",
    ];
    let output = palmette(dir.path(), &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let estimate: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(estimate["rows"], 3_000);
    assert_eq!(estimate["dataset_bytes"], 3_000 * (1 + 4 * 39));
    assert!(estimate["memory_bytes"].as_u64().unwrap() <= 1 << 30);
    assert!(!dir.path().join("data").exists());
}

#[test]
fn an_inferred_schema_prepares_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = String::from("click,price,site,when\n");
    for i in 0..500 {
        log.push_str(&format!(
            "{},{}.25,s{},2024-03-{:02}\n",
            i % 3 % 2,
            i % 60,
            i % 11,
            i / 20 + 1
        ));
    }
    std::fs::write(dir.path().join("log.csv"), log).unwrap();
    let output = palmette(dir.path(), &["prepare", "--infer", "log.csv", "-o", "log.toml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output =
        palmette(dir.path(), &["prepare", "--schema", "log.toml", "log.csv", "-o", "data"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(Dataset::open(&dir.path().join("data")).unwrap().rows(Split::Train), 400);
    // a file that exists is not overwritten by accident
    let output = palmette(dir.path(), &["prepare", "--infer", "log.csv", "-o", "log.toml"]);
    assert!(text(&output.stderr).contains("--overwrite"));
}

/// Kills the binary at twenty-five moments, spread over the whole run, each time going on with what is
/// there, and compares every byte with an undisturbed run.
#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut schema = palmette_data::Schema::preset("criteo").unwrap();
    schema.name = "test".into();
    criteo(dir.path(), "a.txt", 30_000);
    criteo(dir.path(), "b.txt", 31_000);
    std::fs::write(
        dir.path().join("s.toml"),
        "columns = [\"label\", \"I1..I13\", \"C1..C26\"]\nlabel = \"label\"\ndense = [\"I1..I13\"]\n\
         categorical = [\"C1..C26\"]\nencoder = { kind = \"dictionary\", min_count = 2 }\n\
         [column.C2]\nencoder = { kind = \"modulo\", base = \"hex\" }\n",
    )
    .unwrap();
    let args = |out: &'static str| {
        ["prepare", "--schema", "s.toml", "a.txt", "b.txt", "--memory", "64MiB", "-o", out]
    };
    let start = std::time::Instant::now();
    let output = palmette(dir.path(), &args("whole"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let whole = start.elapsed();
    let mut random = stream(10, "test/kill", 0);
    let mut killed = 0;
    for _ in 0..25 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_palmette"))
            .current_dir(dir.path())
            .args(args("killed"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * random.unit()));
        if child.try_wait().unwrap().is_some() {
            // it was faster: start over, so that all moments are tried
            std::fs::remove_dir_all(dir.path().join("killed")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    assert!(killed > 5, "{killed}");
    let output = palmette(dir.path(), &args("killed"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (expect, got) = (contents(&dir.path().join("whole")), contents(&dir.path().join("killed")));
    let names =
        |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(&got), names(&expect));
    assert!(got == expect);
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    criteo(dir.path(), "log.txt", 150_000);
    let args = ["prepare", "--schema", "criteo", "log.txt", "-o", "out"];
    let mut wait = 400;
    let stopped = loop {
        let child = Command::new(env!("CARGO_BIN_EXE_palmette"))
            .current_dir(dir.path())
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).output();
        assert!(interrupt.unwrap().status.code().is_some());
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            break output;
        }
        // It was faster than that: start over and wait less.
        std::fs::remove_dir_all(dir.path().join("out")).unwrap();
        wait /= 2;
        assert!(wait > 5, "preparing is over before it can be interrupted");
    };
    assert_eq!(stopped.status.code(), Some(130), "{}", text(&stopped.stderr));
    let message = text(&stopped.stderr);
    assert!(message.contains("give the same command again to continue (out keeps"), "{message}");
    let output = palmette(dir.path(), &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = Split::ALL.map(|split| Dataset::open(&dir.path().join("out")).unwrap().rows(split));
    assert_eq!(rows.iter().sum::<usize>(), 150_000);
}

/// Many distinct long values in several columns, so that counts and dictionaries have to spill;
/// the peak of resident memory is the system's own figure.
#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_for_an_input_larger_than_it() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let budget = 96u64 << 20;
    let mut file =
        std::io::BufWriter::new(std::fs::File::create(dir.path().join("log.tsv")).unwrap());
    writeln!(file, "y\ta\tb\tc\td\tx").unwrap();
    let mut bytes = 0;
    let mut i = 0u64;
    while bytes < budget * 5 / 4 {
        // two dictionaries, a modulo and a hash column, all but the last different in every row
        let h = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = format!(
            "{}\t{h:016x}-a-long-value-of-a-dictionary\tv{:x}\t{:08x}\tw{:x}\t{i}\n",
            i % 2,
            h >> 20,
            h as u32,
            i % 1000
        );
        bytes += line.len() as u64;
        file.write_all(line.as_bytes()).unwrap();
        i += 1;
    }
    file.into_inner().unwrap();
    std::fs::write(
        dir.path().join("s.toml"),
        "label = \"y\"\ncategorical = [\"a\", \"b\", \"c\", \"d\"]\ndense = [\"x\"]\nencoder = \"dictionary\"\n\
         [column.c]\nencoder = { kind = \"modulo\", base = \"hex\" }\n[column.d]\nencoder = \"hash\"\n",
    )
    .unwrap();
    // GNU time is not everywhere: the shell waits, and its child's peak is in its own /proc entry
    let script = format!(
        "exec {} prepare --schema s.toml log.tsv -o out --memory 96MiB",
        env!("CARGO_BIN_EXE_palmette")
    );
    let mut child = Command::new("sh")
        .current_dir(dir.path())
        .args(["-c", &script])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status_path = format!("/proc/{}/status", child.id());
    let mut peak = 0u64;
    let status = loop {
        if let Ok(status) = std::fs::read_to_string(&status_path) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line
                .and_then(|line| line.trim().strip_suffix(" kB"))
                .and_then(|n| n.trim().parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0) << 10);
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success());
    println!("peak {} MiB for {} MiB of input", peak >> 20, bytes >> 20);
    assert!(peak > 0 && peak <= budget, "peak {} MiB, budget {} MiB", peak >> 20, budget >> 20);
    let dataset = Dataset::open(&dir.path().join("out")).unwrap();
    let fields = &dataset.manifest().encoders.categorical;
    let rows = dataset.rows(Split::Train) as u64;
    assert_eq!(fields[0].distinct, rows);
    assert_eq!(fields[3].distinct, 1000);
    // the modulo column's values repeat only where 32 bits of the hash do
    assert!(fields[2].distinct <= rows && fields[2].distinct > rows - rows / 500);
}

/// Schema files of the examples on the real data, where it is there.
#[test]
fn example_schemas_prepare_their_data() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared =
        std::env::var_os("PALMETTE_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    let data = shared.join("data/ctr");
    if !data.exists() {
        println!("skipped: {} is not there", data.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, rows, dropped) in [
        ("nycflights13", [244_737, 28_618, 53_991], 9_430),
        ("criteo_kaggle_mini_20k", [10_000, 5_001, 4_999], 10_000),
    ] {
        let schema = workspace.join(format!("examples/schemas/{name}.toml"));
        let input = data.join(format!("{name}.parquet"));
        let args =
            ["prepare", "--schema", schema.to_str().unwrap(), input.to_str().unwrap(), "-o", name];
        let output = palmette(dir.path(), &args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let dataset = Dataset::open(&dir.path().join(name)).unwrap();
        assert_eq!(Split::ALL.map(|split| dataset.rows(split)), rows);
        assert_eq!(dataset.manifest().dropped, dropped);
    }
    let flights = Dataset::open(&dir.path().join("nycflights13")).unwrap();
    let days = flights.extra_f64(Split::Validation, "time").unwrap();
    assert!(days.iter().all(|&day| (1_380_585_600.0..1_383_264_000.0).contains(&day)));
}
