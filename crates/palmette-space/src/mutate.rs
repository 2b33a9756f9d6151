use palmette_random::{Draw, Rng};
use serde::{Deserialize, Serialize};

use crate::{ChoiceId, Genotype, Space, SpaceError};

/// How mutation picks what to change: from the root, one branch uniformly at each level.
///
/// NASRec's is blocks, then macro or micro, then a key; a key may hold several
/// choices that are drawn again together (the pair of operators).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MutationTree {
    /// Choices drawn again together.
    Key(Vec<ChoiceId>),
    /// One of these, uniformly.
    Any(Vec<MutationTree>),
}

impl MutationTree {
    /// Every choice alike.
    pub fn flat(choices: usize) -> Self {
        Self::Any((0..choices).map(|i| Self::Key(vec![ChoiceId(i)])).collect())
    }

    /// A key of one choice.
    pub fn key(choice: ChoiceId) -> Self {
        Self::Key(vec![choice])
    }

    fn pick<R: Rng + ?Sized>(&self, rng: &mut R) -> &[ChoiceId] {
        match self {
            Self::Key(choices) => choices,
            Self::Any(branches) if branches.is_empty() => &[],
            Self::Any(branches) => branches[rng.below(branches.len() as u64) as usize].pick(rng),
        }
    }

    pub(crate) fn validate(&self, space: &str, choices: usize) -> Result<(), SpaceError> {
        let mut seen = vec![false; choices];
        let mut problem = None;
        self.visit(&mut |ChoiceId(i)| match seen.get_mut(i) {
            Some(seen) => *seen = true,
            None => problem = Some(format!("there is no choice number {i}")),
        });
        if let Some(left_out) = seen.iter().position(|seen| !seen) {
            problem.get_or_insert(format!("choice number {left_out} can never change"));
        }
        match problem {
            Some(problem) => Err(SpaceError::BadMutationTree { space: space.to_owned(), problem }),
            None => Ok(()),
        }
    }

    fn visit(&self, see: &mut impl FnMut(ChoiceId)) {
        match self {
            Self::Key(choices) => choices.iter().copied().for_each(see),
            Self::Any(branches) => branches.iter().for_each(|branch| branch.visit(see)),
        }
    }
}

impl Space {
    /// One mutation: a key is picked by the mutation tree and its choices are drawn again,
    /// uniformly (the same values may come again, as in the released NASRec code).
    pub fn mutate<R: Rng + ?Sized>(&self, parent: &Genotype, rng: &mut R) -> Genotype {
        let mut child = parent.clone();
        for &ChoiceId(i) in self.mutation_tree().pick(rng) {
            child.genes_mut()[i] = self.choices()[i].kind.sample(rng);
        }
        self.settle(&mut child);
        child
    }
}
