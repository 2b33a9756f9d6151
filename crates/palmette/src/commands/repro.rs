//! `palmette repro`: published recipes with their figures, run again.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use palmette::run::Config;
use serde::Serialize;
use serde_json::Value;

use super::repro_expected::{Comparison, Expected, Figure, compare, parse};

/// List recipes, or run one and compare it with its expected figures
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette repro
  palmette repro nycflights13 --data ~/logs
  palmette repro nycflights13 --data ~/logs --dir flights

A recipe is a configuration whose first lines are comments: what it is and the commands, with paths
from the folder two above --recipes. Figures that a run should find stand at its end, each with the
largest difference that still agrees:
  [expected.searched]
  log_loss = { value = 0.5312, tolerance = 0.002 }
The commands run in --dir; logs are looked for in --data. A killed repro goes on when given again.
Exit code: 0 if all figures agree, 1 if one differs, 2 if the recipe cannot be run.")]
pub struct Args {
    /// Recipe to run; all are listed if left out
    #[arg(value_name = "RECIPE")]
    recipe: Option<String>,
    /// Folder of the recipes
    #[arg(long, value_name = "DIR", default_value = "examples/recipes")]
    recipes: PathBuf,
    /// Folder of the logs that the recipe reads
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// Folder to work in [default: runs/repro/RECIPE]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A configuration with commands in its comments, and what a run of it should find.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Recipe {
    name: String,
    about: String,
    commands: Vec<String>,
    expected: Expected,
}

/// What is printed after a run.
#[derive(Serialize)]
struct Outcome {
    recipe: String,
    run: PathBuf,
    figures: Vec<Comparison>,
    agrees: bool,
}

pub fn run(args: &Args, console: &Console) -> Result<ExitCode> {
    let recipes = read_recipes(&args.recipes)?;
    let Some(name) = &args.recipe else {
        console
            .result(&recipes, || recipes.iter().map(Recipe::text).collect::<Vec<_>>().join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(recipe) = recipes.iter().find(|r| r.name == *name) else {
        let names: Vec<&str> = recipes.iter().map(|r| r.name.as_str()).collect();
        bail!("there is no recipe `{name}`; there are {}", names.join(", "));
    };
    let dir = args.dir.clone().unwrap_or_else(|| Path::new("runs/repro").join(name));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut run = None;
    for command in &recipe.commands {
        let mut words = resolve(command, &args.recipes, &args.data)?;
        if words.first().is_some_and(|verb| verb == "search") {
            let folder = Path::new("runs").join("repro");
            if dir.join(&folder).join("config.toml").is_file() {
                check_settings(&words, &dir.join(&folder))?;
                words = vec!["search".into(), "--resume".into(), folder.display().to_string()];
            } else {
                words.extend(["--name".into(), "repro".into()]);
            }
            run = Some(dir.join(folder));
        }
        console.note(&format!("palmette {}", words.join(" ")));
        let mut child = Command::new(std::env::current_exe()?);
        child.args(&words).current_dir(&dir).stdout(Stdio::null());
        if console.quiet {
            child.arg("--quiet").stderr(Stdio::piped());
        }
        let output = child
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .with_context(|| format!("cannot start palmette {}", words.join(" ")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("palmette {}: {} {}", words.join(" "), output.status, said.trim());
        }
    }
    let run = run.with_context(|| format!("recipe {name} has no `palmette search` line"))?;
    let outcome = outcome(recipe, run)?;
    console.result(&outcome, || outcome.text())?;
    Ok(if outcome.agrees { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Fails where the run in the folder is not one of the recipe as it is now.
fn check_settings(words: &[String], run: &Path) -> Result<()> {
    let value_of =
        |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let Some(file) = value_of("--config") else { return Ok(()) };
    let mut asked = Config::load(Some(Path::new(file)), &[])?;
    let before = Config::load(Some(&run.join("config.toml")), &[])?;
    if let Some(seed) = value_of("--seed") {
        asked.run.seed = seed.parse().with_context(|| format!("--seed {seed}"))?;
    }
    asked.data.clone_from(&before.data);
    if asked != before {
        bail!(
            "{} is a run of other settings than the recipe has now; remove it, or work elsewhere \
             with --dir",
            run.display()
        );
    }
    Ok(())
}

fn outcome(recipe: &Recipe, run: PathBuf) -> Result<Outcome> {
    let file = run.join("summary.json");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let summary: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let figures =
        compare(&recipe.expected, &summary).with_context(|| file.display().to_string())?;
    let agrees = figures.iter().all(|figure| figure.agrees);
    Ok(Outcome { recipe: recipe.name.clone(), run, figures, agrees })
}

impl Outcome {
    fn text(&self) -> String {
        let mut lines: Vec<String> = self.figures.iter().map(Comparison::text).collect();
        let run = self.run.display();
        lines.push(match (lines.len(), self.agrees) {
            (0, _) => format!("{}: done in {run}; the recipe expects no figure", self.recipe),
            (_, true) => format!("{} AGREES: {run}", self.recipe),
            (_, false) => format!("{} DIFFERS: {run}", self.recipe),
        });
        lines.join("\n")
    }
}

fn read_recipes(folder: &Path) -> Result<Vec<Recipe>> {
    let entries = std::fs::read_dir(folder).with_context(|| {
        format!(
            "cannot list the recipes in {}; they lie in examples/recipes of Palmette's source tree: \
             name that folder with --recipes",
            folder.display()
        )
    })?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.file_stem().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        Recipe::read(name, &text).with_context(|| file.display().to_string())
    };
    files.iter().map(read).collect()
}

impl Recipe {
    /// Reads the comments at the head of a recipe and what it expects.
    fn read(name: String, text: &str) -> Result<Self> {
        let expected = parse(text)?;
        let mut recipe = Self { name, about: String::new(), commands: Vec::new(), expected };
        for line in text.lines().map_while(|line| line.strip_prefix('#')) {
            let line = line.trim();
            if let Some(command) = line.strip_prefix("palmette ") {
                recipe.commands.push(command.into());
            } else if recipe.commands.is_empty() {
                recipe.about = format!("{} {line}", recipe.about).trim().into();
            }
        }
        Ok(recipe)
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{:<22} {}", self.name, self.about)];
        lines.extend(self.commands.iter().map(|command| format!("{:24}palmette {command}", "")));
        for (model, figures) in &self.expected {
            for (name, figure) in figures {
                let Figure { value, tolerance } = figure;
                lines.push(format!("{:24}expects {model} {name} {value} +- {tolerance}", ""));
            }
        }
        lines.join("\n")
    }
}

/// The words of a command with logs, schemas and recipes as absolute paths.
fn resolve(command: &str, recipes: &Path, data: &Path) -> Result<Vec<String>> {
    // Recipes name files from the root of the repository: examples/recipes is two levels below.
    let root = recipes.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let words = command.split_whitespace().map(|word| {
        let place = if word.starts_with("examples/") { root } else { data };
        let file = place.join(word);
        if word.starts_with("examples/") || file.is_file() {
            return Ok(std::path::absolute(file)?.display().to_string());
        }
        if [".parquet", ".csv", ".tsv", ".txt", ".gz", ".zst"].iter().any(|e| word.ends_with(e)) {
            bail!("{} is not there; name the folder of the log with --data", file.display());
        }
        Ok(word.to_owned())
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_its_comments_and_what_it_expects() {
        let text = "# Flights.\n# palmette prepare --schema s.toml f.parquet -o flights\n\
                    # palmette search flights\n[space]\n# palmette no\n\
                    [expected.searched]\nlog_loss = { value = 0.53, tolerance = 0.002 }\n";
        let recipe = Recipe::read("flights".into(), text).unwrap();
        assert_eq!(recipe.about, "Flights.");
        assert_eq!(recipe.commands.len(), 2);
        assert_eq!(
            recipe.expected["searched"]["log_loss"],
            Figure { value: 0.53, tolerance: 0.002 }
        );
        let last = recipe.text();
        assert!(last.ends_with("expects searched log_loss 0.53 +- 0.002"), "{last}");
    }
}
