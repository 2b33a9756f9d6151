//! A user's own table.

use std::path::Path;

use palmette_space::{Genotype, Space};

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

/// Reads a CSV file with a header. Each genotype column becomes a choice among its values (ordered
/// where all are numbers); the table is a pool unless it holds every combination.
pub fn read_csv(path: &Path, own: &OwnTable) -> Result<Table, TableError> {
    let file = path.display().to_string();
    let problem = |problem: String| TableError::File { file: file.clone(), problem };
    let mut reader = csv::Reader::from_path(path).map_err(|e| problem(e.to_string()))?;
    let header: Vec<String> =
        reader.headers().map_err(|e| problem(e.to_string()))?.iter().map(str::to_owned).collect();
    let find = |name: &String| {
        header.iter().position(|known| known == name).ok_or_else(|| TableError::MissingColumn {
            file: file.clone(),
            column: name.clone(),
            known: header.join(", "),
        })
    };
    let mut rows: Vec<csv::StringRecord> = Vec::new();
    for record in reader.records() {
        // The csv crate's message names the line.
        rows.push(record.map_err(|e| problem(e.to_string()))?);
    }
    if rows.is_empty() {
        return Err(problem("it has no rows; needed: a header and at least one row".into()));
    }
    if own.score.is_empty() {
        return Err(problem(
            "no score is named; needed: at least one column, --score COLUMN".into(),
        ));
    }
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
        for (row, record) in rows.iter().enumerate() {
            let text = &record[position];
            let value = text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
            values.push(value.ok_or_else(|| TableError::BadValue {
                file: file.clone(),
                row: row + 2,
                column: name.clone(),
                got: format!("`{text}`"),
                needed: "a finite number".into(),
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
    let (space, genotypes) = choices(&file, &header, &genotype, &rows)?;
    Ok(Table::new(&file, space, genotypes, columns))
}

fn choices(
    file: &str,
    header: &[String],
    positions: &[usize],
    rows: &[csv::StringRecord],
) -> Result<(Space, Vec<Genotype>), TableError> {
    let mut builder = Space::builder("own");
    let mut genes: Vec<Vec<u32>> = vec![Vec::with_capacity(positions.len()); rows.len()];
    for &position in positions {
        let mut values: Vec<&str> = rows.iter().map(|row| row[position].trim()).collect();
        if let Some(row) = values.iter().position(|value| value.is_empty()) {
            return Err(TableError::BadValue {
                file: file.to_owned(),
                row: row + 2,
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
                "own.csv: row 3, column `acc`: `high`; needed: a finite number",
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
        assert!(ragged.contains("line: 3"), "{ragged}");
    }
}
