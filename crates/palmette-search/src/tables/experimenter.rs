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
    /// Of a pool, the genes of all feasible rows choice by choice, for distances to all at once.
    genes: Vec<Vec<u32>>,
}

impl<'a> TableDomain<'a> {
    /// The whole table.
    pub fn new(table: &'a Table) -> Self {
        Self::of(table, None, (0..table.genotypes().len()).collect())
    }

    fn of(table: &'a Table, limit: Option<(&'a Column, f64)>, feasible: Vec<usize>) -> Self {
        let choices = if table.is_complete() { 0 } else { table.space().choices().len() };
        let of = |choice: usize| {
            feasible.iter().map(|&row| table.genotypes()[row].genes()[choice]).collect()
        };
        let genes = (0..choices).map(of).collect();
        Self { table, limit, feasible, genes }
    }

    /// The rows whose cost is at most `most`; `None` if there is none, or no such cost.
    pub fn limited(table: &'a Table, cost: &str, most: f64) -> Option<Self> {
        let column = table.column(cost).filter(|column| column.role == Role::Cost)?;
        let rows = 0..table.genotypes().len();
        let feasible: Vec<usize> = rows.filter(|&row| column.values[row] <= most).collect();
        (!feasible.is_empty()).then(|| Self::of(table, Some((column, most)), feasible))
    }

    /// The same rows of a table whose qualities were dealt anew.
    pub(crate) fn of_permuted<'b>(&self, table: &'b Table) -> TableDomain<'b>
    where
        'a: 'b,
    {
        TableDomain { table, ..self.clone() }
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
        let is_open = |row: usize| is_new(key_of(self.table.genotypes()[row].genes()));
        if self.is_feasible(candidate) && is_new(key_of(candidate.genes())) {
            return Some(candidate.clone());
        }
        let mut distances = vec![0u32; self.feasible.len()];
        for (genes, &gene) in self.genes.iter().zip(candidate.genes()) {
            for (distance, &other) in distances.iter_mut().zip(genes) {
                *distance += u32::from(other != gene);
            }
        }
        // The first open row of the least distance that has one.
        let mut next = distances.iter().copied().min();
        while let Some(distance) = next {
            let nearest = distances.iter().zip(&self.feasible).filter(|d| *d.0 == distance);
            let found = nearest.map(|(_, &row)| row).find(|&row| is_open(row));
            if let Some(row) = found {
                return Some(self.table.genotypes()[row].clone());
            }
            next = distances.iter().copied().filter(|&other| other > distance).min();
        }
        None
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
