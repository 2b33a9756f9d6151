use palmette_random::{ChaCha8Rng, Draw};
use palmette_space::{Domain, Genotype, Space, key_of};

use super::{Column, Role, Table};
use crate::Outcome;

/// Evaluates candidates and counts what it is asked.
pub trait Experimenter {
    /// What is searched.
    fn domain(&self) -> &dyn Domain;

    /// Evaluates a candidate: scores to be minimised.
    fn evaluate(&mut self, genotype: &Genotype) -> Outcome;

    /// Number of distinct candidates evaluated.
    fn distinct_queries(&self) -> usize;
}

/// A table as something to search: complete, or a pool of which strategies take the nearest row
/// that is new; with or without a hard limit on a cost.
#[derive(Clone, Debug)]
pub struct TableDomain<'a> {
    table: &'a Table,
    limit: Option<(&'a Column, f64)>,
    feasible: Vec<usize>,
}

impl<'a> TableDomain<'a> {
    /// The whole table.
    pub fn new(table: &'a Table) -> Self {
        Self { table, limit: None, feasible: (0..table.genotypes().len()).collect() }
    }

    /// The rows whose cost is at most `most`; `None` if there is none, or no such cost.
    pub fn limited(table: &'a Table, cost: &str, most: f64) -> Option<Self> {
        let column = table.column(cost).filter(|column| column.role == Role::Cost)?;
        let rows = 0..table.genotypes().len();
        let feasible: Vec<usize> = rows.filter(|&row| column.values[row] <= most).collect();
        (!feasible.is_empty()).then_some(Self { table, limit: Some((column, most)), feasible })
    }

    /// The table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// Rows within the limit.
    pub fn feasible_rows(&self) -> &[usize] {
        &self.feasible
    }
}

impl Domain for TableDomain<'_> {
    fn space(&self) -> &Space {
        self.table.space()
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Genotype {
        let drawn = rng.below(self.feasible.len() as u64) as usize;
        self.table.genotypes()[self.feasible[drawn]].clone()
    }

    fn key(&self, genotype: &Genotype) -> u128 {
        key_of(genotype.genes())
    }

    fn is_feasible(&self, genotype: &Genotype) -> bool {
        self.table
            .row(genotype)
            .is_some_and(|row| self.limit.is_none_or(|(column, most)| column.values[row] <= most))
    }

    fn snap(&self, candidate: &Genotype, is_new: &dyn Fn(u128) -> bool) -> Option<Genotype> {
        if self.table.is_complete() {
            return None;
        }
        let distance = |row: usize| {
            let other = self.table.genotypes()[row].genes();
            candidate.genes().iter().zip(other).filter(|(a, b)| a != b).count()
        };
        self.feasible
            .iter()
            .map(|&row| (distance(row), row))
            .filter(|&(_, row)| is_new(key_of(self.table.genotypes()[row].genes())))
            .min()
            .map(|(_, row)| self.table.genotypes()[row].clone())
    }

    fn enumerate(&self, most: usize) -> Option<Vec<Genotype>> {
        let all = || self.feasible.iter().map(|&row| self.table.genotypes()[row].clone());
        (self.feasible.len() <= most).then(|| all().collect())
    }

    fn distinct(&self) -> Option<u128> {
        Some(self.feasible.len() as u128)
    }
}

/// Looks candidates up. It holds the columns that a search may see and nothing else.
#[derive(Clone, Debug)]
pub struct TableExperimenter<'a> {
    domain: &'a TableDomain<'a>,
    quality: &'a [f64],
    cost: Option<&'a [f64]>,
    queried: Vec<bool>,
    distinct: usize,
    infeasible: usize,
}

impl<'a> TableExperimenter<'a> {
    /// Scores are minus `quality`, and `cost` as a second objective where one is given.
    /// `None` for a test column, an unknown one, or a cost that is none.
    pub fn new(domain: &'a TableDomain<'a>, quality: &str, cost: Option<&str>) -> Option<Self> {
        let table = domain.table();
        let of = |name: &str, role| table.column(name).filter(|column| column.role == role);
        let quality = &of(quality, Role::Validation)?.values;
        let cost = match cost {
            Some(name) => Some(&of(name, Role::Cost)?.values[..]),
            None => None,
        };
        let queried = vec![false; table.genotypes().len()];
        Some(Self { domain, quality, cost, queried, distinct: 0, infeasible: 0 })
    }

    /// Number of queries that a hard limit refused; a strategy should make none.
    pub fn infeasible_queries(&self) -> usize {
        self.infeasible
    }
}

impl Experimenter for TableExperimenter<'_> {
    fn domain(&self) -> &dyn Domain {
        self.domain
    }

    fn evaluate(&mut self, genotype: &Genotype) -> Outcome {
        let Some(row) = self.domain.table().row(genotype) else { return Outcome::Failed };
        if !self.domain.is_feasible(genotype) {
            self.infeasible += 1;
            return Outcome::Infeasible;
        }
        if !std::mem::replace(&mut self.queried[row], true) {
            self.distinct += 1;
        }
        let mut scores = vec![-self.quality[row]];
        scores.extend(self.cost.map(|cost| cost[row]));
        Outcome::scores(scores)
    }

    fn distinct_queries(&self) -> usize {
        self.distinct
    }
}
