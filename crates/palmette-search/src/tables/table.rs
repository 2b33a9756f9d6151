use std::collections::HashMap;
use std::sync::Arc;

use palmette_random::{Draw, stream};
use palmette_space::{Genotype, Space};

/// What a column may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A quality that a search may look at; higher is better.
    Validation,
    /// A quality that only the final report may look at.
    Test,
    /// A cost, known before training; lower is better.
    Cost,
}

/// What [`is_usable`] needs, in words.
pub(super) const USABLE: &str = "a finite number of at most 1e150 in size";

/// Whether a value can stand in a column: its square must not overflow in a variance.
pub(super) fn is_usable(value: f64) -> bool {
    value.abs() <= 1e150
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name in the file.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
    /// One value per genotype.
    pub values: Vec<f64>,
}

/// Genotypes of a space with what is known of each.
#[derive(Clone, Debug)]
pub struct Table {
    networks: Arc<Networks>,
    columns: Vec<Column>,
}

/// What a table and its permutations have in common.
#[derive(Debug)]
struct Networks {
    name: String,
    space: Space,
    genotypes: Vec<Genotype>,
    rows: HashMap<Genotype, usize>,
    is_complete: bool,
}

impl Table {
    /// A table; rows of one genotype are averaged, the order is by genes.
    ///
    /// Genotypes must be of the space, and columns as long as the genotypes.
    pub fn new(name: &str, space: Space, genotypes: Vec<Genotype>, columns: Vec<Column>) -> Self {
        let mut order: Vec<usize> = (0..genotypes.len()).collect();
        order.sort_by(|&a, &b| genotypes[a].cmp(&genotypes[b]));
        let groups: Vec<&[usize]> = order.chunk_by(|&a, &b| genotypes[a] == genotypes[b]).collect();
        let columns = columns
            .iter()
            .map(|column| {
                let mean = |rows: &&[usize]| {
                    rows.iter().map(|&row| column.values[row]).sum::<f64>() / rows.len() as f64
                };
                let values = groups.iter().map(mean).collect();
                Column { name: column.name.clone(), role: column.role, values }
            })
            .collect();
        let genotypes: Vec<Genotype> =
            groups.iter().map(|rows| genotypes[rows[0]].clone()).collect();
        let rows = genotypes.iter().cloned().enumerate().map(|(row, g)| (g, row)).collect();
        let is_complete = space.cardinality().exact() == Some(genotypes.len() as u128);
        let name = name.to_owned();
        Self { networks: Arc::new(Networks { name, space, genotypes, rows, is_complete }), columns }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.networks.name
    }

    /// The space of its genotypes.
    pub fn space(&self) -> &Space {
        &self.networks.space
    }

    /// Its genotypes, each once, in the order of their genes.
    pub fn genotypes(&self) -> &[Genotype] {
        &self.networks.genotypes
    }

    /// Whether it holds every genotype of the space; if not it is a pool.
    pub fn is_complete(&self) -> bool {
        self.networks.is_complete
    }

    /// The row of a genotype.
    pub fn row(&self, genotype: &Genotype) -> Option<usize> {
        self.networks.rows.get(genotype).copied()
    }

    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The same table with the values of its qualities dealt to other genotypes: whatever still
    /// finds good ones faster than random search has seen something it should not.
    pub fn permuted(&self, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..self.genotypes().len()).collect();
        stream(seed, "tables/permuted", 0).shuffle(&mut order);
        let mut table = self.clone();
        for column in table.columns.iter_mut().filter(|column| column.role != Role::Cost) {
            column.values = order.iter().map(|&row| column.values[row]).collect();
        }
        table
    }
}
