//! The same questions to Oxen and to Debian's Xen: the answers have to be the same.
//!
//! `tests/guests/conformance/differences.txt` names the answers known to differ. One that differs
//! and is not named there is a failure; a name is taken out when Oxen answers like Xen.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::machine::{Machine, Options};
use crate::test::lab::Lab;
use crate::test::{kit, peer};
use crate::{build, cmd, paths};

const GUEST: &str = "conformance";

/// Boots the guest that asks on both hypervisors.
pub fn answers_are_xens(lab: &mut Lab) -> Result<()> {
    let on_oxen = kit::with_dom0(kit::built()?, GUEST)?;
    let ours = answers(lab.boot(&Options::direct(&on_oxen))?)?;
    let on_xen = build::Built { hypervisor: peer::xen()?, ..on_oxen };
    let xens = answers(lab.boot(&Options::direct(&on_xen))?)?;

    let file = paths::root().join("tests/guests").join(GUEST).join("differences.txt");
    let text = String::from_utf8(cmd::read(&file)?)?;
    let known: BTreeSet<&str> = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
    let mut new = Vec::new();
    let mut gone = known.clone();
    for (question, xen) in &xens {
        let our = ours.iter().find(|(q, _)| q == question).map_or("none", |(_, a)| a);
        if our != xen && !gone.remove(question.as_str()) {
            new.push(format!("{question}: Xen says {xen}, Oxen {our}"));
        }
    }
    for question in gone {
        eprintln!("  {question}: now as Xen's, to be taken out of {}", file.display());
    }
    if !new.is_empty() {
        bail!("{} of {} answers are not Xen's:\n{}", new.len(), xens.len(), new.join("\n"));
    }
    Ok(())
}

/// The guest's answers by question. A line that begins with spaces says more about the one before.
fn answers(mut machine: Machine) -> Result<Vec<(String, String)>> {
    machine.wait_for("answers end")?;
    let mut answers = Vec::new();
    let mut about = String::new();
    for line in machine.said().lines().filter_map(|line| line.strip_prefix("answer ")) {
        let Some((question, answer)) = line.rsplit_once(": ") else { bail!("not an answer: {line}") };
        let question = match question.strip_prefix("  ") {
            Some(more) => format!("{about} / {more}"),
            None => {
                about = question.to_string();
                question.to_string()
            }
        };
        answers.push((question, answer.to_string()));
    }
    Ok(answers)
}
