//! The commands that change something.

use super::{Answer, Args, Outcome, Shell, errno};
use crate::toolstack::config::domain::cpu_set;
use crate::toolstack::hypervisor::{Hypervisor, Share};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use guest_kernel::executor::sleep;
use serde_json::json;
use shared_abi::DomId;

/// How often a wait looks.
const POLL: Duration = Duration::from_millis(50);

impl<H: Hypervisor> Shell<H> {
    pub(super) async fn create(&self, args: &Args<'_>) -> Outcome {
        let (path, vars) = match args.value('f') {
            Some(path) => (path, &args.words[..]),
            None => (args.word(0), args.words.get(1..).unwrap_or_default()),
        };
        let config = self.manager.read_config(path, vars)?;
        let mut text = String::new();
        if !args.has('q') {
            text += &format!("Parsing config from {path}\n");
            text.extend(config.warnings.iter().map(|warning| format!("{path}: warning: {warning}\n")));
        }
        let (name, warnings) = (config.name.clone(), config.warnings.clone());
        if args.has('n') {
            text +=
                &format!("{name}: {} MiB, {} vcpus, kernel {}\n", config.memory, config.vcpus, config.kernel);
            return Ok(Answer::new(text, json!({ "name": name, "warnings": warnings })));
        }
        let created = self.manager.create(config, args.has('p')).await;
        let domain = created.map_err(|error| format!("{text}{path}: {error}"))?;
        let json = json!({ "id": domain.0, "name": name, "warnings": warnings });
        Ok(Answer { attach: args.has('c').then_some(domain), ..Answer::new(text, json) })
    }

    pub(super) async fn destroy(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "destroy")?;
        self.manager.destroy(domain).await.map_err(errno("cannot destroy the domain"))?;
        Ok(Answer::done())
    }

    /// A domain other than dom0, which does not do this to itself.
    pub(super) fn guest(&self, text: &str, what: &str) -> Result<DomId, String> {
        match self.domain(text)? {
            DomId(0) => Err(format!("Cannot {what} privileged domain 0.\n")),
            domain => Ok(domain),
        }
    }

    /// The domains that a command is about: those named, or all but dom0.
    fn guests(&self, args: &Args<'_>) -> Result<Vec<DomId>, String> {
        if args.has('a') {
            let all = self.manager.hypervisor.list().map_err(errno("cannot list the domains"))?;
            return Ok(all.into_iter().map(|info| info.domain).filter(|domain| domain.0 != 0).collect());
        }
        args.words.iter().map(|text| self.guest(text, args.command)).collect()
    }

    pub(super) async fn shutdown(&self, args: &Args<'_>, request: &str) -> Outcome {
        let domains = self.guests(args)?;
        let mut text = String::new();
        for domain in &domains {
            let verb = if request == "reboot" { "Rebooting" } else { "Shutting down" };
            text += &format!("{verb} domain {}\n", domain.0);
            self.manager.request(*domain, request)?;
        }
        if args.has('w') {
            if !args.json {
                (self.say)(&format!("{}Waiting for {} domains\n", core::mem::take(&mut text), domains.len()));
            }
            for domain in &domains {
                // Gone, or stopped and kept by its policy.
                while self
                    .manager
                    .hypervisor
                    .info(*domain)
                    .is_ok_and(|info| info.shutdown.is_none() && !info.dying)
                {
                    sleep(POLL).await;
                }
            }
        }
        Ok(Answer::new(text, json!({ "ok": true })))
    }

    pub(super) fn pause(&self, args: &Args<'_>) -> Outcome {
        for domain in self.guests(args)? {
            self.manager.hypervisor.pause(domain).map_err(errno("cannot pause the domain"))?;
        }
        Ok(Answer::done())
    }

    pub(super) fn unpause(&self, args: &Args<'_>) -> Outcome {
        for domain in self.guests(args)? {
            self.manager.hypervisor.unpause(domain).map_err(errno("cannot unpause the domain"))?;
        }
        Ok(Answer::done())
    }

    pub(super) fn console(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "attach to the console of")?;
        for (option, only) in [('t', "pv"), ('n', "0")] {
            if let Some(other) = args.value(option).filter(|value| *value != only) {
                return Err(format!("-{option} {other}: a domain has console {only} alone here"));
            }
        }
        Ok(Answer { attach: Some(domain), ..Answer::done() })
    }

    pub(super) fn mem_set(&self, args: &Args<'_>) -> Outcome {
        let domain = self.domain(args.word(0))?;
        let kib = kib(args.word(1)).ok_or_else(|| format!("invalid memory size: {}", args.word(1)))?;
        self.manager.set_memory(domain, kib)?;
        Ok(Answer::done())
    }

    pub(super) fn vcpu_set(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "change the vcpus of")?;
        let count: u32 =
            args.word(1).parse().map_err(|_| format!("invalid number of vcpus: {}", args.word(1)))?;
        let cpus = self.manager.hypervisor.machine().map_err(errno("cannot ask for the machine"))?.cpus;
        if count > cpus && !args.has('i') {
            return Err(format!(
                "You are overcommitting: {count} vcpus on {cpus} physical CPUs; --ignore-host does it all the same."
            ));
        }
        self.manager.set_vcpus(domain, count)?;
        Ok(Answer::done())
    }

    pub(super) fn sysrq(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "send a SysRq key to")?;
        let mut keys = args.word(1).chars();
        match (keys.next(), keys.next()) {
            (Some(key), None) if key.is_ascii_graphic() => self.manager.sysrq(domain, key)?,
            _ => return Err(format!("\"{}\" is no SysRq key: one letter or digit is needed", args.word(1))),
        }
        Ok(Answer::done())
    }

    pub(super) fn vcpu_pin(&self, args: &Args<'_>) -> Outcome {
        let hypervisor = &self.manager.hypervisor;
        let domain = self.domain(args.word(0))?;
        if let Some(soft) = args.words.get(3) {
            return Err(format!("soft affinity (\"{soft}\") is not set here, only hard"));
        }
        let info = hypervisor.info(domain).map_err(errno("cannot get the domain's state"))?;
        let vcpus = match args.word(1) {
            "all" => 0..info.vcpus,
            text => {
                let vcpu = text.parse().ok().filter(|vcpu| *vcpu < info.vcpus);
                let vcpu = vcpu.ok_or_else(|| format!("the domain has no vcpu {text}"))?;
                vcpu..vcpu + 1
            }
        };
        let machine = hypervisor.machine().map_err(errno("cannot ask for the machine"))?;
        let cpus = cpu_set(args.word(2))?.unwrap_or_else(|| (0..=machine.max_cpu.min(4095)).collect());
        for vcpu in vcpus {
            let set = hypervisor.set_affinity(domain, vcpu, &cpus);
            set.map_err(errno(&format!("cannot set the affinity of vcpu {vcpu}")))?;
        }
        Ok(Answer::done())
    }

    pub(super) fn mem_max(&self, args: &Args<'_>) -> Outcome {
        let domain = self.domain(args.word(0))?;
        let kib = kib(args.word(1)).ok_or_else(|| format!("invalid memory size: {}", args.word(1)))?;
        self.manager.set_memory_limit(domain, kib)?;
        Ok(Answer::done())
    }

    pub(super) fn rename(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "rename")?;
        self.manager.rename(domain, args.word(1))?;
        Ok(Answer::done())
    }

    pub(super) fn config_update(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "update the configuration of")?;
        let path = args.word(1);
        let config = self.manager.read_config(path, &args.words[2..])?;
        let warnings = config.warnings.clone();
        let text: String = warnings.iter().map(|warning| format!("{path}: warning: {warning}\n")).collect();
        self.manager.update(domain, config)?;
        Ok(Answer::new(text, json!({ "ok": true, "warnings": warnings })))
    }

    pub(super) fn trigger(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "send a trigger to")?;
        if args.word(1) != "nmi" {
            return Err(format!(
                "\"{}\" is no trigger of a paravirtual domain, only \"nmi\" is",
                args.word(1)
            ));
        }
        let vcpu = args.words.get(2).map_or(Ok(0), |text| text.parse());
        let vcpu = vcpu.map_err(|_| format!("invalid vcpu: {}", args.word(2)))?;
        self.manager.hypervisor.send_nmi(domain, vcpu).map_err(errno("cannot send the trigger"))?;
        Ok(Answer::done())
    }

    pub(super) fn debug_keys(&self, args: &Args<'_>) -> Outcome {
        self.manager.hypervisor.debug_keys(args.word(0)).map_err(errno("cannot send the keys"))?;
        Ok(Answer::done())
    }

    pub(super) fn sched_credit2(&self, args: &Args<'_>) -> Outcome {
        let hypervisor = &self.manager.hypervisor;
        let number = |option: char, max: u16| {
            let value =
                args.value(option).map(|text| text.parse::<u16>().ok().filter(|number| *number <= max));
            value
                .map(|number| number.ok_or_else(|| format!("-{option} takes a number up to {max}")))
                .transpose()
        };
        let (weight, cap) = (number('w', 65535)?, number('c', 65535)?);
        let Some(domain) = args.value('d') else {
            if weight.is_some() || cap.is_some() {
                return Err("Must specify a domain.".into());
            }
            let domains = hypervisor.list().map_err(errno("cannot list the domains"))?;
            return self.shares(domains.iter().map(|info| info.domain).collect());
        };
        let domain = self.domain(domain)?;
        if weight.is_none() && cap.is_none() {
            return self.shares(Vec::from([domain]));
        }
        if weight == Some(0) {
            return Err("Cpu weight out of range, valid values are within range from 1 to 65535".into());
        }
        let old = hypervisor.share(domain).map_err(errno("cannot get the scheduler's parameters"))?;
        let share = Share { weight: weight.unwrap_or(old.weight), cap: cap.unwrap_or(old.cap) };
        hypervisor.set_share(domain, share).map_err(errno("cannot set the scheduler's parameters"))?;
        Ok(Answer::done())
    }
}

/// A memory size in KiB; without a unit it is in MiB.
fn kib(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].to_ascii_lowercase();
    match unit.as_str() {
        "t" | "tb" => number.checked_mul(1 << 30),
        "g" | "gb" => number.checked_mul(1 << 20),
        "" | "m" | "mb" => number.checked_mul(1 << 10),
        "k" | "kb" => Some(number),
        "b" => Some(number >> 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::kib;

    #[test]
    fn memory_sizes_have_units() {
        assert_eq!(
            ["8", "8m", "1G", "512k", "4096b"].map(kib),
            [Some(8192), Some(8192), Some(1 << 20), Some(512), Some(4)]
        );
        assert_eq!(["", "m", "8x", "-8", "99999999999999999999", "99999999999999t"].map(kib), [None; 6]);
    }
}
