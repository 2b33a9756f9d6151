use serde_json::{Map, Value, json};

use crate::{Choice, Genotype, Kind, Space, SpaceError};

impl Space {
    /// The genotype by name: options as text, subsets as lists, integers as numbers.
    /// Inactive choices are left out.
    pub fn to_json(&self, genotype: &Genotype) -> Value {
        let mut document = Map::new();
        for (position, choice) in self.choices().iter().enumerate() {
            if self.is_active(genotype.genes(), position) {
                let gene = genotype.genes()[position];
                document.insert(choice.name.clone(), gene_to_json(&choice.kind, gene));
            }
        }
        Value::Object(document)
    }

    /// Reads what [`to_json`](Self::to_json) writes; the error names the gene.
    pub fn from_json(&self, text: &str) -> Result<Genotype, SpaceError> {
        let document: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| SpaceError::NotJson(e.to_string()))?;
        if let Some(name) = document.keys().find(|name| self.find(name).is_none()) {
            return Err(SpaceError::UnknownGene {
                name: name.clone(),
                nearest: nearest(name, self.choices().iter().map(|choice| choice.name.as_str())),
            });
        }
        let mut genes = Vec::with_capacity(self.choices().len());
        for (position, choice) in self.choices().iter().enumerate() {
            let value = document.get(&choice.name);
            genes.push(match (self.is_active(&genes, position), value) {
                (true, Some(value)) => gene_from_json(choice, value)?,
                (true, None) => return Err(SpaceError::MissingGene(choice.name.clone())),
                (false, None) => choice.kind.default_gene(),
                (false, Some(value)) => {
                    return Err(SpaceError::BadGene {
                        choice: choice.name.clone(),
                        got: value.to_string(),
                        accepted: "nothing, because its condition does not hold".into(),
                    });
                }
            });
        }
        Ok(Genotype::new(genes))
    }
}

fn gene_to_json(kind: &Kind, gene: u32) -> Value {
    match kind {
        Kind::OneOf { options, .. } => json!(options[gene as usize]),
        Kind::Subset { items, .. } => {
            let members = items.iter().enumerate().filter(|(i, _)| gene >> i & 1 == 1);
            Value::Array(members.map(|(_, item)| json!(item)).collect())
        }
        Kind::Integer { low, .. } => json!(low + i64::from(gene)),
    }
}

fn gene_from_json(choice: &Choice, value: &Value) -> Result<u32, SpaceError> {
    let gene = match &choice.kind {
        Kind::OneOf { options, .. } => {
            options.iter().position(|option| value == option).map(|i| i as u32)
        }
        Kind::Subset { items, .. } => value.as_array().and_then(|members| {
            members.iter().try_fold(0u32, |mask, member| {
                let item = items.iter().position(|item| member == item)?;
                (mask >> item & 1 == 0).then_some(mask | 1 << item)
            })
        }),
        Kind::Integer { low, .. } => {
            value.as_i64().and_then(|v| v.checked_sub(*low)).and_then(|v| u32::try_from(v).ok())
        }
    };
    gene.filter(|&gene| choice.kind.accepts(gene)).ok_or_else(|| SpaceError::BadGene {
        choice: choice.name.clone(),
        got: value.to_string(),
        accepted: choice.kind.describe(),
    })
}

/// The candidate with the smallest edit distance to `name`; empty if there is none.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    candidates.min_by_key(|candidate| strsim::levenshtein(name, candidate)).unwrap_or("").to_owned()
}
