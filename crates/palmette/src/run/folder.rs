//! What stands in a folder that a user names: a run, or a trained model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use palmette_ctr::nasrec::ArchitectureFile;
use palmette_data::Dataset;

use super::export::{ModelDescription, transforms};
use crate::onnx::EncodersFile;

/// A folder with `model.json`, `model.safetensors` and their companions.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Where the files are.
    pub dir: PathBuf,
    /// The run whose best model this is.
    pub run: Option<PathBuf>,
    /// `model.json`.
    pub description: ModelDescription,
}

impl ModelFolder {
    /// Opens a trained folder, a run, or a run's `best/`.
    ///
    /// # Errors
    /// A folder that holds no trained model; the error says what would.
    pub fn open(path: &Path) -> Result<Self> {
        let best = path.join("best");
        let (dir, run) = if best.join("model.json").is_file() {
            (best, Some(path.to_path_buf()))
        } else if path.join("model.json").is_file() {
            (path.to_path_buf(), run_around(path))
        } else if path.join("journal.jsonl").is_file() {
            bail!(
                "the run {} has no trained model yet; continue it with `palmette search --resume {0}`",
                path.display()
            )
        } else {
            bail!(
                "{} holds no trained model (no model.json); give a run folder of `palmette search` \
                 or a folder of `palmette train`",
                path.display()
            )
        };
        let description = ModelDescription::read(&dir)?;
        Ok(Self { dir, run, description })
    }

    /// The encoders that stand beside the model.
    pub fn encoders(&self) -> Result<EncodersFile> {
        let path = self.dir.join("encoders.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}

/// The run to which `RUN/best` belongs, however it is spelt.
fn run_around(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let parent = path.parent()?;
    (path.ends_with("best") && parent.join("journal.jsonl").is_file()).then(|| parent.into())
}

/// The architecture in a file, a run or a trained folder, and where it stood.
pub fn architecture_of(path: &Path) -> Result<(ArchitectureFile, PathBuf)> {
    let file = if path.is_dir() {
        let unfinished = path.join("journal.jsonl").is_file();
        [path.join("best/arch.json"), path.join("arch.json")]
            .into_iter()
            .find(|file| file.is_file())
            .with_context(|| match unfinished {
                true => format!(
                    "the run {} has chosen no architecture yet; continue it with \
                     `palmette search --resume {0}`",
                    path.display()
                ),
                false => format!("{} holds no architecture (no arch.json)", path.display()),
            })?
    } else {
        path.to_path_buf()
    };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read the architecture {}", file.display()))?;
    let parsed = ArchitectureFile::parse(&text).with_context(|| file.display().to_string())?;
    Ok((parsed, file))
}

/// Fails unless a dataset was encoded as the model expects.
pub fn check_encoders(model: &ModelFolder, dataset: &Dataset) -> Result<()> {
    let (expected, found) = (model.encoders()?, EncodersFile::from_dataset(dataset)?);
    let advice = format!(
        "encode the log with the model's encoders: palmette prepare ... --encoders-from {}",
        model.description.dataset.display()
    );
    let names = |file: &EncodersFile| -> Vec<String> {
        let dense = file.dense.iter().map(|f| f.name.clone());
        let categorical = file.categorical.iter().map(|f| f.name.clone());
        dense.chain(categorical).chain(file.lists.iter().map(|f| f.name.clone())).collect()
    };
    if names(&expected) != names(&found) {
        bail!(
            "{} has the fields {}, the model takes {}; {advice}",
            dataset.dir().display(),
            names(&found).join(", "),
            names(&expected).join(", ")
        );
    }
    let dense = expected.dense.iter().zip(&found.dense);
    let transforms = model.description.transforms.iter().zip(transforms(dataset));
    for ((a, b), (before, now)) in dense.zip(transforms) {
        if a != b || *before != now {
            bail!(
                "{}: field {} is transformed otherwise than for the model ({now:?}, not {before:?}); {advice}",
                dataset.dir().display(),
                a.name
            );
        }
    }
    let fields = expected.categorical.iter().zip(&found.categorical);
    let fields = fields.map(|(a, b)| (&a.name, a == b));
    let lists = expected.lists.iter().zip(&found.lists).map(|(a, b)| (&a.name, a == b));
    for (name, equal) in fields.chain(lists) {
        if !equal {
            bail!(
                "{}: field {name} is encoded otherwise than for the model; {advice}",
                dataset.dir().display()
            );
        }
    }
    Ok(())
}
