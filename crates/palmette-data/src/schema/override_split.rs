//! A split other than the schema's, from the command line.

use std::str::FromStr;

use crate::error::{DataError, nearest};
use crate::manifest::Split;

use super::{Schema, SplitRule};

/// A split that replaces the schema's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitOverride {
    /// At random, 8:1:1 by label.
    Random,
    /// By the schema's time column, 8:1:1.
    Time,
    /// By the schema's group column, 8:1:1.
    Group,
    /// All rows in one part (newer days to evaluate or to train on).
    All(Split),
}

const NAMES: [&str; 6] = ["random", "time", "group", "train", "validation", "test"];

impl FromStr for SplitOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(SplitOverride::Random),
            "time" => Ok(SplitOverride::Time),
            "group" => Ok(SplitOverride::Group),
            "train" => Ok(SplitOverride::All(Split::Train)),
            "validation" => Ok(SplitOverride::All(Split::Validation)),
            "test" => Ok(SplitOverride::All(Split::Test)),
            _ => {
                let hint = nearest(text, NAMES)
                    .map(|n| format!("did you mean `{n}`? "))
                    .unwrap_or_default();
                Err(format!("{hint}there are {}", NAMES.join(", ")))
            }
        }
    }
}

impl Schema {
    /// Replaces the split; an error if the schema names no column for it.
    pub fn override_split(&mut self, split: SplitOverride) -> Result<(), DataError> {
        let fractions = [0.8, 0.1, 0.1];
        let needs = |key: &str| {
            DataError::Options(format!(
                "the schema `{}` names no `{key}` column, which this split needs",
                self.name
            ))
        };
        self.split = match split {
            SplitOverride::Random => SplitRule::Random { fractions, seed: 2018 },
            SplitOverride::Time if self.time.is_none() => return Err(needs("time")),
            SplitOverride::Time => SplitRule::TimeFractions { fractions },
            SplitOverride::Group => {
                let column = self.group.clone().ok_or_else(|| needs("group"))?;
                SplitRule::Group { column, fractions, seed: 2018 }
            }
            SplitOverride::All(part) => {
                let fractions = Split::ALL.map(|split| if split == part { 1.0 } else { 0.0 });
                SplitRule::Random { fractions, seed: 2018 }
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_need_their_columns() {
        let mut schema = Schema::preset("avazu").unwrap();
        schema.override_split("time".parse().unwrap()).unwrap();
        assert_eq!(schema.split, SplitRule::TimeFractions { fractions: [0.8, 0.1, 0.1] });
        schema.override_split("test".parse().unwrap()).unwrap();
        assert_eq!(schema.split, SplitRule::Random { fractions: [0.0, 0.0, 1.0], seed: 2018 });
        let error = schema.override_split(SplitOverride::Group).unwrap_err().to_string();
        assert!(error.contains("names no `group` column"), "{error}");
        let error = "tme".parse::<SplitOverride>().unwrap_err();
        assert!(error.starts_with("did you mean `time`?"), "{error}");
    }
}
