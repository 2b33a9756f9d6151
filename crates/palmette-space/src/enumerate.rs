use crate::{Genotype, Kind, Space};

impl Space {
    /// Every genotype, the first choice running fastest, if there are at most `most`.
    pub fn enumerate(&self, most: usize) -> Option<Vec<Genotype>> {
        let count = self.cardinality().exact().filter(|&count| count <= most as u128)? as usize;
        let values: Vec<Vec<u32>> =
            self.choices().iter().map(|choice| choice.kind.values()).collect();
        let mut all = Vec::with_capacity(count);
        let mut indices = vec![0; values.len()];
        loop {
            let genes: Vec<u32> = indices.iter().zip(&values).map(|(&i, v)| v[i]).collect();
            let inactive = (0..genes.len()).find(|&i| indices[i] > 0 && !self.is_active(&genes, i));
            if inactive.is_none() {
                all.push(Genotype::new(genes));
            }
            let next = (0..indices.len()).find(|&i| {
                indices[i] = (indices[i] + 1) % values[i].len();
                indices[i] > 0
            });
            if next.is_none() {
                return Some(all);
            }
        }
    }
}

impl Kind {
    /// Every gene the choice accepts, its default first.
    pub fn values(&self) -> Vec<u32> {
        match self {
            Self::Subset { items, .. } => {
                let mut values: Vec<u32> =
                    (0..1u64 << items.len()).map(|gene| gene as u32).collect();
                values.retain(|&gene| self.accepts(gene));
                // The default has the fewest items, and of those the first: the smallest mask of its size.
                let default = self.default_gene();
                values.sort_by_key(|&gene| (gene != default, gene));
                values
            }
            kind => (0..kind.width() as u32).collect(),
        }
    }
}
