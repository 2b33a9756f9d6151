//! Recipes run again and compared with what they expect.

use crate::support::{Place, stderr, succeed};

fn repro(place: &Place) -> std::process::Output {
    place.palmette(&["repro", "tiny", "--recipes", "examples/recipes", "--dir", "work"])
}

#[test]
fn a_recipe_agrees_or_differs_and_goes_on_where_it_was() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("examples/recipes")).unwrap();
    let write = |expected: &str| {
        let recipe = format!(
            "# A tiny recipe.\n\
             # palmette prepare --schema schema.toml log.csv -o dataset\n\
             # palmette search dataset --config examples/recipes/tiny.toml\n{}\n{expected}",
            crate::support::CONFIG
        );
        std::fs::write(place.path("examples/recipes/tiny.toml"), recipe).unwrap();
    };
    let found =
        |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();

    write("[expected.searched]\nlog_loss = { value = 0.6, tolerance = 0.3 }\n");
    let agrees = repro(&place);
    succeed(&agrees);
    assert!(found(&agrees).contains("searched log_loss 0."), "{}", found(&agrees));
    assert!(found(&agrees).contains("agrees with 0.6 +- 0.3"), "{}", found(&agrees));
    let before = place.journal("work/runs/repro");

    // The run is finished: nothing is trained again, only compared.
    write("[expected.searched]\nmacs = { value = 1, tolerance = 0 }\n");
    let differs = repro(&place);
    assert_eq!(differs.status.code(), Some(1), "{}", stderr(&differs));
    assert!(found(&differs).contains("DIFFERS from 1 +- 0"), "{}", found(&differs));
    assert_eq!(place.journal("work/runs/repro"), before);

    write("[expected.searched]\nlogloss = { value = 1, tolerance = 0 }\n");
    let wrong = repro(&place);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("there are log_loss, auc"), "{}", stderr(&wrong));
}
