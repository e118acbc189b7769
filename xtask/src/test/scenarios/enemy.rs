//! A guest that attacks what it runs on (`tests/guests/enemy`), beside one that serves.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::services::{curl, fetch, serving_hello};
use super::shell::{PROMPT, free_memory};
use crate::build::Built;
use crate::machine::{Machine, Options, PATIENCE};
use crate::test::kit;
use crate::test::lab::Lab;

/// One of the enemy's ways.
pub struct Attack {
    /// The name of its configuration.
    pub config: &'static str,
    /// Its mode, with more words of its command line.
    pub mode: &'static str,
    /// What has to be read on the console by the end, said by the enemy or by dom0 about it.
    pub told: &'static [&'static str],
    /// It goes on until it is destroyed.
    pub stays: bool,
}

/// All ports, grant frames and memory, twice.
pub const EXHAUST: Attack = Attack {
    config: "enemy",
    mode: "exhaust",
    told: &["round 0: 1020 ports, 64 grant frames, ", "round 1: 1020 ports, 64 grant frames, ", "enemy done"],
    stays: false,
};
/// Its own page tables.
pub const TABLES: Attack = Attack {
    config: "enemy",
    mode: "tables seed=1 count=100000",
    told: &["enemy tables 100000: ", "enemy done"],
    stays: false,
};
/// Event words and control block written over at random.
pub const FIFO: Attack = Attack {
    config: "enemy",
    mode: "fifo seed=1 count=200000",
    told: &["enemy fifo 200000: ", "enemy done"],
    stays: false,
};
/// Its own grant table, of both versions.
pub const GRANTS: Attack = Attack {
    config: "enemy",
    mode: "grants seed=1 count=100000",
    told: &["enemy grants 100000: ", "enemy done"],
    stays: false,
};
/// Every hypercall with random arguments.
pub const WILD: Attack = Attack {
    config: "enemy",
    mode: "wild seed=1 count=200000",
    told: &["enemy wild 200000: ", "enemy done"],
    stays: false,
};
/// An exception that it can't take.
pub const TRIPLE: Attack =
    Attack { config: "enemy", mode: "triple", told: &["\"enemy\" has crashed"], stays: false };
/// A processor that it never gives up.
pub const SPIN: Attack = Attack { config: "enemy", mode: "spin", told: &[], stays: true };
/// Xenstore's quotas: each refusal names the quota, to the administrator.
pub const QUOTA: Attack = Attack {
    config: "enemy",
    mode: "quota",
    told: &[
        "reached its quota \"node-size\" (2048): ENOSPC",
        "reached its quota \"path-max\" (2048): EINVAL",
        "reached its quota \"node-permissions\" (5): ENOSPC",
        "reached its quota \"watches\" (128): E2BIG",
        "reached its quota \"transaction-nodes\" (1024): ENOSPC",
        "reached its quota \"transactions\" (10): ENOSPC",
        "reached its quota \"nodes\" (1000): ENOSPC",
        "enemy done",
    ],
    stays: true,
};

/// Its disks' rings: bad requests are answered by an error, and a ring that is broken ends its device alone.
pub const BLK: Attack = Attack {
    config: "enemy-devices",
    mode: "blk",
    told: &[
        "a request that changes while it is read: true",
        "an impossible number of requests: closed",
        "a ring with an impossible index from the start: closed",
        "the frontend has broken the ring",
        "enemy done",
    ],
    stays: false,
};
/// Its network cards' rings.
pub const NET: Attack = Attack {
    config: "enemy-devices",
    mode: "net",
    told: &[
        "a frame that changes while it is read: true",
        "a frame without its end: closed",
        "a hundred extras: closed",
        "a card that wants pages flipped: closed",
        "the frontend has broken a ring",
        "enemy done",
    ],
    stays: false,
};
/// The rings to xenstore and to the console.
pub const BYTES: Attack = Attack {
    config: "enemy",
    mode: "bytes",
    told: &[
        "ignored from now on: corrupt ring indices",
        "enemy bytes: xenstore says that an index is wrong",
        "corrupted its console ring and is ignored from now on",
        "\"enemy\" has powered off",
    ],
    stays: false,
};

/// While the enemy attacks and afterwards `hello` answers, and the enemy's memory comes back: when it has
/// ended by itself, or is destroyed if it never does. Beside one that stays another guest comes and goes.
pub fn attack(lab: &mut Lab, attack: &Attack) -> Result<()> {
    attack_on(lab, kit::with_test_files()?, attack)
}

/// The wild attack and that on the tables on a hypervisor that checks the ranks of its locks and its
/// arithmetic, and panics; a domain's life is between them.
pub fn attack_checked(lab: &mut Lab) -> Result<()> {
    let built = kit::with_checked_hypervisor(kit::with_test_files()?)?;
    attack_on(lab, &built, &WILD)?;
    attack_on(lab, &built, &FIFO)?;
    attack_on(lab, &built, &GRANTS)?;
    attack_on(lab, &built, &TABLES)
}

fn attack_on(lab: &mut Lab, built: &Built, attack: &Attack) -> Result<()> {
    let mut machine = serving_hello(lab, &Options { smp: 2, ..Options::direct(built) })?;
    let before = free_memory(&mut machine)?;

    let Attack { config, mode, .. } = attack;
    machine.type_line(&format!("xl create -c /etc/xen/test/{config}.cfg 'extra=\"mode={mode}\"'"))?;
    machine.wait_for(" seed ")?; // the enemy's first line
    curl(&machine, "hello", "/")?;
    if attack.stays {
        if let Some(last) = attack.told.last() {
            machine.wait_for(last)?;
        }
        machine.type_line(DETACH)?;
        machine.wait_for_prompt(PROMPT)?;
        machine.type_line("xl create /etc/xen/test/alone.cfg")?;
        machine.wait_for("Parsing config")?;
        machine.wait_for_prompt(PROMPT)?;
        curl(&machine, "hello", "/")?;
        ensure!(lives(&mut machine, "alone")?, "no other guest can be created");
        ensure!(lives(&mut machine, "enemy")?, "the enemy has ended");
        for name in ["alone", "enemy"] {
            machine.type_line(&format!("xl destroy {name}"))?;
            machine.wait_for_prompt(PROMPT)?;
        }
    } else {
        machine.wait_for_prompt(PROMPT)?;
    }
    let until = Instant::now() + PATIENCE;
    while lives(&mut machine, "enemy")? {
        ensure!(Instant::now() < until, "the enemy does not end");
    }
    let said = machine.said();
    for line in attack.told {
        ensure!(said.contains(line), "nobody has said {line:?}");
    }
    ensure!(!said.contains("enemy wins"), "the enemy wins");
    fetch(&machine, "hello", "/")?;
    let after = free_memory(&mut machine)?;
    ensure!(after == before, "free memory was {before} MiB before the enemy, and is {after} MiB after");
    Ok(())
}

/// The enemy as the control domain creates domains until memory is out; whatever it says, the hypervisor lives.
pub fn creates_domains(lab: &mut Lab) -> Result<()> {
    let built = kit::with_dom0(kit::built()?, "enemy")?;
    let mut options = Options::direct(&built);
    (options.smp, options.memory) = (2, "96M");
    options.content.hypervisor_args = "console=com1 com1=115200 dom0_mem=32M".into();
    options.content.dom0_args = "mode=domains".into();
    let mut machine = lab.boot(&options)?;
    machine.wait_for("enemy done")?;
    ensure!(!machine.said().contains("enemy wins"), "what was taken is not there again");
    Ok(())
}

/// The key that leaves a guest's console.
const DETACH: &str = "\u{1d}";

/// `xl list` shows a domain of this name. (`hello` is always there.)
fn lives(machine: &mut Machine, name: &str) -> Result<bool> {
    let before = machine.said().len();
    machine.type_line("xl list")?;
    machine.wait_for("Name ")?;
    machine.wait_for("hello ")?;
    machine.wait_for_prompt(PROMPT)?;
    Ok(machine.said()[before..].lines().any(|line| line.starts_with(&format!("{name} "))))
}
