use palmette_space::{Choice, Genotype, Kind, Space};

/// How [`HeterogeneousEncoding`] shows a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A size that says where computation lies (repeats, channels): ln(1 + value).
    Positional,
    /// A size that says how an operator computes (expansion): ln(1 + value).
    Architectural,
    /// An option without an order that matters (kernel, attention): its index, embedded.
    Sparse,
    /// Left out (fixed choices).
    LeftOut,
}

/// PIDS's heterogeneous encoding (Zhang et al., 2022): sizes as logarithms in two groups, options as
/// indices that a predictor embeds.
///
/// An option of a one-of counts by its name read as a number, an integer by its value. A subset
/// is one sparse slot of two values per item, whatever its part. Genes of inactive choices count
/// like any others.
#[derive(Clone, Debug, PartialEq)]
pub struct HeterogeneousEncoding {
    positional: Vec<(usize, Vec<f64>)>,
    architectural: Vec<(usize, Vec<f64>)>,
    /// Choice, item of a subset, number of values.
    sparse: Vec<(usize, Option<u32>, usize)>,
}

/// A genotype under a [`HeterogeneousEncoding`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Logarithms of positional sizes.
    pub positional: Vec<f64>,
    /// Logarithms of architectural sizes.
    pub architectural: Vec<f64>,
    /// Indices of options.
    pub sparse: Vec<usize>,
}

impl HeterogeneousEncoding {
    /// The encoding in which `part` places each choice. A choice whose options are no numbers (of
    /// at least 0) cannot be a size and becomes sparse.
    pub fn new(space: &Space, part: impl Fn(&Choice) -> Part) -> Self {
        let mut encoding =
            Self { positional: Vec::new(), architectural: Vec::new(), sparse: Vec::new() };
        for (position, choice) in space.choices().iter().enumerate() {
            match (part(choice), sizes(&choice.kind)) {
                (Part::LeftOut, _) => {}
                (Part::Positional, Some(sizes)) => encoding.positional.push((position, sizes)),
                (Part::Architectural, Some(sizes)) => {
                    encoding.architectural.push((position, sizes));
                }
                _ => encoding.push_sparse(position, &choice.kind),
            }
        }
        encoding
    }

    /// The encoding by kinds alone: integers and ordered options are architectural sizes, everything
    /// else is sparse.
    pub fn by_kind(space: &Space) -> Self {
        Self::new(space, |choice| match choice.kind {
            Kind::Integer { .. } | Kind::OneOf { ordered: true, .. } => Part::Architectural,
            _ => Part::Sparse,
        })
    }

    fn push_sparse(&mut self, position: usize, kind: &Kind) {
        match kind {
            Kind::Subset { items, .. } => {
                self.sparse.extend((0..items.len() as u32).map(|item| (position, Some(item), 2)));
            }
            kind => self.sparse.push((position, None, kind.width())),
        }
    }

    /// Positional sizes, architectural sizes and sparse slots.
    pub fn lengths(&self) -> [usize; 3] {
        [self.positional.len(), self.architectural.len(), self.sparse.len()]
    }

    /// Number of values of each sparse slot.
    pub fn slot_sizes(&self) -> Vec<usize> {
        self.sparse.iter().map(|slot| slot.2).collect()
    }

    /// Encodes a genotype of the space.
    pub fn encode(&self, genotype: &Genotype) -> Encoded {
        let genes = genotype.genes();
        let logs = |sizes: &[(usize, Vec<f64>)]| {
            sizes.iter().map(|(choice, logs)| logs[genes[*choice] as usize]).collect()
        };
        let sparse = self.sparse.iter().map(|&(choice, item, _)| match item {
            Some(item) => (genes[choice] >> item & 1) as usize,
            None => genes[choice] as usize,
        });
        Encoded {
            positional: logs(&self.positional),
            architectural: logs(&self.architectural),
            sparse: sparse.collect(),
        }
    }
}

/// ln(1 + value) of every gene, where values are numbers of at least 0.
fn sizes(kind: &Kind) -> Option<Vec<f64>> {
    let values: Vec<f64> = match kind {
        Kind::OneOf { options, .. } => {
            options.iter().map(|option| option.parse().ok()).collect::<Option<_>>()?
        }
        Kind::Integer { low, high } => (*low..=*high).map(|value| value as f64).collect(),
        Kind::Subset { .. } => return None,
    };
    values.iter().all(|&value| value >= 0.0).then(|| values.iter().map(|v| v.ln_1p()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PIDS's stages, from the published table: kernels, expansions, repeats, channels, gate.
    fn pids(decoder: bool) -> Space {
        type Stage = (&'static [u32], &'static [u32], &'static [u32], bool);
        const STAGES: [Stage; 11] = [
            (&[1], &[1], &[16], false),
            (&[2, 3, 4], &[2, 3], &[16, 24], false),
            (&[2, 3, 4], &[2, 3, 4], &[24, 32], true),
            (&[2, 3, 4], &[3, 4, 5], &[24, 32, 40], true),
            (&[2, 3, 4], &[2, 3, 4], &[40, 56, 72], true),
            (&[2, 3, 4], &[3, 4, 5], &[64, 80, 96], true),
            (&[2, 3, 4], &[1], &[160], true),
            (&[2, 3], &[1, 2], &[64, 80, 96], true),
            (&[2, 3], &[1, 2], &[40, 56, 72], true),
            (&[2, 3], &[1, 2], &[24, 32, 40], true),
            (&[2, 3], &[1, 2], &[16, 24], false),
        ];
        let mut builder = Space::builder("pids");
        builder.repeat("stage", if decoder { 11 } else { 7 }, |builder, i| {
            let (expansions, repeats, channels, gate) = STAGES[i - 1];
            let text = |values: &[u32]| values.iter().map(u32::to_string).collect::<Vec<_>>();
            builder.one_of("kernel", &["5", "7", "13"]);
            builder.one_of_ordered("expansion", &text(expansions));
            builder.one_of_ordered("repeats", &text(repeats));
            builder.one_of_ordered("channels", &text(channels));
            builder.one_of("gate", if gate { &["0", "1"][..] } else { &["0"] });
        });
        builder.finish().unwrap()
    }

    fn part(choice: &Choice) -> Part {
        match choice.name.rsplit('.').next() {
            Some("repeats" | "channels") => Part::Positional,
            Some("expansion") => Part::Architectural,
            _ => Part::Sparse,
        }
    }

    #[test]
    fn pids_spaces_have_their_published_sizes_and_lengths() {
        let (classification, segmentation) = (pids(false), pids(true));
        assert_eq!(classification.cardinality().exact(), Some(892_616_806_656));
        assert_eq!(segmentation.cardinality().exact(), Some(7_996_018_508_417_728_512));
        assert_eq!(HeterogeneousEncoding::new(&classification, part).lengths(), [14, 7, 14]);
        assert_eq!(HeterogeneousEncoding::new(&segmentation, part).lengths(), [22, 11, 22]);
    }

    #[test]
    fn sizes_are_logarithms_and_options_indices() {
        let space = pids(false);
        let encoding = HeterogeneousEncoding::new(&space, part);
        // Stage 2: kernel 13, expansion 4, repeats 2, channels 24.
        let mut genes = vec![0; 35];
        genes[5..10].copy_from_slice(&[2, 2, 0, 1, 0]);
        let encoded = encoding.encode(&Genotype::new(genes));
        assert_eq!(encoded.positional[2..4], [2f64.ln_1p(), 24f64.ln_1p()]);
        assert_eq!(encoded.architectural[1], 4f64.ln_1p());
        assert_eq!(encoded.sparse[2..4], [2, 0]);
    }

    #[test]
    fn what_is_no_number_is_sparse() {
        let mut builder = Space::builder("mixed");
        builder.one_of_ordered("size", &["small", "large"]);
        builder.subset("sources", &["a", "b", "c"], 1, 2);
        builder.integer("heads", 1, 8);
        let space = builder.finish().unwrap();
        let encoding = HeterogeneousEncoding::by_kind(&space);
        assert_eq!((encoding.lengths(), encoding.slot_sizes()), ([0, 1, 4], vec![2, 2, 2, 2]));
        let encoded = encoding.encode(&Genotype::new([1, 0b101, 7]));
        assert_eq!((encoded.architectural, encoded.sparse), (vec![8f64.ln_1p()], vec![1, 1, 0, 1]));
    }
}
