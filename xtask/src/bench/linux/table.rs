//! Linux's rows side by side, for people and for programs.

use std::fmt::Write;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Row, Told};

/// All rows, natively and on both hypervisors.
pub struct Compared {
    kernel: String,
    xen: String,
    rows: Vec<[Row; 3]>,
}

impl Compared {
    /// Pairs what the three runs told.
    ///
    /// # Errors
    /// They are not of the same kernel, or have not the same rows.
    pub(super) fn new(native: &Told, oxen: &Told, xen: &Told) -> Result<Self> {
        ensure!(
            native.kernel == oxen.kernel && native.kernel == xen.kernel,
            "not the same kernel everywhere"
        );
        ensure!(
            native.rows.len() == oxen.rows.len() && native.rows.len() == xen.rows.len(),
            "a row is missing"
        );
        let rows = native.rows.iter().zip(&oxen.rows).zip(&xen.rows).map(|((native, oxen), xen)| {
            ensure!(
                native.name == oxen.name && native.name == xen.name,
                "no row {:?} everywhere",
                native.name
            );
            Ok([native.clone(), oxen.clone(), xen.clone()])
        });
        let rows = rows.collect::<Result<_>>()?;
        Ok(Self { kernel: native.kernel.clone(), xen: xen.hypervisor.clone(), rows })
    }

    /// The geometric mean of Oxen's instructions against Xen's, over the rows in which both have any.
    fn mean(&self) -> Option<f64> {
        let logs: Vec<f64> = self.rows.iter().filter_map(ratio).filter(|r| *r > 0.0).map(f64::ln).collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    /// The table.
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|[row, ..]| row.name.len()).max().unwrap_or(0);
        let mut text = format!(
            "Linux {} natively, on Oxen and on Xen {}; per operation\n\
             {:<width$}  {:^29}  {:^32}  {:^15}  {:^15}\n\
             {:<width$}  {:>13} {:>7} {:>7}  {:>12} {:>12} {:>6}  {:>7} {:>7}  {:>7} {:>7}\n",
            self.kernel,
            self.xen,
            "",
            "time",
            "instructions in the hypervisor",
            "CR3 loads",
            "invlpg",
            "",
            "native, ns",
            "Oxen",
            "Xen",
            "Oxen",
            "Xen",
            "ratio",
            "Oxen",
            "Xen",
            "Oxen",
            "Xen"
        );
        for row in &self.rows {
            let [native, oxen, xen] = row;
            let times = |who: &Row| times(who, native).map_or("-".into(), |times| format!("{times:.2}"));
            let ratio = ratio(row).map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let [o, x] = [oxen.inside, xen.inside];
            let _ = writeln!(
                text,
                "{:<width$}  {:>13.1} {:>7} {:>7}  {:>12.1} {:>12.1} {ratio:>6}  {:>7.1} {:>7.1}  {:>7.1} {:>7.1}",
                native.name,
                native.ns,
                times(oxen),
                times(xen),
                o.hypervisor,
                x.hypervisor,
                o.cr3,
                x.cr3,
                o.invlpg,
                x.invlpg
            );
        }
        if let Some(mean) = self.mean() {
            let _ = writeln!(text, "geometric mean of the ratios of instructions: {mean:.2}");
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let row = |row: &[Row; 3]| {
            let [native, oxen, xen] = row;
            let side = |who: &Row| {
                json!({
                    "ns": who.ns, "times_native": times(who, native), "hypervisor_instructions": who.inside.hypervisor,
                    "cr3_loads": who.inside.cr3, "invlpg": who.inside.invlpg,
                })
            };
            json!({
                "name": native.name, "native": { "ns": native.ns }, "oxen": side(oxen), "xen": side(xen),
                "ratio": ratio(row),
            })
        };
        json!({
            "linux": self.kernel, "xen_version": self.xen, "mean_ratio": self.mean(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Oxen's instructions divided by Xen's.
fn ratio([_, oxen, xen]: &[Row; 3]) -> Option<f64> {
    (xen.inside.hypervisor > 0.0).then(|| oxen.inside.hypervisor / xen.inside.hypervisor)
}

/// How many times as long as natively.
fn times(row: &Row, native: &Row) -> Option<f64> {
    (native.ns > 0.0).then(|| row.ns / native.ns)
}

#[cfg(test)]
mod tests {
    use super::super::mix::Counts;
    use super::*;

    fn told(rows: &[(&str, f64, f64)]) -> Told {
        let row = |&(name, ns, hypervisor): &(&str, f64, f64)| {
            let inside = Counts { all: ns, hypervisor, cr3: 2.0, invlpg: 0.0 };
            Row { name: name.into(), ns, inside }
        };
        Told { kernel: "6.1".into(), hypervisor: "4.17.7".into(), rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn each_side_stands_against_the_native_one() {
        let native = told(&[("a", 100.0, 0.0), ("b", 10.0, 0.0)]);
        let oxen = told(&[("a", 150.0, 50.0), ("b", 20.0, 8.0)]);
        let xen = told(&[("a", 200.0, 100.0), ("b", 30.0, 64.0)]);
        let compared = Compared::new(&native, &oxen, &xen).unwrap();
        let json = compared.json();
        assert_eq!(json["rows"][0]["oxen"]["times_native"], 1.5);
        assert_eq!(json["rows"][1]["xen"]["hypervisor_instructions"], 64.0);
        assert_eq!(json["rows"][1]["ratio"], 0.125);
        assert!((compared.mean().unwrap() - 0.25).abs() < 1e-9);
        let line =
            compared.text().lines().nth(3).unwrap().split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(line, ["a", "100.0", "1.50", "2.00", "50.0", "100.0", "0.50", "2.0", "2.0", "0.0", "0.0"]);
    }

    #[test]
    fn runs_that_differ_in_rows_are_not_compared() {
        let (a, b) = (told(&[("a", 1.0, 1.0)]), told(&[("b", 1.0, 1.0)]));
        assert!(Compared::new(&a, &a, &b).is_err());
        assert!(Compared::new(&a, &a, &told(&[])).is_err());
        let mut other = told(&[("a", 1.0, 1.0)]);
        other.kernel = "6.2".into();
        assert!(Compared::new(&a, &other, &a).is_err());
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let nothing = told(&[("a", 0.0, 0.0)]);
        let compared = Compared::new(&nothing, &nothing, &nothing).unwrap();
        assert_eq!((compared.mean(), compared.json()["rows"][0]["ratio"].clone()), (None, Value::Null));
    }
}
