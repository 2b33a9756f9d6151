//! A user's own table.

use std::path::Path;

use palmette_space::{Choice, Genotype, Kind, Space};

use super::table::{USABLE, is_usable};
use super::{Column, Role, Table, TableError};

/// Which columns of a CSV file mean what.
#[derive(Clone, Debug, Default)]
pub struct OwnTable {
    /// Columns of the genotype; empty: every column that has no other meaning.
    pub genotype: Vec<String>,
    /// Qualities that a search sees, at least one; higher is better.
    pub score: Vec<String>,
    /// Qualities for the final report alone.
    pub test: Vec<String>,
    /// Costs; lower is better.
    pub costs: Vec<String>,
}

impl OwnTable {
    /// The meanings of the columns that a file has, for several files with one set of names.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_file(&self, path: &Path) -> Result<Self, TableError> {
        let problem = |e: csv::Error| TableError::File {
            file: path.display().to_string(),
            problem: e.to_string(),
        };
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(problem)?;
        let header = reader.headers().map_err(problem)?;
        let of = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| header.iter().any(|known| known == *name)).cloned().collect()
        };
        Ok(Self {
            genotype: of(&self.genotype),
            score: of(&self.score),
            test: of(&self.test),
            costs: of(&self.costs),
        })
    }
}

/// Reads a CSV file with a header. Each genotype column becomes a choice among its values (ordered
/// where all are numbers); the table is a pool unless it holds every combination. Cells are trimmed,
/// those of the header too; a column has one role.
pub fn read_csv(path: &Path, own: &OwnTable) -> Result<Table, TableError> {
    let file = path.display().to_string();
    let problem = |problem: String| TableError::File { file: file.clone(), problem };
    let bytes = std::fs::read(path).map_err(|e| problem(e.to_string()))?;
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(&bytes[..]);
    let unreadable = |e: csv::Error| match (e.kind(), e.position()) {
        (csv::ErrorKind::Utf8 { .. }, Some(at)) => {
            problem(format!("row {} is not UTF-8 text", line(&bytes, at)))
        }
        _ => problem(e.to_string()),
    };
    let header: Vec<String> =
        reader.headers().map_err(unreadable)?.iter().map(str::to_owned).collect();
    for (second, name) in header.iter().enumerate() {
        if let Some(first) = header[..second].iter().position(|other| other == name) {
            return Err(problem(format!(
                "columns {} and {} are both called `{name}`; needed: different names",
                first + 1,
                second + 1
            )));
        }
    }
    let find = |name: &String| {
        header.iter().position(|known| known == name).ok_or_else(|| TableError::MissingColumn {
            file: file.clone(),
            column: name.clone(),
            known: header.join(", "),
        })
    };
    let mut rows: Vec<csv::StringRecord> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        if record.len() != header.len() {
            return Err(problem(format!(
                "row {} has {} cells; needed: {}, as in the header",
                line_of(&bytes, &record),
                record.len(),
                header.len()
            )));
        }
        rows.push(record);
    }
    if rows.is_empty() {
        return Err(problem("it has no rows; needed: a header and at least one row".into()));
    }
    if own.score.is_empty() {
        return Err(problem(format!(
            "no score is named; needed: at least one of its columns, --score COLUMN; there are: {}",
            header.join(", ")
        )));
    }
    one_role_each(own).map_err(problem)?;
    let mut columns = Vec::new();
    let scores = own.score.iter().map(|name| (name, Role::Validation));
    let roles = scores
        .chain(own.test.iter().map(|name| (name, Role::Test)))
        .chain(own.costs.iter().map(|name| (name, Role::Cost)));
    let mut used = Vec::new();
    for (name, role) in roles {
        let position = find(name)?;
        used.push(position);
        let mut values = Vec::with_capacity(rows.len());
        for record in &rows {
            let text = &record[position];
            let value = text.parse::<f64>().ok().filter(|&value| is_usable(value));
            values.push(value.ok_or_else(|| TableError::BadValue {
                file: file.clone(),
                row: line_of(&bytes, record),
                column: name.clone(),
                got: format!("`{text}`"),
                needed: USABLE.into(),
            })?);
        }
        columns.push(Column { name: name.clone(), role, values });
    }
    let genotype: Vec<usize> = if own.genotype.is_empty() {
        (0..header.len()).filter(|position| !used.contains(position)).collect()
    } else {
        own.genotype.iter().map(find).collect::<Result<_, _>>()?
    };
    if genotype.is_empty() {
        return Err(problem("it has no columns for the genotype; needed: at least one".into()));
    }
    let (space, genotypes) = choices(&file, &header, &genotype, &rows, &bytes)?;
    Ok(Table::new(&file, space, genotypes, columns))
}

/// Choices with an order and nearly as many values (9 in 10) as the table has networks, beside
/// other choices: most likely measurements that were given no role. Tables of fewer than 10
/// networks say too little.
pub fn measurement_like(table: &Table) -> Vec<&str> {
    let (choices, networks) = (table.space().choices(), table.genotypes().len());
    if choices.len() < 2 || networks < 10 {
        return Vec::new();
    }
    let is_one = |choice: &&Choice| match &choice.kind {
        Kind::OneOf { options, ordered: true } => options.len() * 10 >= networks * 9,
        _ => false,
    };
    choices.iter().filter(is_one).map(|choice| choice.name.as_str()).collect()
}

/// Says which column is named twice, and as what.
fn one_role_each(own: &OwnTable) -> Result<(), String> {
    let lists = [
        ("a score", &own.score),
        ("a test", &own.test),
        ("a cost", &own.costs),
        ("of the genotype", &own.genotype),
    ];
    let mut seen: Vec<(&str, &String)> = Vec::new();
    for (role, name) in lists.iter().flat_map(|(role, names)| names.iter().map(|n| (*role, n))) {
        match seen.iter().find(|(_, other)| *other == name) {
            Some((first, _)) if *first == role => {
                return Err(format!("column `{name}` is named twice as {role}; needed: once"));
            }
            Some((first, _)) => {
                return Err(format!(
                    "column `{name}` is both {first} and {role}; needed: one role"
                ));
            }
            None => seen.push((role, name)),
        }
    }
    Ok(())
}

/// The line of a file that a record begins on, counted from 1 as an editor does.
fn line_of(bytes: &[u8], record: &csv::StringRecord) -> usize {
    record.position().map_or(0, |at| line(bytes, at))
}

/// The csv crate's own positions stand before the blank lines that it skips.
fn line(bytes: &[u8], at: &csv::Position) -> usize {
    let at = (at.byte() as usize).min(bytes.len());
    let blank = bytes[at..].iter().take_while(|&&byte| byte == b'\n' || byte == b'\r').count();
    1 + bytes[..at + blank].iter().filter(|&&byte| byte == b'\n').count()
}

fn choices(
    file: &str,
    header: &[String],
    positions: &[usize],
    rows: &[csv::StringRecord],
    bytes: &[u8],
) -> Result<(Space, Vec<Genotype>), TableError> {
    let mut builder = Space::builder("own");
    let mut genes: Vec<Vec<u32>> = vec![Vec::with_capacity(positions.len()); rows.len()];
    for &position in positions {
        let mut values: Vec<&str> = rows.iter().map(|row| &row[position]).collect();
        if let Some(row) = values.iter().position(|value| value.is_empty()) {
            return Err(TableError::BadValue {
                file: file.to_owned(),
                row: line_of(bytes, &rows[row]),
                column: header[position].clone(),
                got: "nothing".into(),
                needed: "a value of the choice".into(),
            });
        }
        let numbers: Option<Vec<f64>> = values.iter().map(|v| v.parse::<f64>().ok()).collect();
        let all = values.clone();
        match &numbers {
            Some(_) => values.sort_by(|a, b| number(a).total_cmp(&number(b)).then(a.cmp(b))),
            None => values.sort_unstable(),
        }
        values.dedup();
        if numbers.is_some() {
            builder.one_of_ordered(&header[position], &values);
        } else {
            builder.one_of(&header[position], &values);
        }
        for (row, value) in all.iter().enumerate() {
            genes[row].push(values.iter().position(|v| v == value).unwrap_or(0) as u32);
        }
    }
    let space =
        builder.finish().map_err(|source| TableError::Space { file: file.to_owned(), source })?;
    Ok((space, genes.into_iter().map(Genotype::new).collect()))
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Table, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let own =
            OwnTable { score: vec!["acc".into()], costs: vec!["ms".into()], ..OwnTable::default() };
        read_csv(file.path(), &own)
            .map_err(|e| e.to_string().replace(&file.path().display().to_string(), "own.csv"))
    }

    #[test]
    fn a_table_is_read_and_repeats_are_averaged() {
        let table =
            read("op,width,acc,ms\nconv,8,0.5,1\nconv,16,0.7,2\npool,8,0.2,1\npool,8,0.4,1\n")
                .unwrap();
        assert_eq!(table.genotypes().len(), 3);
        assert!(!table.is_complete());
        let pool = Genotype::new([1, 0]);
        let row = table.row(&pool).unwrap();
        assert!((table.column("acc").unwrap().values[row] - 0.3).abs() < 1e-12);
        // Widths are ordered as numbers: 8 before 16.
        assert_eq!(table.space().to_json(&pool).to_string(), r#"{"op":"pool","width":"8"}"#);
    }

    #[test]
    fn bad_rows_are_named() {
        for (text, want) in [
            (
                "op,acc,ms\na,0.5,1\nb,high,1\n",
                "own.csv: row 3, column `acc`: `high`; needed: a finite number of at most 1e150 in size",
            ),
            (
                "op,acc,ms\na,0.5,1\n,0.5,1\n",
                "own.csv: row 3, column `op`: nothing; needed: a value of the choice",
            ),
            ("op,acc\na,0.5\n", "own.csv: column `ms` is missing; there are: op, acc"),
            ("op,acc,ms\n", "own.csv: it has no rows; needed: a header and at least one row"),
        ] {
            assert_eq!(read(text).unwrap_err(), want);
        }
        let ragged = read("op,acc,ms\na,0.5,1\nb,0.5\n").unwrap_err();
        assert!(ragged.contains("row 3 has 2 cells; needed: 3"), "{ragged}");
    }

    #[test]
    fn rows_are_counted_as_an_editor_counts_lines() {
        for newline in ["\n", "\r\n"] {
            for (row, want) in [
                ("b,x,1", "own.csv: row 6, column `acc`: `x`"),
                (",0.5,1", "own.csv: row 6, column `op`: nothing"),
                ("b,0.5", "own.csv: row 6 has 2 cells"),
            ] {
                let text = ["", "op,acc,ms", "a,0.5,1", "", "", row, ""].join(newline);
                let error = read(&text).unwrap_err();
                assert!(error.starts_with(want), "{error}");
            }
        }
    }

    #[test]
    fn a_column_has_one_name_and_one_role() {
        let twice = read("op,acc,ms, acc \na,1,2,3\n").unwrap_err();
        assert!(twice.contains("columns 2 and 4 are both called `acc`"), "{twice}");
        let spaced = read("op, acc , ms\na, 1 , 2\n").unwrap();
        assert_eq!(spaced.column("acc").unwrap().values, [1.0]);
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let own = |test: &[&str], genotype: &[&str]| OwnTable {
            score: names(&["acc"]),
            costs: names(&["ms"]),
            test: names(test),
            genotype: names(genotype),
        };
        for (own, want) in [
            (own(&["acc"], &[]), "column `acc` is both a score and a test; needed: one role"),
            (own(&["ms"], &[]), "column `ms` is both a test and a cost; needed: one role"),
            (own(&[], &["op", "ms"]), "column `ms` is both a cost and of the genotype"),
            (own(&[], &["op", "op"]), "column `op` is named twice as of the genotype"),
        ] {
            let error = one_role_each(&own).unwrap_err();
            assert!(error.starts_with(want), "{error}");
        }
        assert_eq!(one_role_each(&own(&["t"], &["op"])), Ok(()));
    }

    #[test]
    fn absurd_scores_are_refused() {
        for value in ["inf", "NaN", "2e150", "-1e300"] {
            let error = read(&format!("op,acc,ms\na,{value},1\n")).unwrap_err();
            assert!(error.contains(&format!("row 2, column `acc`: `{value}`")), "{error}");
        }
        assert!(read("op,acc,ms\na,1e150,1\n").is_ok());
    }

    #[test]
    fn a_forgotten_measurement_is_noticed() {
        let rows = |value: &dyn Fn(usize) -> usize| -> String {
            let row = |i: usize| format!("{},{},{i},1,0.{}\n", i % 2, i % 5, value(i));
            (0..10).map(row).collect()
        };
        let header = "op,width,acc,ms,held_out\n";
        let forgotten = read(&format!("{header}{}", rows(&|i| 700 + i))).unwrap();
        assert_eq!(measurement_like(&forgotten), ["held_out"]);
        let gene = read(&format!("{header}{}", rows(&|i| 700 + i % 3))).unwrap();
        assert!(measurement_like(&gene).is_empty());
    }
}
