use std::collections::HashMap;

use palmette_random::{ChaCha8Rng, Draw};
use serde::{Deserialize, Serialize};

use crate::{Domain, Genotype, Space, SpaceError};

/// A part of a space, listed: what shrinking leaves, and what any strategy can search.
///
/// Sampling is uniform over the members; mutation goes to a random member one step away in the
/// space, or to any member where there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct Subspace {
    space: Space,
    members: Vec<Genotype>,
    positions: HashMap<Genotype, usize>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    space: Space,
    members: Vec<Genotype>,
}

impl TryFrom<Record> for Subspace {
    type Error = SpaceError;
    fn try_from(record: Record) -> Result<Self, SpaceError> {
        Self::new(record.space, record.members)
    }
}

impl From<Subspace> for Record {
    fn from(subspace: Subspace) -> Self {
        Self { space: subspace.space, members: subspace.members }
    }
}

impl Subspace {
    /// The part of `space` that has these members; repeats count once, the order is by genes.
    pub fn new(space: Space, mut members: Vec<Genotype>) -> Result<Self, SpaceError> {
        if members.is_empty() {
            return Err(SpaceError::BadChoice {
                choice: space.name().into(),
                problem: "a part without members; give at least one genotype".into(),
            });
        }
        members.iter().try_for_each(|member| space.check(member))?;
        members.sort_unstable();
        members.dedup();
        let positions = members.iter().cloned().enumerate().map(|(i, m)| (m, i)).collect();
        Ok(Self { space, members, positions })
    }

    /// The members, in the order of their genes.
    pub fn members(&self) -> &[Genotype] {
        &self.members
    }

    /// Whether `genotype` is a member.
    pub fn contains(&self, genotype: &Genotype) -> bool {
        self.positions.contains_key(genotype)
    }

    /// Number of connected components under single steps: the pockets of the part.
    pub fn pockets(&self) -> usize {
        let mut seen = vec![false; self.members.len()];
        let mut pockets = 0;
        for start in 0..self.members.len() {
            if std::mem::replace(&mut seen[start], true) {
                continue;
            }
            pockets += 1;
            let mut edge = vec![start];
            while let Some(position) = edge.pop() {
                for neighbour in self.space.neighbours(&self.members[position]) {
                    if let Some(&next) = self.positions.get(&neighbour)
                        && !std::mem::replace(&mut seen[next], true)
                    {
                        edge.push(next);
                    }
                }
            }
        }
        pockets
    }
}

impl Domain for Subspace {
    fn space(&self) -> &Space {
        &self.space
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Genotype {
        self.members[rng.below(self.members.len() as u64) as usize].clone()
    }

    fn mutate(&self, parent: &Genotype, rng: &mut ChaCha8Rng) -> Genotype {
        let near = self.neighbours(parent);
        match near.len() {
            0 => self.sample(rng),
            n => near[rng.below(n as u64) as usize].clone(),
        }
    }

    fn neighbours(&self, genotype: &Genotype) -> Vec<Genotype> {
        let mut near = self.space.neighbours(genotype);
        near.retain(|neighbour| self.contains(neighbour));
        near
    }

    fn is_feasible(&self, genotype: &Genotype) -> bool {
        self.contains(genotype)
    }

    fn repair(&self, _genotype: &Genotype, rng: &mut ChaCha8Rng) -> Option<Genotype> {
        Some(self.sample(rng))
    }

    fn enumerate(&self, most: usize) -> Option<Vec<Genotype>> {
        (self.members.len() <= most).then(|| self.members.clone())
    }

    fn distinct(&self) -> Option<u128> {
        Some(self.members.len() as u128)
    }
}
