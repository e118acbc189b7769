//! The commands that only show something, in xl's columns.

use super::{Answer, Args, Outcome, Shell, errno};
use crate::toolstack::entries::uuid_text;
use crate::toolstack::hypervisor::{DomainInfo, Hypervisor};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use guest_kernel::executor::sleep;
use serde_json::json;
use shared_abi::DomId;
use shared_abi::sched::SHUTDOWN_CRASH;

/// Nanoseconds as seconds with one decimal.
fn seconds(ns: u64) -> String {
    format!("{}.{}", ns / 1_000_000_000, ns / 100_000_000 % 10)
}

fn mib(pages: u64) -> u64 {
    pages >> 8
}

/// xl's six letters.
fn state(info: &DomainInfo) -> String {
    let crashed = info.shutdown == Some(SHUTDOWN_CRASH);
    let flags = [
        (info.running, 'r'),
        (info.blocked, 'b'),
        (info.paused, 'p'),
        (info.shutdown.is_some(), 's'),
        (crashed, 'c'),
        (info.dying, 'd'),
    ];
    flags.iter().map(|(set, letter)| if *set { *letter } else { '-' }).collect()
}

/// A time as xl prints it; `short` has no seconds.
fn duration(seconds: u64, short: bool) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".into(),
        days => format!("{days} days, "),
    };
    let rest = if short { String::new() } else { format!(":{:02}", seconds % 60) };
    format!("{days}{hours:2}:{minutes:02}{rest}")
}

/// CPUs as xl prints them: `all`, or ranges.
fn cpu_ranges(cpus: &[u32], all: usize) -> String {
    if cpus.len() >= all {
        return "all".into();
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let texts: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    texts.join(",")
}

impl<H: Hypervisor> Shell<H> {
    /// The domains named, or all.
    fn infos(&self, args: &Args<'_>) -> Result<Vec<DomainInfo>, String> {
        if args.words.is_empty() {
            return self.manager.hypervisor.list().map_err(errno("cannot list the domains"));
        }
        let one = |text: &&str| {
            let domain = self.domain(text)?;
            self.manager.hypervisor.info(domain).map_err(errno("cannot get the domain's state"))
        };
        args.words.iter().map(one).collect()
    }

    pub(super) fn list(&self, args: &Args<'_>) -> Outcome {
        let infos = self.infos(args)?;
        let mut text =
            String::from("Name                                        ID   Mem VCPUs\tState\tTime(s)");
        let more = [('v', "   UUID                            Reason-Code"), ('c', "         Cpupool")];
        let more = more.into_iter().chain([('n', " NODE Affinity")]);
        text.extend(more.filter(|(option, _)| args.has(*option)).map(|(_, column)| column));
        text.push('\n');
        let mut list = Vec::new();
        for info in &infos {
            let (name, time, state) = (self.shown_name(info.domain), seconds(info.cpu_time), state(info));
            let (id, memory, vcpus) = (info.domain.0, mib(info.pages), info.vcpus_online);
            text += &format!("{name:<40} {id:5} {memory:5} {vcpus:5}     {state}  {time:>8}");
            if args.has('v') {
                let reason = info.shutdown.map_or("-".into(), |reason| reason.to_string());
                text += &format!(" {} {reason:>11}", uuid_text(&info.uuid));
            }
            if args.has('c') {
                text += &format!("{:>16}", "Pool-0");
            }
            // A machine is one node here.
            text += if args.has('n') { " all\n" } else { "\n" };
            list.push(json!({
                "name": name, "id": id, "mem_mib": memory, "vcpus": vcpus, "state": state,
                "cpu_time_ns": info.cpu_time, "uuid": uuid_text(&info.uuid), "shutdown_reason": info.shutdown,
            }));
        }
        let list = json!(list);
        Ok(Answer::new(if args.has('l') { format!("{list}\n") } else { text }, list))
    }

    pub(super) fn info(&self, args: &Args<'_>) -> Outcome {
        let hypervisor = &self.manager.hypervisor;
        let machine = hypervisor.machine().map_err(errno("cannot ask for the machine"))?;
        let version = hypervisor.version();
        let (major, minor) = version.number;
        let hw_caps: Vec<String> = machine.hw_cap.iter().map(|word| format!("{word:08x}")).collect();
        let khz = machine.cpu_khz;
        let lines: Vec<(&str, String)> = Vec::from([
            ("host", "oxen".into()),
            ("release", env!("CARGO_PKG_VERSION").into()),
            ("version", "Oxen dom0".into()),
            ("machine", "x86_64".into()),
            ("nr_cpus", machine.cpus.to_string()),
            ("max_cpu_id", machine.max_cpu.to_string()),
            ("nr_nodes", machine.nodes.to_string()),
            ("cores_per_socket", machine.cores_per_socket.to_string()),
            ("threads_per_core", machine.threads_per_core.to_string()),
            ("cpu_mhz", format!("{}.{:03}", khz / 1000, khz % 1000)),
            ("hw_caps", hw_caps.join(":")),
            ("virt_caps", "pv".into()),
            ("total_memory", mib(machine.total_pages).to_string()),
            ("free_memory", mib(machine.free_pages + machine.scrub_pages).to_string()),
            ("sharing_freed_memory", "0".into()),
            ("sharing_used_memory", "0".into()),
            ("outstanding_claims", mib(machine.outstanding_pages).to_string()),
            ("free_cpus", "0".into()),
            ("xen_major", major.to_string()),
            ("xen_minor", minor.to_string()),
            ("xen_extra", version.extra.clone()),
            ("xen_version", format!("{major}.{minor}{}", version.extra)),
            ("xen_caps", version.capabilities),
            ("xen_scheduler", hypervisor.scheduler().map_err(errno("cannot ask for the scheduler"))?),
            ("xen_pagesize", "4096".into()),
            ("platform_params", format!("virt_start={:#x}", version.virt_start)),
            ("xen_changeset", version.changeset),
            ("xen_commandline", version.commandline),
            ("cc_compiler", version.compiler),
            ("cc_compile_by", version.compile_by),
            ("cc_compile_domain", version.compile_domain),
            ("cc_compile_date", version.compile_date),
            ("xend_config_format", "4".into()),
        ]);
        let (places, places_json) = if args.has('n') { self.places()? } else { Default::default() };
        let mut text = String::new();
        for (key, value) in &lines {
            text += &format!("{key:<23}: {value}\n");
            // xl shows them between the machine's lines and the hypervisor's.
            if *key == "free_cpus" {
                text += &places;
            }
        }
        let mut json = lines
            .into_iter()
            .map(|(key, value)| (key.to_string(), json!(value)))
            .collect::<serde_json::Map<_, _>>();
        json.extend(places_json);
        Ok(Answer::new(text, json.into()))
    }

    /// What `info -n` shows beside: where CPUs and memory are.
    fn places(&self) -> Result<(String, serde_json::Map<String, serde_json::Value>), String> {
        let hypervisor = &self.manager.hypervisor;
        let cpus = hypervisor.cpu_places().map_err(errno("cannot ask for the CPUs' places"))?;
        let nodes = hypervisor.numa_nodes().map_err(errno("cannot ask for the NUMA nodes"))?;
        let mut text = String::from("cpu_topology           :\ncpu:    core    socket     node\n");
        let (mut cpu_list, mut node_list) = (Vec::new(), Vec::new());
        for (n, cpu) in cpus.iter().enumerate() {
            text += &format!("{n:3}:    {:4}     {:4}     {:4}\n", cpu.core, cpu.socket, cpu.node);
            cpu_list.push(json!({ "cpu": n, "core": cpu.core, "socket": cpu.socket, "node": cpu.node }));
        }
        text += "device topology        :\nNo device topology data available\n";
        text += "numa_info              :\nnode:    memsize    memfree    distances\n";
        for (n, node) in nodes.iter().enumerate() {
            let (memory, free) = (node.memory >> 20, node.free >> 20);
            let distances: Vec<String> = node.distances.iter().map(u32::to_string).collect();
            text += &format!("{n:4}:    {memory:6}     {free:6}      {}\n", distances.join(","));
            node_list.push(json!({
                "node": n, "memory_mib": memory, "free_mib": free, "distances": node.distances,
            }));
        }
        let lists = [("cpu_topology", json!(cpu_list)), ("numa_info", json!(node_list))];
        Ok((text, lists.map(|(key, list)| (key.to_string(), list)).into_iter().collect()))
    }

    pub(super) fn dmesg(&self, args: &Args<'_>) -> Outcome {
        let log = self.manager.hypervisor.log(args.has('c')).map_err(errno("cannot read the log"))?;
        let text = String::from_utf8_lossy(&log).into_owned();
        let json = json!({ "log": text });
        Ok(Answer::new(text, json))
    }

    pub(super) fn domid(&self, args: &Args<'_>) -> Outcome {
        let name = args.word(0);
        let domain =
            self.manager.find(name).filter(|domain| self.manager.name(*domain).as_deref() == Some(name));
        let domain = domain.ok_or_else(|| {
            format!("Can't get domid of domain name '{name}', maybe this domain does not exist.")
        })?;
        Ok(Answer::new(format!("{}\n", domain.0), json!({ "id": domain.0 })))
    }

    pub(super) fn domname(&self, args: &Args<'_>) -> Outcome {
        let id = args.word(0);
        let number: u16 = id.parse().map_err(|_| format!("Invalid domain ID '{id}'"))?;
        let name = self.manager.name(DomId(number));
        let name = name.ok_or_else(|| {
            format!("Can't get domain name of domain id '{id}', maybe this domain does not exist.")
        })?;
        let json = json!({ "name": name });
        Ok(Answer::new(format!("{name}\n"), json))
    }

    pub(super) fn uptime(&self, args: &Args<'_>) -> Outcome {
        let mut text = format!("{:<33} {:>4} {}\n", "Name", "ID", "Uptime");
        let mut list = Vec::new();
        let now = self.manager.hypervisor.uptime();
        for info in self.infos(args)? {
            let started = self.manager.running(info.domain).map_or(0, |running| running.started);
            let up = now.saturating_sub(started) / 1_000_000_000;
            let (name, id) = (self.shown_name(info.domain), info.domain.0);
            text += &format!("{name:<33} {id:4} {}\n", duration(up, args.has('s')));
            list.push(json!({ "name": name, "id": id, "uptime_s": up }));
        }
        Ok(Answer::new(text, json!(list)))
    }

    pub(super) fn vcpu_list(&self, args: &Args<'_>) -> Outcome {
        let hypervisor = &self.manager.hypervisor;
        let all = hypervisor.machine().map_err(errno("cannot ask for the machine"))?.cpus as usize;
        let mut text = format!(
            "{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} {}\n",
            "Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity (Hard / Soft)"
        );
        let mut list = Vec::new();
        for info in self.infos(args)? {
            for number in 0..info.vcpus {
                // A vcpu number may be unused.
                let Ok(vcpu) = hypervisor.vcpu(info.domain, number) else { continue };
                let (name, id) = (self.shown_name(info.domain), info.domain.0);
                let letter = |set: bool, letter: char| if set { letter } else { '-' };
                let (running, blocked) = (letter(vcpu.running, 'r'), letter(vcpu.blocked, 'b'));
                text += &format!("{name:<32} {id:5} {number:5} ");
                text += &match vcpu.online {
                    true => format!("{:5}   {running}{blocked}- ", vcpu.cpu),
                    false => format!("{:>5}   {:>2}p ", '-', "--"),
                };
                let (hard, soft) = (cpu_ranges(&vcpu.hard, all), cpu_ranges(&vcpu.soft, all));
                text += &format!("{:>9}  {hard} / {soft}\n", seconds(vcpu.cpu_time));
                list.push(json!({
                    "name": name, "id": id, "vcpu": number, "cpu": vcpu.cpu, "online": vcpu.online,
                    "running": vcpu.running, "blocked": vcpu.blocked, "cpu_time_ns": vcpu.cpu_time,
                    "hard": vcpu.hard, "soft": vcpu.soft,
                }));
            }
        }
        Ok(Answer::new(text, json!(list)))
    }

    /// xentop's first columns. It measures for a while, in which everything else goes on.
    pub(super) async fn top(&self, args: &Args<'_>) -> Outcome {
        const MOST: u64 = 3600;
        let delay = args.value('d').map_or(Some(1), |text| text.parse().ok());
        let delay = delay.filter(|delay| (1..=MOST).contains(delay));
        let delay = delay.ok_or_else(|| format!("-d takes a number of seconds from 1 to {MOST}"))?;
        let hypervisor = &self.manager.hypervisor;
        let (before, since) = (self.infos(args)?, hypervisor.uptime());
        sleep(Duration::from_secs(delay)).await;
        let (after, passed) = (self.infos(args)?, hypervisor.uptime().saturating_sub(since).max(1));
        let total = hypervisor.machine().map_err(errno("cannot ask for the machine"))?.total_pages.max(1);
        // In tenths.
        let per_cent = |part: u64, of: u64| u128::from(part) * 1000 / u128::from(of);
        let shown = |tenths: u128| format!("{}.{}", tenths / 10, tenths % 10);
        let mut text =
            format!("{:>20}  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS\n", "NAME");
        let mut list = Vec::new();
        for info in &after {
            let earlier =
                before.iter().find(|other| other.domain == info.domain).map_or(0, |other| other.cpu_time);
            let cpu = per_cent(info.cpu_time.saturating_sub(earlier), passed);
            let (memory, max) = (info.pages * 4, info.max_pages.min(u64::MAX >> 2) * 4);
            // dom0 has no limit
            let (max, max_share) = match info.max_pages < total {
                true => (max.to_string(), shown(per_cent(info.max_pages, total))),
                false => ("no limit".into(), "n/a".into()),
            };
            let name = self.shown_name(info.domain);
            text += &format!(
                "{name:>20} {} {:>10} {:>6} {memory:>10} {:>6} {max:>10} {max_share:>9} {:>5}\n",
                state(info),
                info.cpu_time / 1_000_000_000,
                shown(cpu),
                shown(per_cent(info.pages, total)),
                info.vcpus,
            );
            list.push(json!({
                "name": name, "id": info.domain.0, "state": state(info), "cpu_time_ns": info.cpu_time,
                "cpu_percent": cpu as f64 / 10.0, "mem_kib": memory, "vcpus": info.vcpus,
            }));
        }
        Ok(Answer::new(text, json!(list)))
    }

    pub(super) fn vm_list(&self) -> Outcome {
        let infos = self.manager.hypervisor.list().map_err(errno("cannot list the domains"))?;
        let mut text = String::from("UUID                                  ID    name\n");
        let mut list = Vec::new();
        for info in infos.iter().filter(|info| info.domain.0 != 0) {
            let (uuid, id, name) = (uuid_text(&info.uuid), info.domain.0, self.shown_name(info.domain));
            text += &format!("{uuid}  {id}    {name}\n");
            list.push(json!({ "uuid": uuid, "id": id, "name": name }));
        }
        Ok(Answer::new(text, json!(list)))
    }

    /// What `sched-credit2` shows.
    pub(super) fn shares(&self, domains: Vec<DomId>) -> Outcome {
        let hypervisor = &self.manager.hypervisor;
        let ratelimit = hypervisor.ratelimit().unwrap_or(0);
        let mut text = format!("Cpupool Pool-0: ratelimit={ratelimit}us\n");
        text += &format!("{:<33} {:>4} {:>6} {:>4}\n", "Name", "ID", "Weight", "Cap");
        let mut list = Vec::new();
        for domain in domains {
            let share = hypervisor.share(domain).map_err(errno("cannot get the scheduler's parameters"))?;
            let (name, id) = (self.shown_name(domain), domain.0);
            text += &format!("{name:<33} {id:4} {:6} {:4}\n", share.weight, share.cap);
            list.push(json!({ "name": name, "id": id, "weight": share.weight, "cap": share.cap }));
        }
        Ok(Answer::new(text, json!(list)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_cpus_read_as_xl_prints_them() {
        assert_eq!(duration(59, false), " 0:00:59");
        assert_eq!(duration(86400 + 3661, false), "1 day,  1:01:01");
        assert_eq!(duration(3 * 86400 + 36000, true), "3 days, 10:00");
        assert_eq!((seconds(0), seconds(12_390_000_000)), ("0.0".into(), "12.3".into()));
        assert_eq!((cpu_ranges(&[0, 1], 2), cpu_ranges(&[0, 2, 3], 8)), ("all".into(), "0,2-3".into()));
    }
}
