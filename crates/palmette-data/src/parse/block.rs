//! The columns of a parsed block.

use crate::error::RowProblem;
use crate::interner::Interner;

/// The stored label of a row to predict that has none.
pub(crate) const LABEL_ABSENT: u8 = u8::MAX;

/// Route of a row whose split value is dropped.
pub(crate) const ROUTE_DROP: u8 = u8::MAX;

/// A bad row of a block.
#[derive(Clone, Debug)]
pub(crate) struct BadRecord {
    /// Its number in the block.
    pub record: u64,
    /// The field to blame.
    pub field: Option<String>,
    /// What is wrong.
    pub problem: RowProblem,
    /// The row as it stands in the file.
    pub text: String,
}

/// Texts of one dictionary column of a block.
#[derive(Debug, Default)]
pub(crate) struct TextColumn {
    /// Distinct texts; the empty text is the missing value.
    pub texts: Interner,
    /// Number of each row's text.
    pub numbers: Vec<u32>,
}

/// A categorical column of a block.
#[derive(Debug)]
pub(crate) enum CategoricalColumn {
    /// `v + 1` modulo 2^32.
    Values(Vec<u32>),
    /// Texts for a dictionary.
    Texts(TextColumn),
}

/// A list column of a block.
#[derive(Debug)]
pub(crate) struct ListColumn {
    /// Where each row's values end.
    pub ends: Vec<u64>,
    /// All values one after the other.
    pub values: CategoricalColumn,
    /// Values of each row that were more than the list keeps.
    pub cut: Vec<u32>,
}

/// The columns of a block.
#[derive(Debug, Default)]
pub(crate) struct ParsedBlock {
    /// Records read, the bad and dropped ones included.
    pub records: u64,
    /// Rows left out because the schema says so.
    pub dropped: u64,
    pub bad: Vec<BadRecord>,
    pub labels: Vec<u8>,
    pub weights: Vec<f32>,
    pub dense: Vec<Vec<f32>>,
    pub categorical: Vec<CategoricalColumn>,
    pub lists: Vec<ListColumn>,
    pub extras: Vec<Vec<u64>>,
    pub routes: Vec<u8>,
    /// `(coded column, row)` of the values that wrap to 0; of a list the number of the value.
    pub exceptions: Vec<(u32, u32)>,
    /// Position behind the block.
    pub end: u64,
}

impl ParsedBlock {
    /// Good rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        let columns = self.categorical.iter().chain(self.lists.iter().map(|list| &list.values));
        let texts = columns.map(|column| match column {
            CategoricalColumn::Values(values) => 4 * values.len(),
            CategoricalColumn::Texts(column) => 4 * column.numbers.len() + column.texts.bytes(),
        });
        let row = 1 + 4 * self.dense.len() + 8 * self.extras.len() + 12 * self.lists.len();
        let cells = self.rows() * row + 4 * self.weights.len() + self.routes.len();
        (cells + texts.sum::<usize>()) as u64
    }

    /// Takes back the cells of an unfinished row.
    pub fn truncate(&mut self) {
        let rows = self.labels.len();
        self.weights.truncate(rows);
        self.routes.truncate(rows);
        self.dense.iter_mut().for_each(|column| column.truncate(rows));
        self.extras.iter_mut().for_each(|column| column.truncate(rows));
        self.categorical.iter_mut().for_each(|column| column.truncate(rows));
        for list in &mut self.lists {
            list.ends.truncate(rows);
            list.cut.truncate(rows);
            list.values.truncate(list.ends.last().map_or(0, |&end| end as usize));
        }
        while let Some(&(column, cell)) = self.exceptions.last() {
            if (cell as usize) < self.coded(column as usize).map_or(0, CategoricalColumn::len) {
                break;
            }
            self.exceptions.pop();
        }
    }

    /// A coded column: a categorical field's or a list's values.
    pub fn coded(&self, column: usize) -> Option<&CategoricalColumn> {
        let list = || self.lists.get(column - self.categorical.len());
        self.categorical.get(column).or_else(|| list().map(|list| &list.values))
    }
}

impl CategoricalColumn {
    /// An empty column of one kind or the other.
    pub fn new(dictionary: bool) -> Self {
        match dictionary {
            true => CategoricalColumn::Texts(TextColumn::default()),
            false => CategoricalColumn::Values(Vec::new()),
        }
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        match self {
            CategoricalColumn::Values(values) => values.len(),
            CategoricalColumn::Texts(column) => column.numbers.len(),
        }
    }

    fn truncate(&mut self, cells: usize) {
        match self {
            CategoricalColumn::Values(values) => values.truncate(cells),
            CategoricalColumn::Texts(column) => column.numbers.truncate(cells),
        }
    }
}
