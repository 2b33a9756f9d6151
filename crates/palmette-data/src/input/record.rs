//! Records and fields of delimited text.

use memchr::{memchr, memrchr};

use crate::error::RowProblem;

/// How fields are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delimiter {
    /// The byte between two fields.
    pub byte: u8,
    /// Whether a field may stand in double quotes, with `""` for a quote inside (RFC 4180).
    pub quotes: bool,
}

impl Delimiter {
    /// Comma-separated, with quotes.
    pub const CSV: Delimiter = Delimiter { byte: b',', quotes: true };
    /// Tab-separated, without.
    pub const TSV: Delimiter = Delimiter { byte: b'\t', quotes: false };
}

/// The byte behind the last whole record of `bytes`, or `None` if none ends in it.
pub(crate) fn last_record_end(bytes: &[u8], delimiter: Delimiter) -> Option<usize> {
    if !delimiter.quotes || memchr(b'"', bytes).is_none() {
        return memrchr(b'\n', bytes).map(|at| at + 1);
    }
    let mut last = None;
    let mut at = 0;
    while let Some(end) = record_end(&bytes[at..], delimiter) {
        at += end;
        last = Some(at);
    }
    last
}

/// The byte behind the first record of `bytes`, its line feed included, or `None` if it does not
/// end.
#[inline]
pub(crate) fn record_end(bytes: &[u8], delimiter: Delimiter) -> Option<usize> {
    let line = memchr(b'\n', bytes)?;
    if !delimiter.quotes || memchr(b'"', &bytes[..line]).is_none() {
        return Some(line + 1);
    }
    quoted_record_end(bytes, delimiter.byte)
}

/// Walks the states of RFC 4180: a quote opens a field only at its start.
fn quoted_record_end(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let mut at = 0;
    let mut field_start = true;
    while at < bytes.len() {
        match bytes[at] {
            b'"' if field_start => at = closing_quote(bytes, at + 1)?,
            b'\n' => return Some(at + 1),
            _ => {}
        }
        field_start = bytes[at] == delimiter;
        at += 1;
    }
    None
}

/// The position of the quote that closes a quoted field, from the byte after its opening quote.
fn closing_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr(b'"', &bytes[at..])?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// Cuts the line end off a record.
#[inline]
pub(crate) fn without_line_end(record: &[u8]) -> &[u8] {
    match record {
        [record @ .., b'\r', b'\n'] | [record @ .., b'\n'] => record,
        _ => record,
    }
}

/// Calls `field` for each field of a record without its line end; `scratch` holds unquoted text.
#[inline]
pub(crate) fn split_fields(
    record: &[u8],
    delimiter: Delimiter,
    scratch: &mut Vec<u8>,
    mut field: impl FnMut(&[u8]),
) -> Result<(), RowProblem> {
    if !delimiter.quotes || memchr(b'"', record).is_none() {
        let mut rest = record;
        while let Some(at) = memchr(delimiter.byte, rest) {
            field(&rest[..at]);
            rest = &rest[at + 1..];
        }
        field(rest);
        return Ok(());
    }
    let mut at = 0;
    loop {
        let end;
        if record.get(at) == Some(&b'"') {
            let close = closing_quote(record, at + 1).ok_or(RowProblem::UnclosedQuote)?;
            end = memchr(delimiter.byte, &record[close..]).map(|i| close + i);
            scratch.clear();
            let inner = &record[at + 1..close];
            let mut rest = inner;
            while let Some(quote) = memchr(b'"', rest) {
                scratch.extend_from_slice(&rest[..=quote]);
                rest = &rest[quote + 2..];
            }
            scratch.extend_from_slice(rest);
            // text between the closing quote and the delimiter is kept, as other readers do
            scratch.extend_from_slice(&record[close + 1..end.unwrap_or(record.len())]);
            field(scratch);
        } else {
            end = memchr(delimiter.byte, &record[at..]).map(|i| at + i);
            field(&record[at..end.unwrap_or(record.len())]);
        }
        match end {
            Some(end) => at = end + 1,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let end = record_end(&text[at..], Delimiter::CSV).map_or(text.len(), |end| at + end);
            let mut fields = Vec::new();
            let record = without_line_end(&text[at..end]);
            let _ =
                split_fields(record, Delimiter::CSV, &mut Vec::new(), |f| fields.push(f.to_vec()));
            records.push(fields);
            at = end;
        }
        records
    }

    #[test]
    fn quoted_fields() {
        let check = |text: &str, expect: &[&[&str]]| {
            let expect: Vec<Vec<Vec<u8>>> =
                expect.iter().map(|r| r.iter().map(|f| f.as_bytes().to_vec()).collect()).collect();
            assert_eq!(records(text.as_bytes()), expect, "{text}");
        };
        check("a,b\n1,2\n", &[&["a", "b"], &["1", "2"]]);
        check("a,\"x,y\"\r\n\"l1\nl2\",3", &[&["a", "x,y"], &["l1\nl2", "3"]]);
        check("\"he said \"\"no\"\"\",\n", &[&["he said \"no\"", ""]]);
        check("5\" disk,b\nc,d\n", &[&["5\" disk", "b"], &["c", "d"]]);
        check("\"\",\"\"\n", &[&["", ""]]);
        check("\n", &[&[""]]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_csv_crate(rows in prop::collection::vec(
            prop::collection::vec("[a\",\n\r ]{0,6}", 3), 1..6)) {
            let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let expect: Vec<Vec<Vec<u8>>> =
                rows.iter().map(|r| r.iter().map(|f| f.as_bytes().to_vec()).collect()).collect();
            prop_assert_eq!(records(&text), expect);
        }

        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = records(&text);
            let _ = last_record_end(&text, Delimiter::CSV);
        }

        #[test]
        fn last_end_is_the_end_of_a_record(text in "[a\",\n]{0,40}") {
            let mut ends = Vec::new();
            let mut at = 0;
            while let Some(end) = record_end(&text.as_bytes()[at..], Delimiter::CSV) {
                at += end;
                ends.push(at);
            }
            prop_assert_eq!(last_record_end(text.as_bytes(), Delimiter::CSV), ends.last().copied());
        }
    }
}
