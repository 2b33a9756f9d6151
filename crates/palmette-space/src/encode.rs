use crate::{Genotype, Kind, Space, TokenForm};

impl Space {
    /// The token of a genotype: choice by choice, its [`TokenForm`].
    ///
    /// NASRec's tokens are 280 (Full) and 259 (Small) numbers long.
    pub fn token(&self, genotype: &Genotype) -> Vec<u32> {
        let mut token = Vec::new();
        for (choice, &gene) in self.choices().iter().zip(genotype.genes()) {
            match choice.token {
                TokenForm::Index => token.push(gene),
                TokenForm::Bits(width) => {
                    let width = width.max(choice.kind.width());
                    token.extend((0..width).map(|bit| u32::from(choice.kind.has_bit(gene, bit))));
                }
            }
        }
        token
    }

    /// Length of a one-hot encoding.
    pub fn one_hot_len(&self) -> usize {
        self.choices().iter().map(|choice| choice.kind.width()).sum()
    }

    /// The one-hot encoding: one 0/1 per option, item or integer; inactive choices are all zero.
    pub fn one_hot(&self, genotype: &Genotype) -> Vec<f32> {
        let mut code = Vec::with_capacity(self.one_hot_len());
        for (position, choice) in self.choices().iter().enumerate() {
            let gene = genotype.genes()[position];
            let active = self.is_active(genotype.genes(), position);
            code.extend(
                (0..choice.kind.width())
                    .map(|bit| f32::from(u8::from(active && choice.kind.has_bit(gene, bit)))),
            );
        }
        code
    }
}

impl Space {
    /// Number of values of each slot (see [`slots`](Self::slots)).
    pub fn slot_sizes(&self) -> Vec<u16> {
        let mut sizes = Vec::new();
        for choice in self.choices() {
            match &choice.kind {
                Kind::Subset { items, .. } => sizes.extend(items.iter().map(|_| 2)),
                kind => sizes.push(kind.width().min(u16::MAX.into()) as u16),
            }
        }
        sizes
    }

    /// A genotype as categorical slots: one per one-of and integer, one 0/1 per item of a subset.
    pub fn slots(&self, genotype: &Genotype) -> Vec<u16> {
        let mut slots = Vec::with_capacity(self.choices().len());
        for (choice, &gene) in self.choices().iter().zip(genotype.genes()) {
            match &choice.kind {
                Kind::Subset { items, .. } => {
                    slots.extend((0..items.len()).map(|item| (gene >> item & 1) as u16));
                }
                _ => slots.push(gene.min(u16::MAX.into()) as u16),
            }
        }
        slots
    }
}

impl Kind {
    fn has_bit(&self, gene: u32, bit: usize) -> bool {
        match self {
            Self::Subset { .. } => bit < 32 && gene >> bit & 1 == 1,
            _ => gene as usize == bit,
        }
    }
}
