//! `palmette repro`: published recipes with their figures, run again.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use palmette::console::Console;
use serde::Serialize;
use serde_json::Value;

/// List recipes, or run one and compare it with its expected figure
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette repro
  palmette repro nycflights13 --data ~/logs
  palmette repro nycflights13 --data ~/logs --dir flights

A recipe is a configuration whose first lines are comments: what it is, the commands, and
  # expected: searched test log loss 0.5312 +- 0.0020
The commands run in --dir; logs are looked for in --data. A killed repro goes on when given again.
Exit code: 0 if the figure is within its margin, 1 if it is not, 2 if the recipe cannot be run.")]
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

/// A configuration with commands and a figure in its comments.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Recipe {
    name: String,
    about: String,
    commands: Vec<String>,
    expected: Option<Expected>,
}

/// Test log loss of one model in the run's summary.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Expected {
    model: String,
    log_loss: f64,
    margin: f64,
}

/// What is printed after a run.
#[derive(Serialize)]
struct Outcome {
    recipe: String,
    run: PathBuf,
    expected: Option<Expected>,
    found: f64,
    passes: Option<bool>,
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
                words = vec!["search".into(), "--resume".into(), folder.display().to_string()];
            } else {
                words.extend(["--name".into(), "repro".into()]);
            }
            run = Some(dir.join(folder));
        }
        console.note(&format!("palmette {}", words.join(" ")));
        let status = Command::new(std::env::current_exe()?)
            .args(&words)
            .current_dir(&dir)
            .stdout(std::process::Stdio::null())
            .status()
            .with_context(|| format!("cannot start palmette {}", words.join(" ")))?;
        if !status.success() {
            bail!("palmette {}: {status}", words.join(" "));
        }
    }
    let run = run.with_context(|| format!("recipe {name} has no `palmette search` line"))?;
    let outcome = compare(recipe, run)?;
    console.result(&outcome, || outcome.text())?;
    Ok(match outcome.passes {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::from(1),
        None => ExitCode::from(2),
    })
}

fn compare(recipe: &Recipe, run: PathBuf) -> Result<Outcome> {
    let file = run.join("summary.json");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let summary: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let model = recipe.expected.as_ref().map_or("searched", |e| e.model.as_str());
    let entry = summary["models"]
        .as_array()
        .and_then(|models| models.iter().find(|m| m["name"] == model))
        .with_context(|| format!("{} has no model `{model}`", file.display()))?;
    let losses: Vec<f64> =
        entry["log_losses"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let found = losses.iter().sum::<f64>() / losses.len() as f64;
    let passes = recipe.expected.as_ref().map(|e| (found - e.log_loss).abs() <= e.margin);
    let expected = recipe.expected.clone();
    Ok(Outcome { recipe: recipe.name.clone(), run, expected, found, passes })
}

impl Outcome {
    fn text(&self) -> String {
        let found = format!("test log loss {:.6} in {}", self.found, self.run.display());
        match (&self.expected, self.passes) {
            (Some(e), Some(passes)) => format!(
                "{}: {}: {} {found}, expected {} +- {}",
                if passes { "PASS" } else { "FAIL" },
                self.recipe,
                e.model,
                e.log_loss,
                e.margin
            ),
            _ => format!("{}: {found}; the recipe names no expected figure", self.recipe),
        }
    }
}

fn read_recipes(folder: &Path) -> Result<Vec<Recipe>> {
    let entries = std::fs::read_dir(folder).with_context(|| {
        format!("cannot list the recipes in {}; name their folder with --recipes", folder.display())
    })?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.file_stem().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        Recipe::parse(name, &text).with_context(|| file.display().to_string())
    };
    files.iter().map(read).collect()
}

impl Recipe {
    /// Reads the comments at the head of a recipe.
    fn parse(name: String, text: &str) -> Result<Self> {
        let mut recipe = Self { name, about: String::new(), commands: Vec::new(), expected: None };
        for line in text.lines().map_while(|line| line.strip_prefix('#')) {
            let line = line.trim();
            if let Some(command) = line.strip_prefix("palmette ") {
                recipe.commands.push(command.into());
            } else if let Some(figure) = line.strip_prefix("expected:") {
                recipe.expected = Some(Expected::parse(figure)?);
            } else if recipe.commands.is_empty() {
                recipe.about = format!("{} {line}", recipe.about).trim().into();
            }
        }
        Ok(recipe)
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{:<22} {}", self.name, self.about)];
        lines.extend(self.commands.iter().map(|command| format!("{:24}palmette {command}", "")));
        lines.push(match &self.expected {
            Some(e) => format!(
                "{:24}expected: {} test log loss {} +- {}",
                "", e.model, e.log_loss, e.margin
            ),
            None => format!("{:24}no expected figure", ""),
        });
        lines.join("\n")
    }
}

impl Expected {
    /// `MODEL test log loss 0.5312 +- 0.0020`, and anything behind it in brackets.
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            format!(
                "`# expected:{text}`: write for instance `# expected: searched test log loss 0.5312 +- 0.002`"
            )
        };
        let figure = text.split('(').next().unwrap_or_default();
        let (model, figure) = figure.split_once("test log loss").with_context(wrong)?;
        let (log_loss, margin) = figure.split_once("+-").with_context(wrong)?;
        let number =
            |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
        Ok(Self {
            model: model.trim().into(),
            log_loss: number(log_loss).with_context(wrong)?,
            margin: number(margin).with_context(wrong)?,
        })
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
    fn a_recipe_is_its_comments() {
        let text = "# Flights.\n# palmette prepare --schema s.toml f.parquet -o flights\n\
                    # palmette search flights\n# expected: searched test log loss 0.53 +- 0.002 (2 cores)\n\
                    [space]\n# palmette no\n";
        let recipe = Recipe::parse("flights".into(), text).unwrap();
        assert_eq!(recipe.about, "Flights.");
        assert_eq!(recipe.commands.len(), 2);
        let expected = Expected { model: "searched".into(), log_loss: 0.53, margin: 0.002 };
        assert_eq!(recipe.expected, Some(expected));
    }

    #[test]
    fn a_figure_needs_its_margin() {
        for bad in ["0.53", "searched test log loss 0.53", "searched test log loss x +- 0.1"] {
            assert!(Expected::parse(bad).is_err(), "{bad}");
        }
    }
}
