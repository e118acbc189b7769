//! Two hypervisors' figures side by side, for people and for programs.

use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Figure;

/// A line of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub oxen: u64,
    /// None where Xen has nothing to compare.
    pub xen: Option<u64>,
}

impl Row {
    /// Oxen's figure divided by Xen's.
    fn ratio(&self) -> Option<f64> {
        self.xen.filter(|xen| *xen > 0).map(|xen| self.oxen as f64 / xen as f64)
    }
}

/// Pairs what is called alike, in Oxen's order.
///
/// # Errors
/// A figure is there on one hypervisor only.
pub fn rows(oxen: &[Figure], xen: &[Figure]) -> Result<Vec<Row>> {
    if let Some(extra) = xen.iter().find(|theirs| !oxen.iter().any(|ours| ours.name == theirs.name)) {
        bail!("no row {:?} on Oxen", extra.name);
    }
    let pair = |ours: &Figure| {
        let theirs = xen.iter().find(|theirs| theirs.name == ours.name);
        let theirs = theirs.with_context(|| format!("no row {:?} on Xen", ours.name))?;
        Ok(Row { name: ours.name.clone(), unit: ours.unit, oxen: ours.value, xen: Some(theirs.value) })
    };
    oxen.iter().map(pair).collect()
}

/// The table; `xen` is Xen's version.
pub fn text(rows: &[Row], xen: &str) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = format!("{:<width$}  {:>12}  {:>12}  {:>5}\n", "", "Oxen", format!("Xen {xen}"), "ratio");
    let mut unit = "";
    for row in rows {
        if row.unit != unit {
            unit = row.unit;
            let _ = writeln!(text, "{unit}:");
        }
        let theirs = row.xen.map_or("-".into(), grouped);
        let ratio = row.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "{:<width$}  {:>12}  {theirs:>12}  {ratio:>5}", row.name, grouped(row.oxen));
    }
    text
}

/// The same for programs.
pub fn json(rows: &[Row], xen: &str) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name, "unit": row.unit, "oxen": row.oxen, "xen": row.xen, "ratio": row.ratio(),
        })
    };
    json!({ "xen_version": xen, "rows": rows.iter().map(row).collect::<Vec<_>>() })
}

/// A number with a comma before each three digits: `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, value: u64) -> Figure {
        Figure { name: name.into(), unit: "instructions", value }
    }

    #[test]
    fn rows_are_paired_by_name() {
        let paired = rows(&[figure("a", 1), figure("b", 2)], &[figure("b", 4), figure("a", 3)]).unwrap();
        let pairs: Vec<_> = paired.iter().map(|row| (row.name.as_str(), row.oxen, row.xen)).collect();
        assert_eq!(pairs, [("a", 1, Some(3)), ("b", 2, Some(4))]);
    }

    #[test]
    fn a_row_of_one_side_is_an_error() {
        let (a, b) = (figure("a", 1), figure("b", 2));
        assert!(rows(&[a.clone(), b.clone()], std::slice::from_ref(&a)).is_err());
        assert!(rows(std::slice::from_ref(&a), &[a.clone(), b]).is_err());
    }

    #[test]
    fn the_table_has_aligned_columns() {
        let size = Row { name: "size".into(), unit: "KiB", oxen: 7, xen: None };
        let mut rows = rows(&[figure("an operation", 1234567)], &[figure("an operation", 2469134)]).unwrap();
        rows.push(size);
        let expected = [
            "                      Oxen    Xen 4.17.7  ratio",
            "instructions:",
            "an operation     1,234,567     2,469,134   0.50",
            "KiB:",
            "size                     7             -      -",
            "",
        ];
        assert_eq!(text(&rows, "4.17.7"), expected.join("\n"));
    }

    #[test]
    fn json_has_null_where_there_is_nothing_to_compare() {
        let rows = [
            Row { name: "a".into(), unit: "instructions", oxen: 1, xen: Some(4) },
            Row { name: "b".into(), unit: "KiB", oxen: 2, xen: None },
        ];
        let expected = json!({ "xen_version": "4.17.7", "rows": [
            { "name": "a", "unit": "instructions", "oxen": 1, "xen": 4, "ratio": 0.25 },
            { "name": "b", "unit": "KiB", "oxen": 2, "xen": null, "ratio": null },
        ] });
        assert_eq!(json(&rows, "4.17.7"), expected);
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(Row { name: "a".into(), unit: "KiB", oxen: 1, xen: Some(0) }.ratio(), None);
    }
}
