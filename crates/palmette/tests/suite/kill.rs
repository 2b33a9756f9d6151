//! SIGKILL at a hundred random moments, and the same answer.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use palmette_random::{Draw, stream};

use crate::support::{Place, succeed};

/// Kills in all; some processes end by themselves before theirs comes.
const KILLS: usize = 100;
/// Of them while preparing.
const PREPARE_KILLS: usize = 25;

/// Lets a process live for `life`; whether it had to be killed. A process that ended by itself must
/// have succeeded.
pub fn kill_after(mut child: Child, life: Duration) -> bool {
    let end = Instant::now() + life;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "ended by itself with {status}");
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SIGKILL on Unix: no handler runs, no buffer is flushed.
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

fn spawn(place: &Place, arguments: &[String]) -> Child {
    place.command(arguments).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|a| (*a).to_owned()).collect()
}

/// Names and hashes of all files of a folder.
fn files(folder: &std::path::Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, palmette::run::file_sha256(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn killed_at_a_hundred_moments_the_answer_is_the_same() {
    let place = Place::new();
    let start = Instant::now();
    succeed(&place.palmette(&place.prepare_arguments("dataset")));
    let preparing = start.elapsed();
    let start = Instant::now();
    succeed(&place.palmette(&["search", "dataset", "--config", "search.toml", "--name", "whole"]));
    let searching = start.elapsed();

    // Moments are drawn anew for every process, also after one that ended before its own came.
    let (mut kills, mut lives) = (0, 0);
    let mut next_moment = |whole: Duration| {
        lives += 1;
        whole.mul_f64(stream(7, "test/kill", lives).unit())
    };
    let mut chain = 0;
    while kills < PREPARE_KILLS {
        let dataset = format!("dataset-{chain}");
        chain += 1;
        while kill_after(spawn(&place, &place.prepare_arguments(&dataset)), next_moment(preparing))
        {
            kills += 1;
        }
        assert_eq!(files(&place.path(&dataset)), files(&place.path("dataset")), "{dataset}");
    }

    let mut chains = Vec::new();
    while kills < KILLS {
        let name = format!("chain-{}", chains.len());
        // Lives are short enough that a run takes several of them.
        let life = searching / 3;
        loop {
            let run = place.path("runs").join(&name);
            let arguments = if run.join("config.toml").exists() {
                strings(&["search", "--resume", &run.to_string_lossy()])
            } else {
                strings(&["search", "dataset", "--config", "search.toml", "--name", &name])
            };
            let killed = if kills < KILLS {
                kill_after(spawn(&place, &arguments), next_moment(life))
            } else {
                succeed(&place.palmette(&arguments));
                false
            };
            if !killed {
                break;
            }
            kills += 1;
        }
        chains.push(name);
    }
    for name in &chains {
        let run = format!("runs/{name}");
        assert_eq!(place.journal(&run), place.journal("runs/whole"), "{name}");
        for file in ["best/arch.json", "best/model.safetensors", "best/model.onnx"] {
            let (a, b) = (format!("{run}/{file}"), format!("runs/whole/{file}"));
            assert_eq!(place.sha256(&a), place.sha256(&b), "{name}: {file}");
        }
    }
    println!("{kills} kills, {} chains of searches, {chain} of preparing", chains.len());
}
