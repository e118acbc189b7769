//! The same questions to Oxen and to Debian's Xen: the answers have to be the same.
//!
//! `tests/guests/conformance/differences.txt` names the questions known to be answered differently, each
//! with all that belongs to it. One that differs and is not named there is a failure; a name is taken out when
//! Oxen answers like Xen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::machine::{Machine, Options};
use crate::test::kit;
use crate::test::lab::Lab;
use crate::{build, cmd, debian, paths};

const GUEST: &str = "conformance";
/// Vcpus for it, of which all but the first begin when some questions are about them.
const VCPUS: &str = " dom0_max_vcpus=32";

/// Boots the guest that asks on both hypervisors, on a processor like Intel's.
pub fn answers_are_xens(lab: &mut Lab) -> Result<()> {
    compare(lab, "Skylake-Client")
}

/// The same on one like AMD's, where other instructions exist.
pub fn answers_are_xens_on_max(lab: &mut Lab) -> Result<()> {
    compare(lab, "max")
}

/// The questions to a hypervisor that checks the ranks of its locks and its arithmetic: it answers each.
pub fn checked_build(lab: &mut Lab) -> Result<()> {
    let built = kit::with_checked_hypervisor(&kit::with_dom0(kit::built()?, GUEST)?)?;
    let mut options = Options { smp: 2, ..Options::direct(&built) };
    options.content.hypervisor_args += VCPUS;
    answers(lab.boot(&options)?).map(drop)
}

fn compare(lab: &mut Lab, cpu: &str) -> Result<()> {
    let on_oxen = kit::with_dom0(kit::built()?, GUEST)?;
    let boot = |built: &build::Built| {
        let mut options = Options { cpu, smp: 2, ..Options::direct(built) };
        options.content.hypervisor_args += VCPUS;
        lab.boot(&options)
    };
    let ours = answers(boot(&on_oxen)?)?;
    let on_xen = build::Built { hypervisor: debian::xen()?, ..on_oxen };
    let xens = answers(boot(&on_xen)?)?;

    let file = paths::root().join("tests/guests").join(GUEST).join("differences.txt");
    let text = String::from_utf8(cmd::read(&file)?)?;
    let known: BTreeSet<&str> = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
    let mut gone = known.clone();
    let mut new = Vec::new();
    let questions: BTreeSet<&String> = xens.keys().chain(ours.keys()).collect();
    for question in questions {
        let of =
            |answers: &BTreeMap<String, String>| answers.get(question).map_or("nothing", |a| a).to_string();
        let (xen, our) = (of(&xens), of(&ours));
        let asked = question.split_once(" / ").map_or(question.as_str(), |(asked, _)| asked);
        if our != xen && !known.contains(asked) {
            new.push(format!("{question}: Xen says {xen}, Oxen {our}"));
        }
        if our != xen {
            gone.remove(asked);
        }
    }
    for question in gone {
        eprintln!("  {question}: as Xen's on {cpu}, to be taken out of {}", file.display());
    }
    if !new.is_empty() {
        bail!("{} of {} answers on {cpu} are not Xen's:\n{}", new.len(), xens.len(), new.join("\n"));
    }
    Ok(())
}

/// The guest's answers by question. A line that begins with spaces says more about the one before.
///
/// # Errors
/// Two questions have the same name: they would be compared crosswise.
fn answers(mut machine: Machine) -> Result<BTreeMap<String, String>> {
    machine.wait_for("answers end")?;
    let mut answers = BTreeMap::new();
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
        if answers.insert(question.clone(), answer.to_string()).is_some() {
            bail!("two questions have the name {question:?}");
        }
    }
    Ok(answers)
}
