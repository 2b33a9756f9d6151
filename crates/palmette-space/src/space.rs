use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{Choice, ChoiceId, EdgeCell, Genotype, Kind, MutationTree, SpaceBuilder, SpaceError};

/// A list of named choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct Space {
    name: String,
    choices: Vec<Choice>,
    mutation: MutationTree,
    conditional: bool,
    cells: Vec<EdgeCell>,
}

/// What is written of a space.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    choices: Vec<Choice>,
    mutation: MutationTree,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cells: Vec<EdgeCell>,
}

impl TryFrom<Record> for Space {
    type Error = SpaceError;
    fn try_from(record: Record) -> Result<Self, SpaceError> {
        Self::new(record.name, record.choices, Some(record.mutation), record.cells)
    }
}

impl From<Space> for Record {
    fn from(space: Space) -> Self {
        let Space { name, choices, mutation, cells, .. } = space;
        Self { name, choices, mutation, cells }
    }
}

impl Space {
    /// Starts writing a space.
    pub fn builder(name: &str) -> SpaceBuilder {
        SpaceBuilder::new(name)
    }

    pub(crate) fn new(
        name: String,
        choices: Vec<Choice>,
        mutation: Option<MutationTree>,
        cells: Vec<EdgeCell>,
    ) -> Result<Self, SpaceError> {
        let mut names = HashSet::new();
        for (position, choice) in choices.iter().enumerate() {
            choice.kind.validate(&choice.name)?;
            if !names.insert(choice.name.as_str()) {
                return Err(SpaceError::DuplicateName(choice.name.clone()));
            }
            check_condition(&choices, position)?;
        }
        let mutation = mutation.unwrap_or_else(|| MutationTree::flat(choices.len()));
        mutation.validate(&name, choices.len())?;
        let conditional = choices.iter().any(|choice| choice.condition.is_some());
        if let Some(edge) = cells.iter().flat_map(|cell| &cell.edges).find(|e| e.0 >= choices.len())
        {
            return Err(SpaceError::BadChoice {
                choice: name,
                problem: format!("a cell names choice {} of {}", edge.0, choices.len()),
            });
        }
        Ok(Self { name, choices, mutation, conditional, cells })
    }

    /// The name of the space.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The choices.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// Choices that are the edges of cells.
    pub fn cells(&self) -> &[EdgeCell] {
        &self.cells
    }

    /// The tree that mutation walks.
    pub fn mutation_tree(&self) -> &MutationTree {
        &self.mutation
    }

    /// The choice called `name`.
    pub fn find(&self, name: &str) -> Option<ChoiceId> {
        self.choices.iter().position(|choice| choice.name == name).map(ChoiceId)
    }

    /// Whether any choice is conditional.
    pub fn is_conditional(&self) -> bool {
        self.conditional
    }

    /// Whether choice `position` matters in `genes`; earlier genes must be settled.
    pub fn is_active(&self, genes: &[u32], position: usize) -> bool {
        let Some(condition) = &self.choices[position].condition else { return true };
        let on = condition.on.0;
        let gene = genes[on];
        self.is_active(genes, on)
            && match self.choices[on].kind {
                Kind::Subset { .. } => condition.any_of.iter().any(|&item| gene >> item & 1 == 1),
                _ => condition.any_of.contains(&gene),
            }
    }

    /// Sets genes of inactive choices to their defaults, so that equal answers are equal genotypes.
    pub fn settle(&self, genotype: &mut Genotype) {
        if !self.conditional {
            return;
        }
        for position in 0..self.choices.len() {
            if !self.is_active(genotype.genes(), position) {
                genotype.genes_mut()[position] = self.choices[position].kind.default_gene();
            }
        }
    }

    /// Whether `genotype` answers every choice; the error names the first that it does not.
    pub fn check(&self, genotype: &Genotype) -> Result<(), SpaceError> {
        let genes = genotype.genes();
        if genes.len() != self.choices.len() {
            return Err(SpaceError::WrongLength {
                space: self.name.clone(),
                expected: self.choices.len(),
                got: genes.len(),
            });
        }
        for (position, (choice, &gene)) in self.choices.iter().zip(genes).enumerate() {
            let settled = self.is_active(genes, position) || gene == choice.kind.default_gene();
            if !choice.kind.accepts(gene) || !settled {
                return Err(SpaceError::BadGene {
                    choice: choice.name.clone(),
                    got: gene.to_string(),
                    accepted: if settled {
                        choice.kind.describe()
                    } else {
                        format!("{} while the choice is inactive", choice.kind.default_gene())
                    },
                });
            }
        }
        Ok(())
    }
}

/// A condition may only look back, at values that exist.
fn check_condition(choices: &[Choice], position: usize) -> Result<(), SpaceError> {
    let Some(condition) = &choices[position].condition else { return Ok(()) };
    let bad = |problem: String| {
        Err(SpaceError::BadCondition { choice: choices[position].name.clone(), problem })
    };
    if condition.on.0 >= position {
        return bad("it must look at an earlier choice".into());
    }
    let parent = &choices[condition.on.0];
    match condition.any_of.iter().find(|&&value| value as usize >= parent.kind.width()) {
        Some(value) => bad(format!("`{}` has no value number {value}", parent.name)),
        None => Ok(()),
    }
}
