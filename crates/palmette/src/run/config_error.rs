//! What serde says about a configuration, in the words of those who write one.

use super::Config;

/// What serde calls the types of numbers and tables, and what they are in a file.
const TYPES: [(&str, &str); 8] = [
    ("u64", "a whole number, 0 or more"),
    ("u32", "a whole number, 0 or more"),
    ("usize", "a whole number, 0 or more"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a boolean", "true or false"),
    ("a sequence", "a list, as in [1, 2]"),
    ("a string", "text"),
];

/// The error with its key first; for an unknown key also what may have been meant, one beside it or
/// one of the same name in another section.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let message = error.to_string();
    let (message, key) = match message.trim().rsplit_once("\nin `") {
        Some((message, key)) => (message, key.trim_end_matches('`')),
        None => (message.trim(), ""),
    };
    let said = match message.rsplit_once("expected ") {
        Some((before, expected)) => format!("{before}expected {}", in_words(expected)),
        None => message.to_owned(),
    };
    let near = match suggestion(message, key) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    };
    match key {
        "" => format!("configuration: {said}{near}"),
        key => format!("configuration: {key}: {said}{near}"),
    }
}

fn in_words(expected: &str) -> &str {
    if expected.starts_with("struct ") {
        return "a section with keys of its own";
    }
    TYPES.iter().find(|(name, _)| *name == expected).map_or(expected, |(_, words)| words)
}

/// The nearest of the expected keys that serde lists behind an unknown one, or its namesakes in
/// other sections.
fn suggestion(message: &str, section: &str) -> Option<String> {
    if !message.contains("unknown field") {
        return None;
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (unknown, expected) = quoted.split_first()?;
    let within = |name: &&str| match section {
        "" => (*name).to_owned(),
        section => format!("{section}.{name}"),
    };
    let mut elsewhere = Vec::new();
    let known = toml::Table::try_from(Config::default()).ok()?;
    namesakes(&known, "", unknown, &mut elsewhere);
    expected
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .filter(|&(score, _)| score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| within(name))
        // A key without its section is that key: no other one's spelling is nearer.
        .filter(|_| elsewhere.is_empty())
        .or_else(|| (!elsewhere.is_empty()).then(|| elsewhere.join("` or `")))
}

/// Keys of this name.
fn namesakes(table: &toml::Table, section: &str, name: &str, found: &mut Vec<String>) {
    let key = |own: &str| if section.is_empty() { own.into() } else { format!("{section}.{own}") };
    found.extend(table.contains_key(name).then(|| key(name)));
    for (own, value) in table {
        if let toml::Value::Table(inner) = value {
            namesakes(inner, &key(own), name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::run::Config;

    fn said(set: &str) -> String {
        Config::load(None, &[set.into()]).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_key_and_what_would_be_right() {
        for (set, expected) in [
            (
                "search.supernet.steps=abc",
                "search.supernet.steps: invalid type: string \"abc\", expected a whole number, 0 or more",
            ),
            (
                "run.seed=1.5",
                "run.seed: invalid type: floating point `1.5`, expected a whole number, 0 or more",
            ),
            (
                "train.learning_rates=3",
                "train.learning_rates: invalid type: integer `3`, expected a list, as in [1, 2]",
            ),
            (
                "search=4",
                "search: invalid type: integer `4`, expected a section with keys of its own",
            ),
        ] {
            assert_eq!(said(set), format!("configuration: {expected}"));
        }
    }

    #[test]
    fn unknown_keys_have_their_nearest_beside_them() {
        for (set, expected) in [
            ("search.tabel_cap=3", Some("search.table_cap")),
            ("serach.table_cap=3", Some("search")),
            // Keys without their section.
            ("evaluations=3", Some("search.evaluations")),
            (
                "batch_size=3",
                Some(
                    "search.ranking.batch_size` or `search.supernet.batch_size` or `train.network.batch_size",
                ),
            ),
            ("foo=1", None),
        ] {
            let said = said(set);
            let near = said.split_once("; did you mean `").map(|(_, near)| near);
            assert_eq!(near, expected.map(|key| format!("{key}`?")).as_deref(), "{said}");
        }
    }
}
