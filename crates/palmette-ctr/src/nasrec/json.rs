//! The architecture format that the NASRec code publishes and reads.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{Block, DenseOp, MAX_BLOCKS, NasRecConfig, Operators, Path, Set, SparseOp};

/// Why a document is not an architecture.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Text that is not a JSON object.
    #[error("not an architecture document: {0}; needed: a JSON object")]
    NotJson(String),
    /// A field that is not there.
    #[error("field `{0}` is missing")]
    Missing(String),
    /// A field that the format does not have.
    #[error("unknown field `{field}`; known here: {known}")]
    Unknown {
        /// Where it stands.
        field: String,
        /// Fields that the format has there.
        known: String,
    },
    /// A field with a value that the format does not allow.
    #[error("field `{field}` is {got}; needed: {needed}")]
    Bad {
        /// Where it stands.
        field: String,
        /// What was found.
        got: String,
        /// What would be accepted.
        needed: String,
    },
}

/// An architecture in the published format.
///
/// Fields of the document: `num_blocks`, `use_layernorm`, `config` (`xlarge`, `autoctr` or
/// `xlarge-zeros`), optional `test_loss`, and the lists `micro` (`active_nodes`, `dense_in_dims`,
/// `sparse_in_dims`, `dense_sparse_interact`, `deep_fm`) and `macro` (`dense_idx`, `sparse_idx`,
/// `dense_left_idx`, `dense_right_idx`), one entry a block. Index lists may have any order.
/// Architectures of a space with other widths carry two more, `dense_dims` and `sparse_dims`.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchitectureFile {
    /// The network.
    pub path: Path,
    /// Which node list the indices of `active_nodes` refer to.
    pub operators: Operators,
    /// Whether the supernet had layer norm (the standalone network has none whatever this says).
    pub use_layernorm: bool,
    /// Loss in the search, where the file gives one.
    pub test_loss: Option<f64>,
    /// Dense widths of the space.
    pub dense_widths: Vec<u16>,
    /// Sparse widths of the space.
    pub sparse_widths: Vec<u16>,
}

/// One entry of a node list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dense(DenseOp),
    Sparse(SparseOp),
}

const TOP: [&str; 8] = [
    "micro",
    "macro",
    "num_blocks",
    "use_layernorm",
    "config",
    "test_loss",
    "dense_dims",
    "sparse_dims",
];
const MICRO: [&str; 5] =
    ["active_nodes", "dense_in_dims", "sparse_in_dims", "dense_sparse_interact", "deep_fm"];
const MACRO: [&str; 4] = ["dense_idx", "sparse_idx", "dense_left_idx", "dense_right_idx"];

impl Operators {
    /// Its name in the published format.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::Full => "xlarge",
            Self::Small => "autoctr",
            Self::FullWithZeros => "xlarge-zeros",
        }
    }

    fn nodes(self) -> Vec<Node> {
        let dense = self.dense().iter().map(|&op| Node::Dense(op));
        dense.chain(self.sparse().iter().map(|&op| Node::Sparse(op))).collect()
    }
}

impl ArchitectureFile {
    /// An architecture of the space `config`.
    pub fn new(path: Path, config: &NasRecConfig) -> Self {
        Self {
            path,
            operators: config.operators,
            use_layernorm: true,
            test_loss: None,
            dense_widths: config.dense_widths.clone(),
            sparse_widths: config.sparse_widths.clone(),
        }
    }

    /// Reads a document; the error names the field.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| JsonError::NotJson(e.to_string()))?;
        let top = object(&value, "")?;
        known(top, "", &TOP)?;
        let operators = read_config(field(top, "", "config")?)?;
        let published = NasRecConfig::published(operators);
        let dense_widths = read_widths(top, "dense_dims", published.dense_widths)?;
        let sparse_widths = read_widths(top, "sparse_dims", published.sparse_widths)?;
        let blocks = read_integer(field(top, "", "num_blocks")?, "num_blocks", 1, MAX_BLOCKS)?;
        let micro = read_list(top, "micro", blocks)?;
        let connections = read_list(top, "macro", blocks)?;
        let mut path = Path::default();
        for (index, (micro, connection)) in micro.iter().zip(connections).enumerate() {
            let mut block = read_micro(micro, index, operators, &dense_widths, &sparse_widths)?;
            read_macro(connection, index, &mut block)?;
            path.blocks.push(block);
        }
        let use_layernorm = read_flag(field(top, "", "use_layernorm")?, "use_layernorm")?;
        let test_loss = match top.get("test_loss") {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                value.as_f64().ok_or_else(|| bad("test_loss", value, "a number, or no field"))?,
            ),
        };
        Ok(Self { path, operators, use_layernorm, test_loss, dense_widths, sparse_widths })
    }

    /// Writes the document.
    ///
    /// The path must be a network: one operator a side, one left and one right operand.
    pub fn to_json(&self) -> Result<Value, JsonError> {
        let nodes = self.operators.nodes();
        let mut micro = Vec::new();
        let mut connections = Vec::new();
        for (index, block) in self.path.blocks.iter().enumerate() {
            let dense = sole(block.dense_ops, index, "dense operator")?;
            let sparse = sole(block.sparse_ops, index, "sparse operator")?;
            let position = |node: Node| {
                nodes.iter().position(|&other| other == node).ok_or_else(|| JsonError::Bad {
                    field: format!("micro[{index}].active_nodes"),
                    got: "an operator outside the configuration".into(),
                    needed: format!("an operator of `{}`", self.operators.config_name()),
                })
            };
            micro.push(json!({
                "active_nodes": [
                    position(Node::Dense(DenseOp::ALL[dense]))?,
                    position(Node::Sparse(SparseOp::ALL[sparse]))?,
                ],
                "dense_in_dims": block.dense_width,
                "sparse_in_dims": block.sparse_width,
                "dense_sparse_interact": u8::from(block.dense_to_sparse),
                "deep_fm": u8::from(block.sparse_to_dense),
            }));
            connections.push(json!({
                "dense_idx": block.dense_sources.iter().collect::<Vec<_>>(),
                "sparse_idx": block.sparse_sources.iter().collect::<Vec<_>>(),
                "dense_left_idx": [sole(block.left, index, "left operand")?],
                "dense_right_idx": [sole(block.right, index, "right operand")?],
            }));
        }
        let mut document = json!({
            "micro": micro,
            "macro": connections,
            "num_blocks": self.path.blocks.len(),
            "use_layernorm": u8::from(self.use_layernorm),
            "config": self.operators.config_name(),
        });
        let published = NasRecConfig::published(self.operators);
        if let Some(loss) = self.test_loss {
            document["test_loss"] = json!(loss);
        }
        if self.dense_widths != published.dense_widths {
            document["dense_dims"] = json!(self.dense_widths);
        }
        if self.sparse_widths != published.sparse_widths {
            document["sparse_dims"] = json!(self.sparse_widths);
        }
        Ok(document)
    }
}

fn sole(set: Set, block: usize, what: &str) -> Result<usize, JsonError> {
    if set.len() == 1 {
        return Ok(set.0.trailing_zeros() as usize);
    }
    Err(JsonError::Bad {
        field: format!("block {}: {what}", block + 1),
        got: format!("{} of them", set.len()),
        needed: "exactly one; only networks can be written, not supernet paths".into(),
    })
}

fn read_config(value: &Value) -> Result<Operators, JsonError> {
    [Operators::Full, Operators::Small, Operators::FullWithZeros]
        .into_iter()
        .find(|operators| value == operators.config_name())
        .ok_or_else(|| bad("config", value, "\"xlarge\", \"autoctr\" or \"xlarge-zeros\""))
}

fn read_widths(
    top: &Map<String, Value>,
    name: &str,
    published: Vec<u16>,
) -> Result<Vec<u16>, JsonError> {
    let Some(value) = top.get(name) else { return Ok(published) };
    let widths: Option<Vec<u16>> = value.as_array().and_then(|list| {
        list.iter().map(|v| v.as_u64().and_then(|v| u16::try_from(v).ok())).collect()
    });
    widths
        .filter(|widths| !widths.is_empty() && widths[0] > 0 && widths.is_sorted_by(|a, b| a < b))
        .ok_or_else(|| bad(name, value, "an ascending list of widths from 1 to 65535"))
}

fn read_micro(
    value: &Value,
    index: usize,
    operators: Operators,
    dense_widths: &[u16],
    sparse_widths: &[u16],
) -> Result<Block, JsonError> {
    let at = format!("micro[{index}]");
    let entry = object(value, &at)?;
    known(entry, &at, &MICRO)?;
    let get = |name: &str| field(entry, &at, name);
    let path = |name: &str| format!("{at}.{name}");
    let (dense_op, sparse_op) = read_nodes(get("active_nodes")?, &path("active_nodes"), operators)?;
    Ok(Block {
        dense_ops: Set::only(dense_op as usize),
        sparse_ops: Set::only(sparse_op as usize),
        dense_width: read_width(get("dense_in_dims")?, &path("dense_in_dims"), dense_widths)?,
        sparse_width: read_width(get("sparse_in_dims")?, &path("sparse_in_dims"), sparse_widths)?,
        dense_to_sparse: read_flag(get("dense_sparse_interact")?, &path("dense_sparse_interact"))?,
        sparse_to_dense: read_flag(get("deep_fm")?, &path("deep_fm"))?,
        ..Block::default()
    })
}

fn read_macro(value: &Value, index: usize, block: &mut Block) -> Result<(), JsonError> {
    let at = format!("macro[{index}]");
    let entry = object(value, &at)?;
    known(entry, &at, &MACRO)?;
    let read = |name: &str, one: bool| {
        read_sources(field(entry, &at, name)?, &format!("{at}.{name}"), index, one)
    };
    block.dense_sources = read("dense_idx", false)?;
    block.sparse_sources = read("sparse_idx", false)?;
    block.left = read("dense_left_idx", true)?;
    block.right = read("dense_right_idx", true)?;
    Ok(())
}

/// The dense and the sparse operator, in either order.
fn read_nodes(
    value: &Value,
    at: &str,
    operators: Operators,
) -> Result<(DenseOp, SparseOp), JsonError> {
    let nodes = operators.nodes();
    let (mut dense, mut sparse) = (None, None);
    let split = operators.dense().len();
    let wrong = || {
        let needed = format!(
            "one dense node (0 to {}) and one sparse node ({split} to {}) of `{}`",
            split - 1,
            nodes.len() - 1,
            operators.config_name()
        );
        bad(at, value, &needed)
    };
    for entry in value.as_array().ok_or_else(wrong)? {
        let node = entry.as_u64().and_then(|i| nodes.get(usize::try_from(i).ok()?));
        let taken = match node.ok_or_else(wrong)? {
            Node::Dense(op) => dense.replace(*op).is_some(),
            Node::Sparse(op) => sparse.replace(*op).is_some(),
        };
        if taken {
            return Err(wrong());
        }
    }
    dense.zip(sparse).ok_or_else(wrong)
}

fn read_sources(value: &Value, at: &str, index: usize, one: bool) -> Result<Set, JsonError> {
    let wrong = || {
        let what = if one { "a list of one source" } else { "a list of one or more sources" };
        bad(at, value, &format!("{what} from 0 (raw inputs) to {index}, none twice"))
    };
    let list = value.as_array().ok_or_else(wrong)?;
    let mut set = Set::default();
    for entry in list {
        let source = entry.as_u64().filter(|&s| s <= index as u64).ok_or_else(wrong)? as usize;
        if set.has(source) {
            return Err(wrong());
        }
        set.insert(source);
    }
    if set.is_empty() || one && set.len() != 1 {
        return Err(wrong());
    }
    Ok(set)
}

fn read_width(value: &Value, at: &str, widths: &[u16]) -> Result<u16, JsonError> {
    let width = value.as_u64().and_then(|v| u16::try_from(v).ok());
    width
        .filter(|width| widths.contains(width))
        .ok_or_else(|| bad(at, value, &format!("one of {widths:?}")))
}

fn read_flag(value: &Value, at: &str) -> Result<bool, JsonError> {
    match (value.as_bool(), value.as_u64()) {
        (Some(flag), _) => Ok(flag),
        (_, Some(0)) => Ok(false),
        (_, Some(1)) => Ok(true),
        _ => Err(bad(at, value, "0 or 1")),
    }
}

fn read_integer(value: &Value, at: &str, low: usize, high: usize) -> Result<usize, JsonError> {
    value
        .as_u64()
        .and_then(|v| usize::try_from(v).ok())
        .filter(|v| (low..=high).contains(v))
        .ok_or_else(|| bad(at, value, &format!("an integer from {low} to {high}")))
}

fn read_list<'a>(
    top: &'a Map<String, Value>,
    name: &str,
    blocks: usize,
) -> Result<&'a [Value], JsonError> {
    let value = field(top, "", name)?;
    match value.as_array() {
        Some(list) if list.len() == blocks => Ok(list),
        Some(list) => Err(JsonError::Bad {
            field: name.into(),
            got: format!("a list of {}", list.len()),
            needed: format!("one entry for each of the {blocks} blocks of `num_blocks`"),
        }),
        None => Err(bad(name, value, "a list")),
    }
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, JsonError> {
    value.as_object().ok_or_else(|| match at {
        "" => JsonError::NotJson(format!("it is {}", shorten(value))),
        at => bad(at, value, "an object"),
    })
}

fn known(object: &Map<String, Value>, at: &str, names: &[&str]) -> Result<(), JsonError> {
    match object.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(JsonError::Unknown { field: join(at, key), known: names.join(", ") }),
        None => Ok(()),
    }
}

fn field<'a>(object: &'a Map<String, Value>, at: &str, name: &str) -> Result<&'a Value, JsonError> {
    object.get(name).ok_or_else(|| JsonError::Missing(join(at, name)))
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn bad(field: &str, got: &Value, needed: &str) -> JsonError {
    JsonError::Bad { field: field.to_owned(), got: shorten(got), needed: needed.to_owned() }
}

/// Enough of a value to recognise it.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
