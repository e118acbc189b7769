//! The rows of a guest's devices side by side, for people and for programs.

use std::fmt::Write;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::super::{Row, Told};

/// The rows over either dom0's backends, on both hypervisors.
pub struct Compared {
    kernel: String,
    xen: String,
    /// Each pair is of Oxen and of Xen.
    sides: [(&'static str, Vec<[Row; 2]>); 2],
}

impl Compared {
    /// Pairs what was told with our dom0, and with Linux's; each on Oxen and on Xen.
    ///
    /// # Errors
    /// The runs are not of the same kernel, or have not the same rows.
    pub(super) fn new(ours: [Told; 2], linux: [Told; 2]) -> Result<Self> {
        let (kernel, xen) = (ours[0].kernel.clone(), ours[1].hypervisor.clone());
        ensure!(
            ours.iter().chain(&linux).all(|told| told.kernel == kernel),
            "not the same kernel everywhere"
        );
        let names = |told: &Told| told.rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        ensure!(
            ours.iter().chain(&linux).all(|told| names(told) == names(&ours[0])),
            "not the same rows everywhere"
        );
        let pairs =
            |[oxen, xen]: [Told; 2]| oxen.rows.into_iter().zip(xen.rows).map(|(o, x)| [o, x]).collect();
        Ok(Self {
            kernel,
            xen,
            sides: [("our dom0's backends", pairs(ours)), ("Linux's backends", pairs(linux))],
        })
    }

    /// The table.
    pub fn text(&self) -> String {
        let rows = self.sides.iter().flat_map(|(_, rows)| rows);
        let width = rows.map(|[row, _]| row.name.len()).max().unwrap_or(0).max(self.sides[0].0.len() + 1);
        let mut text = format!(
            "Linux {} as a guest, on Oxen and on Xen {}; per operation\n\
             {:<width$}  {:^26}  {:^13}  {:^26}  {:^13}\n{:<width$}",
            self.kernel, self.xen, "", "all instructions", "MB/s", "in the hypervisor", "CR3 loads", ""
        );
        let _ = writeln!(
            text,
            "  {:>9} {:>9} {:>6}  {:>6} {:>6}  {:>9} {:>9} {:>6}  {:>6} {:>6}",
            "Oxen", "Xen", "ratio", "Oxen", "Xen", "Oxen", "Xen", "ratio", "Oxen", "Xen"
        );
        for (whose, rows) in &self.sides {
            let _ = writeln!(text, "{whose}:");
            for row in rows {
                let [oxen, xen] = row;
                let rate = |row| rate(row).map_or("-".into(), |rate| format!("{rate:.0}"));
                let _ = writeln!(
                    text,
                    "{:<width$}  {:>9.0} {:>9.0} {:>6}  {:>6} {:>6}  {:>9.0} {:>9.0} {:>6}  {:>6.2} {:>6.2}",
                    oxen.name,
                    oxen.inside.all,
                    xen.inside.all,
                    shown(ratio(row, |row| row.inside.all)),
                    rate(oxen),
                    rate(xen),
                    oxen.inside.hypervisor,
                    xen.inside.hypervisor,
                    shown(ratio(row, |row| row.inside.hypervisor)),
                    oxen.inside.cr3,
                    xen.inside.cr3
                );
            }
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let row = |row: &[Row; 2]| {
            let side = |who: &Row| {
                json!({
                    "instructions": who.inside.all, "hypervisor_instructions": who.inside.hypervisor,
                    "mb_per_s": rate(who), "cr3_loads": who.inside.cr3,
                })
            };
            json!({
                "name": row[0].name, "oxen": side(&row[0]), "xen": side(&row[1]),
                "ratio": ratio(row, |row| row.inside.all),
                "hypervisor_ratio": ratio(row, |row| row.inside.hypervisor),
            })
        };
        let side = |(whose, rows): &(&str, Vec<[Row; 2]>)| json!({ "over": whose, "rows": rows.iter().map(row).collect::<Vec<_>>() });
        json!({ "linux": self.kernel, "xen_version": self.xen, "sides": self.sides.iter().map(side).collect::<Vec<_>>() })
    }
}

/// Megabytes in a second of a row that moves data, 4 KiB in an operation: an instruction is a nanosecond.
fn rate(row: &Row) -> Option<f64> {
    (row.name.starts_with("bw.") && row.inside.all > 0.0).then(|| 4096.0 * 1e3 / row.inside.all)
}

/// Oxen's figure divided by Xen's.
fn ratio([oxen, xen]: &[Row; 2], of: impl Fn(&Row) -> f64) -> Option<f64> {
    (of(xen) > 0.0).then(|| of(oxen) / of(xen))
}

fn shown(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
}

#[cfg(test)]
mod tests {
    use super::super::super::mix::Counts;
    use super::*;

    fn told(rows: &[(&str, f64, f64)]) -> Told {
        let row = |&(name, all, hypervisor): &(&str, f64, f64)| Row {
            name: name.into(),
            ns: 0.0,
            inside: Counts { all, hypervisor, cr3: 4.0, invlpg: 0.0 },
        };
        Told { kernel: "6.1".into(), hypervisor: "4.17.7".into(), rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn oxen_stands_against_xen_over_each_dom0() {
        let (a, b) = (told(&[("blk.read4k", 50.0, 10.0), ("bw.in", 4096.0, 0.0)]), &told);
        let ours = [a, b(&[("blk.read4k", 100.0, 40.0), ("bw.in", 8192.0, 0.0)])];
        let linux = [(); 2].map(|()| b(&[("blk.read4k", 8.0, 2.0), ("bw.in", 2048.0, 2.0)]));
        let compared = Compared::new(ours, linux).unwrap();
        let json = compared.json();
        let ours = &json["sides"][0]["rows"];
        assert_eq!((&ours[0]["ratio"], &ours[0]["hypervisor_ratio"]), (&json!(0.5), &json!(0.25)));
        assert_eq!(
            (&ours[0]["oxen"]["mb_per_s"], &ours[1]["xen"]["mb_per_s"]),
            (&Value::Null, &json!(500.0))
        );
        assert_eq!((&ours[1]["ratio"], &ours[1]["hypervisor_ratio"]), (&json!(0.5), &Value::Null));
        assert_eq!(json["sides"][1]["rows"][1]["oxen"]["mb_per_s"], json!(2000.0));
        let text = compared.text();
        let words = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            words(4),
            ["blk.read4k", "50", "100", "0.50", "-", "-", "10", "40", "0.25", "4.00", "4.00"]
        );
        assert_eq!(words(5), ["bw.in", "4096", "8192", "0.50", "1000", "500", "0", "0", "-", "4.00", "4.00"]);
        assert_eq!(words(6), ["Linux's", "backends:"]);
    }

    #[test]
    fn runs_that_differ_are_not_compared() {
        let same = || [told(&[("a", 1.0, 1.0)]), told(&[("a", 1.0, 1.0)])];
        assert!(Compared::new(same(), same()).is_ok());
        assert!(Compared::new(same(), [told(&[("a", 1.0, 1.0)]), told(&[("b", 1.0, 1.0)])]).is_err());
        assert!(Compared::new(same(), [told(&[]), told(&[])]).is_err());
        let mut other = same();
        other[1].kernel = "6.2".into();
        assert!(Compared::new(other, same()).is_err());
    }
}
