//! A first schema from the data itself.

use std::fmt::Write;
use std::path::Path;

use crate::error::{DataError, listed};
use crate::input::record::{record_end, split_fields, without_line_end};
use crate::input::{BLOCK_BYTES, BlockRows, Input};
use crate::interner::Interner;
use crate::number;
use crate::schema::{PRESETS, Schema};
use crate::time::TimeFormat;

/// Rows that are looked at.
const SAMPLE_ROWS: u64 = 200_000;

/// Distinct texts of a column that are told apart.
const DISTINCT_LIMIT: usize = 20_000;

/// Integers with at most so many distinct values are taken for categories.
const FEW_VALUES: usize = 40;

/// Texts that usually mean a missing value.
const USUAL_MISSING: [&str; 8] = ["NA", "N/A", "NaN", "nan", "NULL", "null", "None", "\\N"];

/// Names that usually are the label's, best first.
const LABEL_NAMES: [&str; 12] = [
    "label",
    "click",
    "clicked",
    "is_click",
    "is_clicked",
    "target",
    "y",
    "is_attributed",
    "conversion",
    "converted",
    "is_converted",
    "outcome",
];

/// Words in the names of columns that hold what a model said, not what a model may know.
const SCORE_WORDS: [&str; 8] =
    ["score", "pred", "prediction", "predicted", "probability", "prob", "pctr", "pcvr"];

/// What was seen of a column.
#[derive(Default)]
struct ColumnStatistics {
    name: String,
    missing: u64,
    integers: u64,
    numbers: u64,
    times: u64,
    present: u64,
    binary: u64,
    texts: Interner,
    overflow: bool,
    /// Whether it is a list of the file's own.
    list: bool,
}

impl ColumnStatistics {
    fn see(&mut self, text: &[u8], markers: &mut Vec<&'static str>) {
        let text = number::trimmed(text);
        if let Some(marker) = USUAL_MISSING.iter().find(|marker| marker.as_bytes() == text) {
            if !markers.contains(marker) {
                markers.push(marker);
            }
            self.missing += 1;
            return;
        }
        if text.is_empty() {
            self.missing += 1;
            return;
        }
        self.present += 1;
        let value = number::parse_f64(text);
        self.numbers += u64::from(value.is_some());
        self.integers += u64::from(value.is_some_and(|value| value.fract() == 0.0));
        let binary = value.map_or(number::is_boolean(text), |value| value == 0.0 || value == 1.0);
        self.binary += u64::from(binary);
        self.times += u64::from(TimeFormat::Iso.parse(text).is_some());
        if self.texts.len() < DISTINCT_LIMIT {
            self.texts.intern(text);
        } else {
            self.overflow = self.overflow || self.texts.find(text).is_none();
        }
    }

    fn role(&self) -> Role {
        let name = self.name.to_lowercase();
        let distinct = self.texts.len();
        let named_id =
            ["id", "code", "type", "category", "channel", "device", "ip", "os", "app", "zip"]
                .iter()
                .any(|end| name == *end || name.ends_with(&format!("_{end}")));
        if self.present == 0 {
            return Role::Ignore("always missing");
        }
        if self.list {
            return Role::List;
        }
        if distinct == 1 && self.missing == 0 {
            return Role::Ignore("always the same");
        }
        let words = || name.split(['_', '-', '.', ' ']);
        if self.numbers == self.present && words().any(|word| word == "weight") {
            return Role::Ignore("named like a sample weight; `weight = ...` weighs rows with it");
        }
        if self.numbers == self.present && words().any(|word| SCORE_WORDS.contains(&word)) {
            return Role::Ignore("named like a model's score; `baseline = ...` compares with it");
        }
        if self.times == self.present {
            return Role::Time;
        }
        if self.numbers == self.present && self.integers < self.present {
            return Role::Dense;
        }
        if self.integers == self.present && !named_id && distinct > FEW_VALUES {
            return Role::Dense;
        }
        let unique = self.overflow || distinct as u64 * 10 > self.present * 9;
        if unique && self.present > 1_000 && self.present == self.texts.len() as u64 {
            return Role::Ignore("different in every row");
        }
        Role::Categorical
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Dense,
    Categorical,
    List,
    Time,
    Ignore(&'static str),
}

/// Writes the text of a schema for a log from its first 200,000 rows. It is a starting point:
/// the comments say what to check, above all which columns would leak the label.
pub fn infer(path: &Path) -> Result<String, DataError> {
    let (columns, headerless, markers) = look(path)?;
    let label = label(&columns).ok_or_else(|| DataError::Schema {
        file: path.into(),
        problem: format!(
            "no column is named like a label or holds only 0 and 1; write the schema by hand with \
             label = {{ column = ..., at_least = ... }}; the file has: {}",
            listed(&columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>())
        ),
    })?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!("# Inferred from {file}; check the lines marked with `?`.\n");
    if headerless && columns.len() == 40 {
        text.push_str(
            "# ? 40 columns without a header: for Criteo's log use the preset `criteo` instead.\n",
        );
    }
    let quote = |name: &str| toml::Value::from(name).to_string();
    let list = |names: &[&str]| {
        let names: Vec<String> = ranges(names).iter().map(|name| quote(name)).collect();
        format!("[{}]", names.join(", "))
    };
    if headerless {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let _ = writeln!(text, "columns = {}", list(&names));
    }
    let chosen = &columns[label];
    let name = quote(&chosen.name);
    match (chosen.binary == chosen.present, chosen.missing) {
        (true, 0) => writeln!(text, "label = {name}"),
        (true, _) => writeln!(text, "label = {{ column = {name}, missing = \"drop\" }}"),
        (false, 0) => writeln!(text, "label = {{ column = {name}, at_least = 1 }} # ? counts or ratings"),
        (false, _) => {
            writeln!(text, "label = {{ column = {name}, at_least = 1, missing = \"drop\" }} # ? counts or ratings")
        }
    }
    .unwrap_or_default();
    let roles: Vec<(Role, &ColumnStatistics)> = columns
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != label)
        .map(|(_, column)| (column.role(), column))
        .collect();
    let of = |role: Role| -> Vec<&str> {
        roles.iter().filter(|(r, _)| *r == role).map(|(_, column)| column.name.as_str()).collect()
    };
    let _ = writeln!(text, "# ? Leave out what is only known after the outcome.");
    let _ = writeln!(text, "dense = {}", list(&of(Role::Dense)));
    let _ = writeln!(text, "categorical = {}", list(&of(Role::Categorical)));
    let lists = of(Role::List);
    if !lists.is_empty() {
        let _ = writeln!(text, "lists = {}", list(&lists));
    }
    let mut ignored = Vec::new();
    for (role, column) in &roles {
        if let Role::Ignore(why) = role {
            ignored.push(column.name.as_str());
            let _ = writeln!(text, "# {} is {why}.", column.name);
        }
    }
    let times = of(Role::Time);
    ignored.extend(times.iter().skip(1));
    if !ignored.is_empty() {
        let _ = writeln!(text, "ignore = {}", list(&ignored));
    }
    if !markers.is_empty() {
        let _ = writeln!(text, "missing = {}", list(&markers));
    }
    let _ = writeln!(text, "encoder = {{ kind = \"dictionary\", min_count = 5 }}");
    match times.first() {
        Some(time) => {
            let _ = writeln!(
                text,
                "time = {}\n\n# The latest rows test. Other splits: random, column, group.",
                quote(time)
            );
            text.push_str("[split]\nby = \"time\"\nfractions = [0.8, 0.1, 0.1]\n");
        }
        None => {
            text.push_str(
                "\n# Other splits: time (name the `time` column above), column, group.\n",
            );
            text.push_str("[split]\nby = \"random\"\nfractions = [0.8, 0.1, 0.1]\nseed = 2018\n");
        }
    }
    // a schema that this program refuses would be no starting point
    Schema::parse(&text, path)?;
    debug_assert!(PRESETS.contains(&"criteo"));
    Ok(text)
}

fn look(path: &Path) -> Result<(Vec<ColumnStatistics>, bool, Vec<&'static str>), DataError> {
    let schema = Schema::anything();
    let mut input = Input::open(path, &schema, BLOCK_BYTES)?;
    let mut names = input.names.clone();
    // names that are numbers or empty are no names, but a first row
    let headerless = input.header_rows == 1
        && names.iter().any(|name| name.is_empty() || number::parse_f64(name.as_bytes()).is_some());
    let first = names.clone();
    if headerless {
        names = (1..=names.len()).map(|i| format!("f{i}")).collect();
    }
    if let [only] = &names[..]
        && let Some(other) = [';', '|', '\t', ','].into_iter().find(|c| first[0].contains(*c))
    {
        return Err(DataError::Schema {
            file: path.into(),
            problem: format!(
                "one column only, `{only}`: the fields seem to be separated by {other:?}; save the \
                 file with commas (.csv) or tabs (.tsv)"
            ),
        });
    }
    for (at, name) in names.iter().enumerate() {
        if let Some(before) = names[..at].iter().position(|n| n == name) {
            return Err(DataError::DuplicateColumn {
                file: path.into(),
                column: name.clone(),
                first: before + 1,
                second: at + 1,
            });
        }
    }
    input.project_supported()?;
    let mut columns: Vec<ColumnStatistics> =
        names.into_iter().map(|name| ColumnStatistics { name, ..Default::default() }).collect();
    for (column, list) in columns.iter_mut().zip(&input.native_lists) {
        column.list = *list;
    }
    let mut markers = Vec::new();
    let mut rows = 0;
    if headerless {
        columns
            .iter_mut()
            .zip(&first)
            .for_each(|(column, text)| column.see(text.as_bytes(), &mut markers));
        rows += 1;
    }
    let mut scratch = Vec::new();
    while rows < SAMPLE_ROWS {
        let Some(block) = input.next_block()? else { break };
        match &block.rows {
            BlockRows::Text { bytes, delimiter } => {
                let mut at = 0;
                while at < bytes.len() {
                    let end =
                        record_end(&bytes[at..], *delimiter).map_or(bytes.len(), |end| at + end);
                    let record = without_line_end(&bytes[at..end]);
                    at = end;
                    if record.is_empty() && columns.len() > 1 {
                        continue;
                    }
                    rows += 1;
                    let mut i = 0;
                    let _ = split_fields(record, *delimiter, &mut scratch, |text| {
                        if let Some(column) = columns.get_mut(i) {
                            column.see(text, &mut markers);
                        }
                        i += 1;
                    });
                }
            }
            BlockRows::Fields { width, bytes, ends } => {
                let mut start = 0;
                for (i, &end) in ends.iter().enumerate() {
                    columns[i % width].see(&bytes[start..end as usize], &mut markers);
                    start = end as usize;
                }
                rows += (ends.len() / width) as u64;
            }
        }
    }
    if rows == 0 {
        return Err(DataError::EmptyFile { file: path.into() });
    }
    Ok((columns, headerless, markers))
}

/// The label: a column of two classes with a label's name, else of numbers with such a name
/// (ratings, counts), else of two classes.
fn label(columns: &[ColumnStatistics]) -> Option<usize> {
    let named = |accepted: fn(&ColumnStatistics) -> bool| {
        LABEL_NAMES.iter().find_map(|name| {
            columns.iter().position(|c| c.name.eq_ignore_ascii_case(name) && accepted(c))
        })
    };
    let two_classes = |c: &ColumnStatistics| c.present > 0 && c.binary == c.present;
    named(two_classes)
        .or_else(|| named(|c| c.present > 0 && c.numbers == c.present))
        .or_else(|| columns.iter().position(|c| two_classes(c) && c.texts.len() == 2))
}

/// Joins runs of at least three numbered names to `first..last`.
fn ranges(names: &[&str]) -> Vec<String> {
    let parts = |name: &str| -> Option<(String, u32)> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[stem.len()..];
        let number: u32 = digits.parse().ok()?;
        (number.to_string() == digits).then(|| (stem.to_string(), number))
    };
    let mut joined = Vec::new();
    let mut at = 0;
    while at < names.len() {
        let mut run = 1;
        if let Some((stem, number)) = parts(names[at]) {
            while names.get(at + run).and_then(|name| parts(name))
                == Some((stem.clone(), number + run as u32))
            {
                run += 1;
            }
        }
        if run >= 3 {
            joined.push(format!("{}..{}", names[at], names[at + run - 1]));
        } else {
            run = 1;
            joined.push(names[at].to_string());
        }
        at += run;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_names_are_joined() {
        let check = |names: &[&str], expect: &[&str]| assert_eq!(ranges(names), expect);
        check(&["C1", "C2", "C3", "x", "I1", "I2"], &["C1..C3", "x", "I1", "I2"]);
        check(&["a", "b"], &["a", "b"]);
        check(&["C01", "C02", "C03"], &["C01", "C02", "C03"]);
        check(&[], &[]);
    }

    #[test]
    fn infers_roles() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.csv");
        let mut text = String::from("row,when,clicked,price,site,user_id,constant\n");
        for i in 0..2_000 {
            let price = if i % 7 == 0 { "NA".to_string() } else { format!("{}.5", i % 90) };
            text.push_str(&format!(
                "r{i},2020-01-{:02},{},{price},s{},{},k\n",
                i % 28 + 1,
                i % 2,
                i % 9,
                i % 300
            ));
        }
        std::fs::write(&path, text).unwrap();
        let inferred = infer(&path).unwrap();
        let schema = Schema::parse(&inferred, &path).unwrap();
        assert_eq!(schema.label.column, "clicked");
        assert_eq!(schema.dense.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["price"]);
        let categorical: Vec<&str> = schema.categorical.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(categorical, ["site", "user_id"]);
        assert_eq!(schema.time.unwrap().columns, ["when"]);
        assert_eq!(schema.ignore, ["row", "constant"]);
        assert_eq!(schema.missing, ["NA"]);
    }

    #[test]
    fn labels_of_two_classes_come_first_and_scores_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.csv");
        let mut text = String::from("label,click,sample_weight,old_score,site\n\n");
        for i in 0..50 {
            let click = if i % 3 == 0 { "True" } else { "false" };
            text.push_str(&format!("{},{click},0.{i}1,0.{i}2,s{}\n", i % 5, i % 4));
        }
        std::fs::write(&path, text).unwrap();
        let schema = Schema::parse(&infer(&path).unwrap(), &path).unwrap();
        assert_eq!(schema.label.column, "click");
        assert_eq!(schema.label.at_least, None);
        assert_eq!(schema.ignore, ["sample_weight", "old_score"]);
    }

    #[test]
    fn what_cannot_be_a_table_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let check = |text: &str, expect: &str| {
            let path = dir.path().join("log.csv");
            std::fs::write(&path, text).unwrap();
            let error = infer(&path).unwrap_err().to_string();
            assert!(error.contains(expect), "{error:?} lacks {expect:?}");
        };
        check("click;a;b\n1;2;3\n", "separated by ';'");
        check("click,a,a\n1,2,3\n", "columns 2 and 3 are both named `a`");
        check("x,y2\n5,a\n6,b\n", "the file has: x, y2");
    }

    #[test]
    fn files_without_a_header_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.tsv");
        std::fs::write(&path, "0\t1.5\ta\n1\t\tb\n0\t2.5\ta\n").unwrap();
        let inferred = infer(&path).unwrap();
        let schema = Schema::parse(&inferred, &path).unwrap();
        assert_eq!(schema.columns.unwrap(), ["f1", "f2", "f3"]);
        assert_eq!(schema.label.column, "f1");
    }
}
