use crate::{
    Choice, ChoiceId, Condition, EdgeCell, EdgeDag, Kind, MutationTree, Space, SpaceError,
    TokenForm,
};

/// Writes a space, choice by choice.
///
/// Mistakes are kept and reported by [`finish`](Self::finish), so that a space
/// reads as a plain list.
#[derive(Clone, Debug)]
pub struct SpaceBuilder {
    name: String,
    prefix: String,
    choices: Vec<Choice>,
    mutation: Option<MutationTree>,
    cells: Vec<EdgeCell>,
    mistake: Option<SpaceError>,
}

impl SpaceBuilder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            prefix: String::new(),
            choices: Vec::new(),
            mutation: None,
            cells: Vec::new(),
            mistake: None,
        }
    }

    /// Exactly one of `options`, unordered.
    pub fn one_of<S: AsRef<str>>(&mut self, name: &str, options: &[S]) -> ChoiceId {
        self.push(name, Kind::OneOf { options: strings(options), ordered: false })
    }

    /// Exactly one of `options`, ordered as widths are.
    pub fn one_of_ordered<S: AsRef<str>>(&mut self, name: &str, options: &[S]) -> ChoiceId {
        self.push(name, Kind::OneOf { options: strings(options), ordered: true })
    }

    /// Yes or no; the gene is 1 for yes.
    pub fn flag(&mut self, name: &str) -> ChoiceId {
        self.one_of(name, &["no", "yes"])
    }

    /// `min` to `max` of `items`.
    pub fn subset<S: AsRef<str>>(
        &mut self,
        name: &str,
        items: &[S],
        min: usize,
        max: usize,
    ) -> ChoiceId {
        self.push(name, Kind::Subset { items: strings(items), min, max })
    }

    /// An integer in `low..=high`.
    pub fn integer(&mut self, name: &str, low: i64, high: i64) -> ChoiceId {
        self.push(name, Kind::Integer { low, high })
    }

    /// Writes `body` `times` times, each under the prefix `name.i.` with i counted from 1.
    pub fn repeat<T>(
        &mut self,
        name: &str,
        times: usize,
        mut body: impl FnMut(&mut Self, usize) -> T,
    ) -> Vec<T> {
        (1..=times)
            .map(|i| {
                let outer = self.prefix.clone();
                self.prefix = format!("{outer}{name}.{i}.");
                let made = body(self, i);
                self.prefix = outer;
                made
            })
            .collect()
    }

    /// Lets `choice` matter only where `on` took one of `values`
    /// (names of options or items, or integers as text; for a subset: contains any of them).
    pub fn only_if<S: AsRef<str>>(&mut self, choice: ChoiceId, on: ChoiceId, values: &[S]) {
        let mut any_of = Vec::new();
        for value in values {
            let value = value.as_ref();
            let gene = match &self.choices[on.0].kind {
                Kind::OneOf { options: names, .. } | Kind::Subset { items: names, .. } => {
                    names.iter().position(|name| name == value).map(|i| i as u32)
                }
                Kind::Integer { low, .. } => {
                    value.parse::<i64>().ok().and_then(|v| u32::try_from(v - low).ok())
                }
            };
            match gene {
                Some(gene) => any_of.push(gene),
                None => self.fail(SpaceError::BadCondition {
                    choice: self.choices[choice.0].name.clone(),
                    problem: format!(
                        "`{}` has no value `{value}`; it accepts {}",
                        self.choices[on.0].name,
                        self.choices[on.0].kind.describe()
                    ),
                }),
            }
        }
        self.choices[choice.0].condition = Some(Condition { on, any_of });
    }

    /// Tells what operators of a cell mean: `absent` is the one of an edge that is not there,
    /// `identity` one that changes nothing. Predictors then compare paths through the cell, and
    /// isomorphic drawings are known.
    pub fn edge_cell(&mut self, dag: &EdgeDag, absent: &str, identity: Option<&str>) {
        let Some(first) = dag.edges.first().and_then(|edge| self.choices.get(edge.0)) else {
            return;
        };
        let gene = |operator: &str| match &first.kind {
            Kind::OneOf { options, .. } => {
                options.iter().position(|option| option == operator).map(|i| i as u32)
            }
            _ => None,
        };
        let unknown = |operator: &str| SpaceError::BadChoice {
            choice: first.name.clone(),
            problem: format!("no operator `{operator}`; it accepts {}", first.kind.describe()),
        };
        match (gene(absent), identity.map(|operator| gene(operator).ok_or(operator)).transpose()) {
            (Some(absent), Ok(identity)) => {
                self.cells.push(EdgeCell { edges: dag.edges.clone(), absent, identity });
            }
            (None, _) => self.fail(unknown(absent)),
            (_, Err(operator)) => self.fail(unknown(operator)),
        }
    }

    /// Sets how `choice` appears in tokens (default: one bit per option or item).
    pub fn token(&mut self, choice: ChoiceId, form: TokenForm) {
        self.choices[choice.0].token = form;
    }

    /// Sets the tree that mutation walks (default: every choice alike).
    pub fn mutation(&mut self, tree: MutationTree) {
        self.mutation = Some(tree);
    }

    /// Checks everything and makes the space.
    pub fn finish(self) -> Result<Space, SpaceError> {
        match self.mistake {
            Some(mistake) => Err(mistake),
            None => Space::new(self.name, self.choices, self.mutation, self.cells),
        }
    }

    fn push(&mut self, name: &str, kind: Kind) -> ChoiceId {
        let token = TokenForm::Bits(kind.width());
        let name = format!("{}{name}", self.prefix);
        self.choices.push(Choice { name, kind, condition: None, token });
        ChoiceId(self.choices.len() - 1)
    }

    fn fail(&mut self, mistake: SpaceError) {
        self.mistake.get_or_insert(mistake);
    }
}

fn strings<S: AsRef<str>>(names: &[S]) -> Vec<String> {
    names.iter().map(|name| name.as_ref().to_owned()).collect()
}
