//! Lists of column names, with `I1..I13` for a numbered range.

/// Expands `I1..I13` to the thirteen names; other names stand for themselves.
pub(super) fn expand(names: &[String]) -> Result<Vec<String>, String> {
    let mut expanded = Vec::new();
    for name in names {
        match range(name)? {
            Some(range) => expanded.extend(range),
            None => expanded.push(name.clone()),
        }
    }
    Ok(expanded)
}

fn range(name: &str) -> Result<Option<Vec<String>>, String> {
    let Some((first, last)) = name.split_once("..") else { return Ok(None) };
    let parts = |text: &str| {
        let stem = text.trim_end_matches(|c: char| c.is_ascii_digit());
        text[stem.len()..].parse::<u32>().ok().map(|number| (stem.to_string(), number))
    };
    match (parts(first), parts(last)) {
        (Some((stem, from)), Some((other, to)))
            if stem == other && from <= to && to - from < 10_000 =>
        {
            Ok(Some((from..=to).map(|number| format!("{stem}{number}")).collect()))
        }
        _ => Err(format!("`{name}` is not a range of columns; write for instance `I1..I13`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_expand() {
        let check = |names: &[&str], expect: Option<&[&str]>| {
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            let got = expand(&names).ok();
            assert_eq!(got, expect.map(|e| e.iter().map(|n| n.to_string()).collect()));
        };
        check(&["a", "I1..I3", "b"], Some(&["a", "I1", "I2", "I3", "b"]));
        check(&["C9..C11"], Some(&["C9", "C10", "C11"]));
        check(&["C3..C1"], None);
        check(&["C1..I3"], None);
        check(&["C..D"], None);
    }
}
