//! The scenarios: whole machines in QEMU, one after the other.

mod backends;
mod boot;
mod conformance;
mod crowd;
mod damage;
mod devices;
mod enemy;
mod kv;
mod library_os;
mod linux;
mod linux_domu;
mod on_xen;
mod run;
mod services;
mod shell;
mod web;
mod xl;

use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use super::lab::Lab;

/// A scenario: its name and what it does.
type Scenario = (&'static str, fn(&mut Lab) -> Result<()>);

const ALL: &[Scenario] = &[
    ("boot::multiboot1", boot::multiboot1),
    ("boot::pvh", boot::pvh),
    ("boot::disk_by_bios", boot::disk_by_bios),
    ("boot::disk_by_uefi", boot::disk_by_uefi),
    ("boot::four_processors", boot::four_processors),
    ("boot::processor_max", boot::processor_max),
    ("conformance::answers_are_xens", conformance::answers_are_xens),
    ("conformance::answers_are_xens_on_max", conformance::answers_are_xens_on_max),
    ("conformance::checked_build", conformance::checked_build),
    ("library_os::on_oxen", library_os::on_oxen),
    ("library_os::on_xen", library_os::on_xen),
    ("linux::dom0", linux::dom0),
    ("linux::dom0_by_grub", linux::dom0_by_grub),
    ("linux::dom0_is_damaged", linux::dom0_is_damaged),
    ("linux::guest_is_unpacked_beside_a_server", linux::guest_is_unpacked_beside_a_server),
    ("linux::dom0_with_xl", xl::session_as_on_xen),
    ("linux_domu::works", linux_domu::works),
    ("linux_domu::log_is_xens", linux_domu::log_is_xens),
    ("linux_domu::sizes", linux_domu::sizes),
    ("linux_domu::by_grub", linux_domu::by_grub),
    ("on_xen::dom0_starts", on_xen::dom0_starts),
    ("run::on_a_terminal", run::on_a_terminal),
    ("run::keeps_volumes", run::keeps_volumes),
    ("run::adds_files_and_volumes", run::adds_files_and_volumes),
    ("run::linux", run::linux),
    ("services::hello_on_oxen", services::hello_on_oxen),
    ("services::hello_on_xen", services::hello_on_xen),
    ("services::address_by_dhcp", services::address_by_dhcp),
    ("services::a_hundred_hellos", crowd::a_hundred_hellos),
    ("services::cable_pulled", services::cable_pulled),
    ("services::web_serves_files", web::serves_files),
    ("services::web_on_xen", web::on_xen),
    ("services::web_frames", web::frames),
    ("services::kv_commands", kv::commands),
    ("services::kv_survives_power_cut", kv::survives_power_cut),
    ("services::kv_survives_destroy", kv::survives_destroy),
    ("enemy::exhausts", |lab| enemy::attack(lab, &enemy::EXHAUST)),
    ("enemy::forges_tables", |lab| enemy::attack(lab, &enemy::TABLES)),
    ("enemy::corrupts_event_words", |lab| enemy::attack(lab, &enemy::FIFO)),
    ("enemy::scribbles_grants", |lab| enemy::attack(lab, &enemy::GRANTS)),
    ("enemy::calls_wildly", |lab| enemy::attack(lab, &enemy::WILD)),
    ("enemy::creates_domains", enemy::creates_domains),
    ("enemy::spins", |lab| enemy::attack(lab, &enemy::SPIN)),
    ("enemy::triple_faults", |lab| enemy::attack(lab, &enemy::TRIPLE)),
    ("enemy::fills_the_store", |lab| enemy::attack(lab, &enemy::QUOTA)),
    ("enemy::corrupts_disk_rings", |lab| enemy::attack(lab, &enemy::BLK)),
    ("enemy::corrupts_network_rings", |lab| enemy::attack(lab, &enemy::NET)),
    ("enemy::corrupts_byte_rings", |lab| enemy::attack(lab, &enemy::BYTES)),
    ("enemy::attacks_checked_build", enemy::attack_checked),
    ("backends::die_under_load", backends::die_under_load),
    ("backends::disk_vanishes", backends::disk_vanishes),
    ("devices::on_oxen", devices::on_oxen),
    ("devices::on_xen", devices::on_xen),
    ("damage::volume_is_full", damage::volume_is_full),
    ("damage::tables_are_damaged", damage::tables_are_damaged),
    ("shell::guest_on_oxen", shell::guest_on_oxen),
    ("shell::guest_on_xen", shell::guest_on_xen),
    ("shell::paste", shell::paste),
    ("shell::hypervisor_keys", shell::hypervisor_keys),
    ("shell::bad_configurations", shell::bad_configurations),
];

/// Runs the scenarios whose name contains `filter`, or lists them.
pub fn run(filter: Option<&str>, list: bool) -> Conclusion {
    let arguments = Arguments {
        filter: filter.map(str::to_string),
        list,
        test_threads: Some(1), // a machine needs the host's processors for itself
        ..Arguments::default()
    };
    let trials = ALL.iter().map(|&(name, scenario)| Trial::test(name, move || within(name, scenario)));
    libtest_mimic::run(&arguments, trials.collect())
}

fn within(name: &str, scenario: fn(&mut Lab) -> Result<()>) -> Result<(), Failed> {
    let (mut lab, start) = (Lab::new(name), Instant::now());
    let verdict = scenario(&mut lab).map_err(|error| format!("{error:#}{}", lab.tails()).into());
    print!("{:.1} s, ", start.elapsed().as_secs_f32());
    verdict
}
