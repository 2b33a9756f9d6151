/*!
Click logs: schema, streaming ingestion, columnar shards, batches.

A [`Schema`] says what the columns of a log mean: which one is the label, which are numbers, which
are categories and how they are encoded, and which rows train, validate and test. It comes from a
TOML file of about ten lines, from [`infer`], or from a preset for the public logs of Criteo,
Avazu and KDD Cup 2012. [`prepare()`](prepare()) reads the log once, in memory that does not grow
with it, fits the encoders on the training part alone, and leaves a [`Dataset`]: memory-mapped
columns in shards, with a manifest of counts and content hashes. The trainer asks a dataset for a
[`Batch`]; somebody who predicts asks a [`LogReader`] for the same rows straight from a file.

Shards hold values *before* any embedding table, so one dataset serves a search with small tables
and a final fit with large ones: [`table_index`] is applied when a batch is filled. They also hold
dense values *before* their transforms, NaN where missing, because that is what an exported model
takes. [`Encoders`] describes both in full.

```
use palmette_data::{Batch, PrepareOptions, Schema, Split, prepare};

# fn main() -> Result<(), Box<dyn std::error::Error>> {
let dir = tempfile::tempdir()?;
let log = dir.path().join("log.csv");
let mut text = String::from("click,age,site\n");
for row in 0..100 {
    text.push_str(&format!("{},{},site{}\n", row % 2, 20 + row % 50, row % 5));
}
std::fs::write(&log, text)?;

let schema = Schema::parse(
    r#"
    label = "click"
    dense = ["age"]
    categorical = ["site"]
    encoder = { kind = "dictionary", min_count = 2 }
    "#,
    "log.toml".as_ref(),
)?;
let dataset = prepare(&PrepareOptions::new(schema, vec![log], dir.path().join("data")), &())?;
assert_eq!(dataset.rows(Split::Train), 80);

let tables = dataset.table_rows(Some(500_000));
assert_eq!(tables, [6]); // five sites and row 0 for whatever else may come
let mut batch = Batch::default();
dataset.fill_range(Split::Train, 0..32, &tables, &mut batch)?;
assert_eq!(batch.rows, 32);
assert_eq!(batch.dense[0], (20.0f32 + 1.0).ln());
assert!(batch.ids.iter().all(|&id| (1..6).contains(&id)));
# Ok(())
# }
```

# Fields of any number of values

Histories and sets of tags are `lists` of the schema: `a|b|c` in text, a list or such a text in
Parquet. They are stored without padding and arrive as [`Jagged`] table rows; a list may share
vocabulary and table with a categorical field.

```
# use palmette_data::{Batch, PrepareOptions, Schema, Split, prepare};
# fn main() -> Result<(), Box<dyn std::error::Error>> {
# let dir = tempfile::tempdir()?;
let log = dir.path().join("log.csv");
std::fs::write(&log, "click,item,history\n1,a,b|c|a\n0,b,\n1,c,a\n")?;
let schema = Schema::parse(
    r#"
    label = "click"
    categorical = ["item"]
    lists = ["history"]
    split = { fractions = [1.0, 0.0, 0.0] }
    [column.history]
    max_length = 2
    keep = "last"
    shares = "item"
    "#,
    "log.toml".as_ref(),
)?;
let dataset = prepare(&PrepareOptions::new(schema, vec![log], dir.path().join("data")), &())?;
let mut batch = Batch::default();
dataset.fill_range(Split::Train, 0..3, &dataset.table_rows(None), &mut batch)?;
assert_eq!(batch.lists[0].offsets, [0, 2, 2, 3]);
// `a` is seen three times, `c` twice, `b` once: rows 1, 2 and 3 of the table
assert_eq!(batch.ids, [1, 3, 2]);
assert_eq!(batch.lists[0].values, [2, 1, 1]);
assert_eq!(dataset.manifest().lists[0].cut, 1);
# Ok(())
# }
```

# What is promised

- The same log, schema and seed give the same bytes, whatever the memory, the number of threads,
  the compression and the form of the files, and however often the work was killed on its way.
- Memory stays below [`PrepareOptions::memory`]: counts and dictionaries go to disk as sorted runs.
- Vocabularies, means and distinct counts see the training part only.
- A row that cannot be used is an error with file, row and field, or is set aside and counted.
*/

mod batch;
mod dataset;
mod encode;
mod encoder;
mod error;
mod estimate;
mod fit;
mod hash;
mod infer;
mod input;
mod interner;
mod manifest;
mod number;
mod parse;
mod prepare;
mod profile;
mod schema;
mod shard;
mod split;
mod staging;
mod time;
mod write;

pub use batch::{Batch, Jagged, RawBatch};
pub use dataset::Dataset;
pub use encode::{LogReader, RowEncoder};
pub use encoder::{
    CategoricalEncoder, DenseTransform, IntegerBase, MIN_TABLE_ROWS, hash_value, table_index,
};
pub use error::{DataError, RowProblem};
pub use estimate::{Estimate, estimate};
pub use infer::infer;
pub use manifest::{
    Encoders, FORMAT_VERSION, FittedCategorical, FittedDense, FittedList, InputEntry, ListCounts,
    ListVocabulary, MANIFEST_FILE, Manifest, ShardEntry, Split, SplitCounts, VocabularyEntry,
};
pub use prepare::{
    MIN_MEMORY, Observer, OnBadRow, PrepareOptions, QUARANTINE_FILE, Stage, prepare,
};
pub use schema::{
    CategoricalField, DEFAULT_LIST_LENGTH, DenseField, EncoderRule, ExtraColumn, ExtraKind,
    FileFormat, Keep, LabelRule, ListField, MAX_LIST_LENGTH, PRESETS, ProfileRule, Schema,
    SplitOverride, SplitRule, TIME_COLUMN, TimeRule, TransformRule,
};
pub use time::TimeFormat;
