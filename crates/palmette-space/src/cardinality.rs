use crate::{Kind, Space};

/// How many genotypes a space has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cardinality {
    exact: Option<u128>,
    log10: f64,
}

impl Cardinality {
    /// The exact number where it fits 128 bits (up to 3.4e38).
    pub fn exact(self) -> Option<u128> {
        self.exact
    }

    /// The base-10 logarithm; minus infinity for an empty space.
    pub fn log10(self) -> f64 {
        self.log10
    }

    /// The number as a float; infinite above 1.8e308.
    pub fn value(self) -> f64 {
        self.exact.map_or_else(|| 10f64.powf(self.log10), |n| n as f64)
    }

    fn of(n: u128) -> Self {
        Self { exact: Some(n), log10: (n as f64).log10() }
    }

    fn times(self, other: Self) -> Self {
        let exact = self.exact.zip(other.exact).and_then(|(a, b)| a.checked_mul(b));
        Self { exact, log10: self.log10 + other.log10 }
    }

    fn plus(self, other: Self) -> Self {
        let exact = self.exact.zip(other.exact).and_then(|(a, b)| a.checked_add(b));
        let (low, high) = if self.log10 < other.log10 {
            (self.log10, other.log10)
        } else {
            (other.log10, self.log10)
        };
        let log10 = if low == f64::NEG_INFINITY {
            high
        } else {
            high + (10f64.powf(low - high)).ln_1p() / std::f64::consts::LN_10
        };
        Self { exact, log10 }
    }
}

impl Space {
    /// Number of genotypes, counting inactive choices once.
    pub fn cardinality(&self) -> Cardinality {
        (0..self.choices().len())
            .filter(|&i| self.choices()[i].condition.is_none())
            .fold(Cardinality::of(1), |product, i| product.times(self.count_below(i)))
    }

    /// Genotypes of choice `position` together with the choices conditional on it.
    fn count_below(&self, position: usize) -> Cardinality {
        let choice = &self.choices()[position];
        let children: Vec<usize> = (position + 1..self.choices().len())
            .filter(|&i| self.choices()[i].condition.as_ref().is_some_and(|c| c.on.0 == position))
            .collect();
        if children.is_empty() {
            return Cardinality::of(choice.kind.count());
        }
        let counts: Vec<Cardinality> = children.iter().map(|&i| self.count_below(i)).collect();
        let values: u64 = match &choice.kind {
            Kind::Subset { items, .. } => 1 << items.len(),
            kind => kind.width() as u64,
        };
        (0..values)
            .map(|gene| gene as u32)
            .filter(|&gene| choice.kind.accepts(gene))
            .map(|gene| {
                let mut product = Cardinality::of(1);
                for (&child, &count) in children.iter().zip(&counts) {
                    if self.activates(child, gene) {
                        product = product.times(count);
                    }
                }
                product
            })
            .fold(Cardinality::of(0), Cardinality::plus)
    }

    /// Whether a gene of its parent turns `child` on.
    fn activates(&self, child: usize, gene: u32) -> bool {
        self.choices()[child].condition.as_ref().is_none_or(|condition| {
            match self.choices()[condition.on.0].kind {
                Kind::Subset { .. } => condition.any_of.iter().any(|&i| gene >> i & 1 == 1),
                _ => condition.any_of.contains(&gene),
            }
        })
    }
}
