//! The table of commands, and what `help` makes of it.

use super::{Answer, Outcome};
use crate::toolstack::config::keys::nearest;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::json;

/// An option of a command.
pub struct Opt {
    /// `-x`.
    pub short: char,
    /// `--example`.
    pub long: &'static str,
    /// Whether a value follows.
    pub takes_value: bool,
    /// What it does.
    pub help: &'static str,
}

/// A command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Arguments it needs.
    pub least: usize,
    /// Its options.
    pub options: &'static [Opt],
}

const fn flag(short: char, long: &'static str, help: &'static str) -> Opt {
    Opt { short, long, takes_value: false, help }
}

const fn value(short: char, long: &'static str, help: &'static str) -> Opt {
    Opt { short, long, takes_value: true, help }
}

const fn command(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    least: usize,
    options: &'static [Opt],
) -> Command {
    Command { name, arguments, help, least, options }
}

const ALL_DOMAINS: Opt = flag('a', "all", "All guest domains");
const WAIT: Opt = flag('w', "wait", "Wait for guest(s) to stop");
const FALLBACK: Opt = flag('F', "force", "Fallback to ACPI power event for HVM guests; no effect here");

const FORCE: Opt = flag('f', "force", "Also if the domain does not let go of it");

/// Every command.
pub const COMMANDS: &[Command] = &[
    command(
        "create",
        "<ConfigFile> [vars]",
        "Create a domain from config file <filename>",
        1,
        &[
            flag('p', "pause", "Leave the domain paused after it is created"),
            flag('c', "console", "Connect to the console after the domain is created"),
            flag('n', "dryrun", "Only read the file and say what is in it"),
            flag('q', "quiet", "Say nothing of the file but what is wrong"),
            value('f', "defconfig", "The file, in place of the first argument"),
            flag('e', "no-wait", "No effect here: dom0 waits for every domain's end, and no command does"),
            flag('F', "foreground", "No effect here"),
            flag('d', "debug", "No effect here"),
        ],
    ),
    command(
        "list",
        "[Domain]",
        "List information about all/some domains",
        0,
        &[
            flag('v', "verbose", "Also print the UUID and the shutdown reason"),
            flag('l', "long", "As --json"),
            flag('c', "cpupool", "Also print the CPU pool"),
            flag('n', "numa", "Also print the NUMA nodes"),
        ],
    ),
    command(
        "info",
        "",
        "Get information about Xen host",
        0,
        &[flag('n', "numa", "Also print where CPUs and memory are")],
    ),
    command(
        "destroy",
        "<Domain>",
        "Terminate a domain immediately",
        1,
        &[flag('f', "force", "No effect here")],
    ),
    command(
        "shutdown",
        "<-a|Domain>",
        "Issue a shutdown signal to a domain",
        1,
        &[ALL_DOMAINS, WAIT, FALLBACK],
    ),
    command("reboot", "<-a|Domain>", "Issue a reboot signal to a domain", 1, &[ALL_DOMAINS, WAIT, FALLBACK]),
    command("pause", "<-a|Domain>", "Pause execution of a domain", 1, &[ALL_DOMAINS]),
    command("unpause", "<-a|Domain>", "Unpause a paused domain", 1, &[ALL_DOMAINS]),
    command(
        "console",
        "<Domain>",
        "Attach to domain's console: its last 64 KiB, then what comes; leave it with Ctrl-]",
        1,
        &[value('t', "type", "pv, the one there is"), value('n', "num", "0, the one there is")],
    ),
    command(
        "dmesg",
        "",
        "Read and/or clear dmesg buffer",
        0,
        &[flag('c', "clear", "Clear dmesg buffer after printing")],
    ),
    command("domid", "<DomainName>", "Convert a domain name to domain id", 1, &[]),
    command("domname", "<DomainId>", "Convert a domain id to domain name", 1, &[]),
    command(
        "uptime",
        "[Domain]",
        "Print uptime for all/some domains",
        0,
        &[flag('s', "short", "Without seconds")],
    ),
    command("vcpu-list", "[Domain, ...]", "List the VCPUs for all/some domains", 0, &[]),
    command(
        "vcpu-set",
        "<Domain> <vCPUs>",
        "Set the number of active VCPUs allowed for the domain",
        2,
        &[flag('i', "ignore-host", "Don't limit the vCPUs to the host's CPUs")],
    ),
    command(
        "vcpu-pin",
        "<Domain> <VCPU|all> <CPUs|all>",
        "Set which CPUs a VCPU can use, such as 0-3,^1",
        3,
        &[],
    ),
    command("sysrq", "<Domain> <letter>", "Send a sysrq to a domain", 2, &[]),
    command(
        "mem-set",
        "<Domain> <MemMB['b'[bytes]|'k'[KB]|'m'[MB]|'g'[GB]|'t'[TB]]>",
        "Set the current memory usage for a domain",
        2,
        &[],
    ),
    command(
        "mem-max",
        "<Domain> <MemMB['b'[bytes]|'k'[KB]|'m'[MB]|'g'[GB]|'t'[TB]]>",
        "Set the maximum amount reservation for a domain",
        2,
        &[],
    ),
    command("rename", "<Domain> <NewDomainName>", "Rename a domain", 2, &[]),
    command(
        "config-update",
        "<Domain> <ConfigFile> [vars]",
        "Update a running domain's saved configuration, used when it is built anew after a reboot",
        2,
        &[],
    ),
    command("trigger", "<Domain> <nmi> [<VCPU>]", "Send a trigger to a domain", 2, &[]),
    command("debug-keys", "<Keys>", "Send debug keys to Xen; what it says to them is in dmesg", 1, &[]),
    command(
        "top",
        "",
        "Print what the domains use, once",
        0,
        &[value('d', "delay", "Seconds over which it is measured; 1 is usual")],
    ),
    command("vm-list", "", "List guest domains, excluding dom0", 0, &[]),
    command(
        "sched-credit2",
        "[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]]",
        "Get/set credit2 scheduler parameters",
        0,
        &[
            value('d', "domain", "Domain to modify"),
            value('w', "weight", "Weight (int)"),
            value('c', "cap", "Cap (int)"),
        ],
    ),
    command("block-list", "<Domain(s)>", "List virtual block devices for a domain", 1, &[]),
    command(
        "block-attach",
        "<Domain> <disk-spec-component(s)>...",
        "Create a new virtual block device",
        2,
        &[],
    ),
    command("block-detach", "<Domain> <DevId>", "Destroy a domain's virtual block device", 2, &[FORCE]),
    command("network-list", "<Domain(s)>", "List virtual network interfaces for a domain", 1, &[]),
    command(
        "network-attach",
        "<Domain> [mac=<mac>] [bridge=<bridge>] [ip=<ip>] [rate=<rate>]",
        "Create a new virtual network device",
        1,
        &[],
    ),
    command(
        "network-detach",
        "<Domain> <DevId|mac>",
        "Destroy a domain's virtual network device",
        2,
        &[FORCE],
    ),
    command(
        "backend-restart",
        "<Domain> [vbd|vif]",
        "Let the backends of a domain's devices die and others take over (not a command of xl)",
        1,
        &[],
    ),
    command("help", "[Command]", "Print this list, or how a command is used", 0, &[]),
];

impl Command {
    /// How it is used.
    pub fn usage(&self) -> String {
        let options = if self.options.is_empty() { "" } else { " [options]" };
        let space = if self.arguments.is_empty() { "" } else { " " };
        let mut text =
            format!("Usage: xl {}{options}{space}{}\n\n{}.\n", self.name, self.arguments, self.help);
        if !self.options.is_empty() {
            text += "\nOptions:\n\n";
        }
        for option in self.options {
            let long = if option.takes_value { format!("{}=VALUE", option.long) } else { option.long.into() };
            text += &format!("-{}, --{long:<16} {}.\n", option.short, option.help);
        }
        text
    }
}

/// The command of this name, or the only one that starts with it.
pub fn find(name: &str) -> Option<&'static Command> {
    let mut starting = COMMANDS.iter().filter(|command| command.name.starts_with(name));
    let exact = COMMANDS.iter().find(|command| command.name == name);
    exact.or_else(|| starting.next().filter(|_| starting.next().is_none()))
}

/// A hint at a command that was perhaps meant.
pub fn near(name: &str) -> String {
    let nearest = nearest(name, COMMANDS.iter().map(|command| command.name));
    nearest.map_or(String::new(), |nearest| format!(" (did you mean \"{nearest}\"?)"))
}

/// The `help` command.
pub(super) fn help(name: Option<&str>) -> Outcome {
    if let Some(name) = name {
        let command = find(name).ok_or_else(|| format!("xl: unknown command \"{name}\"{}", near(name)))?;
        return Ok(Answer::new(command.usage(), json!({ "name": command.name, "usage": command.usage() })));
    }
    let mut text = String::from("Usage xl <subcommand> [args]\n\nxl full list of subcommands:\n\n");
    for command in COMMANDS {
        text += &format!(" {:<19} {}\n", command.name, command.help);
    }
    let list: Vec<_> =
        COMMANDS.iter().map(|command| json!({ "name": command.name, "help": command.help })).collect();
    Ok(Answer::new(text, json!(list)))
}
