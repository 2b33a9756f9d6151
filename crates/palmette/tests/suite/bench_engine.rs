//! Benchmarks run, say what is missing, and notice a peer that computes something else.

use crate::python::interpreter;
use crate::support::{Place, stderr};

const QUICK: [&str; 4] = ["--seconds", "0.01", "--rounds", "5"];

#[test]
fn steps_are_timed_without_a_peer() {
    let place = Place::new();
    let mut arguments = vec!["bench", "engine", "mlp", "block", "block-wide", "--batch", "40"];
    arguments.extend(QUICK);
    let report = place.json(&arguments);
    let workloads = report["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 3);
    for workload in workloads {
        let sides = workload["sides"].as_array().unwrap();
        let names: Vec<_> = sides.iter().map(|side| side["name"].as_str().unwrap()).collect();
        assert!(names[0] == "Palmette f32" && names.len() <= 2, "{names:?}");
        for side in sides {
            assert_eq!(side["rounds"].as_array().unwrap().len(), 5);
            assert!(side["gflops"].as_f64().unwrap() > 0.0);
            assert!(side["least"].as_f64() <= side["median"].as_f64());
        }
    }
    // 845 x 1024 + 1024 x 512 + 512 x 256 + 256 forward, as much for the weights, and all but the
    // first layer for the inputs: the count is made where the products are done.
    let side = &workloads[0]["sides"][0];
    let macs = side["gflops"].as_f64().unwrap() * side["median"].as_f64().unwrap() * 1e6 / 2.0;
    let expected = 40.0 * (3.0 * 1_520_896.0 - 865_280.0);
    assert!((macs / expected - 1.0).abs() < 0.01, "{macs} products, not {expected}");
}

#[test]
fn a_missing_peer_is_named() {
    let place = Place::new();
    let check = |arguments: &[&str], expect: &str| {
        let output =
            place.palmette(&[&["bench", "engine", "mlp", "--batch", "8"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(expect), "{}", stderr(&output));
    };
    check(&["--peers", "/no/such/python"], "no bench/peers/engine.py");
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/peers");
    check(&["--scripts", scripts, "--peers", "/no/such/python"], "/no/such/python");
    check(&["--preload", "libjemalloc.so"], "--peers");
}

#[test]
fn an_exported_network_agrees_with_onnxruntime() {
    let Some(python) = interpreter("an_exported_network_agrees_with_onnxruntime") else { return };
    let place = Place::new();
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/peers");
    let python = python.display().to_string();
    let mut arguments = vec!["bench", "engine", "inference-1", "--batch", "19"];
    arguments.extend(["--scripts", scripts, "--peers", &python, "--variant", "bound"]);
    arguments.extend(QUICK);
    let report = place.json(&arguments);
    let sides = report["workloads"][0]["sides"].as_array().unwrap().clone();
    let peer = sides.last().unwrap();
    assert!(peer["name"].as_str().unwrap().starts_with("onnxruntime"), "{report:#}");
    assert_eq!(peer["agreement"]["agrees"], true, "{peer:#}");
    assert!(peer["agreement"]["first_step"].as_f64().unwrap() < 1e-4, "{peer:#}");
}
