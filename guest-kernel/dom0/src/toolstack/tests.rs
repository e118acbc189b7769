//! The toolstack over the fake hypervisor: what a built domain finds in its memory, that any step may fail
//! without a trace, and what the policies do.

use super::build::image::tests::elf_file;
use super::fake::{Bench, Domain, bench};
use super::shell::Shell;
use crate::xenstored::Client;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;
use guest_kernel::executor::{block_on, sleep, spawn};
use shared_abi::elfnote::*;
use shared_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use shared_abi::xen::{SIF_MOD_START_PFN, StartInfo};
use shared_abi::{DomId, pte};
use zerocopy::FromBytes;

const BASE: u64 = 0xffff_ffff_8000_0000;

fn kernel() -> Vec<u8> {
    elf_file(
        0x100000,
        0x5000,
        &[
            (XEN_ELFNOTE_VIRT_BASE, &BASE.to_le_bytes()),
            (XEN_ELFNOTE_ENTRY, &(BASE + 0x100000).to_le_bytes()),
            (XEN_ELFNOTE_HYPERCALL_PAGE, &(BASE + 0x101000).to_le_bytes()),
        ],
    )
}

const CONFIG: &str = "name='web'\nkernel='/boot/web'\nramdisk='/boot/rd'\nmemory=8\nextra='a b'
cpus='0'\ncpu_weight=512\ntsc_mode='native'\ndisk=['phy:site,xvda,r']\nvif=['bridge=br0,ip=10.0.0.2']\non_crash='preserve'";

fn machine() -> Bench {
    bench(&[
        ("web.cfg", CONFIG.as_bytes()),
        ("etc/xen/web.cfg", CONFIG.as_bytes()),
        ("/boot/web", &kernel()),
        ("/boot/rd", &[7; 5000]),
    ])
}

async fn create(bench: &Bench) -> Result<DomId, String> {
    bench.manager.create(bench.manager.read_config("web.cfg", &[])?, false).await
}

fn created(bench: &Bench, config: &'static str) -> Result<DomId, String> {
    let manager = bench.manager.clone();
    block_on(async move { manager.create(manager.read_config(config, &[])?, false).await })
}

/// Reads a domain's memory as its vcpu would.
fn read(domain: &Domain, address: u64, len: usize) -> Vec<u8> {
    let entry_of = |table: u64, slot: usize| {
        let frame = domain.frames[&table].borrow();
        u64::from_le_bytes(frame[slot * 8..slot * 8 + 8].try_into().unwrap())
    };
    (address..address + len as u64)
        .map(|address| {
            let root = domain.context.as_ref().unwrap().ctrlreg[3] >> 12;
            let frame = [4, 3, 2, 1].into_iter().fold(root, |table, level| {
                let entry = entry_of(table, pte::index(address, level));
                assert!(entry & pte::PRESENT != 0, "{address:#x} is not mapped");
                pte::mfn(entry).0
            });
            domain.frames[&frame].borrow()[(address & 0xfff) as usize]
        })
        .collect()
}

#[test]
fn a_domain_finds_everything_where_the_interface_says() {
    let bench = machine();
    let id = created(&bench, "web.cfg").unwrap();
    let machine = bench.fake.0.borrow();
    let domain = &machine.domains[&id.0];
    let context = domain.context.as_ref().unwrap();
    assert_eq!((context.user_regs.rip, context.user_regs.rsp), (BASE + 0x100000, context.kernel_sp));
    assert_eq!(domain.root.unwrap().0, context.ctrlreg[3] >> 12);
    assert_eq!(&read(domain, BASE + 0x100000, 11), b"kernel code");
    assert!(read(domain, BASE + 0x10000b, 0x4ff5).iter().all(|byte| *byte == 0), "bss");

    let bytes = read(domain, context.user_regs.rsi, size_of::<StartInfo>());
    let info = StartInfo::read_from_bytes(&bytes).unwrap();
    assert!(info.magic.starts_with(b"xen-3.0-x86_64\0") && info.cmd_line.starts_with(b"a b\0"));
    assert_eq!(
        (info.nr_pages, info.shared_info, info.flags & SIF_MOD_START_PFN),
        (2048, domain.info.shared_info.0 << 12, 0)
    );
    assert_eq!((info.mod_len, read(domain, info.mod_start, 5000)), (5000, [7; 5000].to_vec()));
    let p2m = read(domain, info.mfn_list, 2048 * 8);
    let frames: BTreeSet<u64> =
        p2m.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    assert!(frames.len() == 2048 && frames.iter().all(|frame| domain.frames.contains_key(frame)));
    assert!(domain.frames[&info.store_mfn.0].borrow().iter().all(|byte| *byte == 0));
    let grants = domain.frames[&domain.grant_frame.0].borrow();
    assert_eq!(grants[12..16], (info.store_mfn.0 as u32).to_le_bytes());
    assert_eq!(domain.share.unwrap().weight, 512);
    assert_eq!(domain.tsc_mode, 2);
    assert!(!domain.info.paused && domain.hypercall_page.is_some());

    let get =
        |path: &str| bench.store.read_text(&format!("/local/domain/{}/{path}", id.0)).unwrap_or_default();
    assert_eq!(
        (get("name"), get("memory/target"), get("device/vbd/51712/virtual-device")),
        ("web".into(), "8192".into(), "51712".into())
    );
    assert_eq!(get("store/ring-ref"), format!("{}", info.store_mfn.0));
    let backend = get("device/vif/0/backend");
    assert_eq!(backend, format!("/local/domain/0/backend/vif/{}/0", id.0));
    assert_eq!(bench.store.read_text(&format!("{backend}/bridge")).as_deref(), Some("br0"));
    assert_eq!(bench.store.read_text(&get("vm")).as_deref(), Some(""));
    let mask = offset_of!(shared_abi::xen::VcpuInfo, evtchn_upcall_mask);
    assert_eq!(domain.frames[&domain.info.shared_info.0].borrow()[mask], 1);
}

/// Paths and values of the whole store.
fn dump(store: &Client, path: &str, into: &mut Vec<String>) {
    into.push(format!("{path} {}", store.read_text(path).unwrap_or_default()));
    for child in store.directory(path).unwrap_or_default() {
        dump(store, &format!("{}/{child}", path.trim_end_matches('/')), into);
    }
}

#[test]
fn a_failure_at_any_step_leaves_nothing_behind() {
    let mut steps = 0;
    for fail_at in 1.. {
        let bench = machine();
        // The directories that all domains' backends share stay.
        for kind in ["console", "vbd", "vif"] {
            bench.store.mkdir(&format!("/local/domain/0/backend/{kind}")).unwrap();
        }
        let nodes = || {
            let mut list = Vec::new();
            dump(&bench.store, "/local", &mut list);
            dump(&bench.store, "/libxl", &mut list);
            list
        };
        let (free, before) = (bench.fake.free(), nodes());
        bench.fake.0.borrow_mut().fail_at = Some(fail_at);
        let Err(error) = created(&bench, "web.cfg") else { break };
        assert!(error.contains("EPERM") || error.contains("ENOMEM"), "{error}");
        assert_eq!((bench.fake.free(), bench.fake.0.borrow().domains.len()), (free, 1), "after: {error}");
        assert_eq!(nodes(), before);
        assert!(bench.consoles.0.borrow().is_empty() && bench.server.borrow().introduced().is_empty());
        steps += 1;
    }
    assert!(steps > 15, "{steps} steps could fail");
}

#[test]
fn bad_input_is_named_and_costs_nothing() {
    let truncated = &kernel()[..kernel().len() / 2];
    let config = |kernel: &str, more: &str| format!("name='x'\nkernel='{kernel}'\n{more}");
    for (config, part) in [
        (config("absent", "memory=8"), "cannot read absent: no such file"),
        (config("truncated", "memory=8"), "truncated: "),
        (config("/boot/web", "memory=4096"), "asks for 4096 MiB, 63 MiB are free"),
        (config("/boot/web", "memory=1"), "the domain has 1 MiB"),
        (config("/boot/web", "memory=8\nmemroy=8"), "did you mean \"memory\""),
        (config("/boot/web", "memory=8\nvif=["), "line 4, column 6"),
        (config("text", "memory=8"), "neither ELF nor bzImage"),
    ] {
        let bench = bench(&[
            ("x.cfg", config.as_bytes()),
            ("/boot/web", &kernel()),
            ("truncated", truncated),
            ("text", b"#!/bin/sh"),
        ]);
        let error = created(&bench, "x.cfg").unwrap_err();
        assert!(error.contains(part), "{error}");
        assert_eq!(bench.fake.0.borrow().domains.len(), 1);
    }
}

#[test]
fn a_name_is_used_once_and_a_destroyed_domain_leaves_nothing() {
    block_on(async {
        let bench = machine();
        let free = bench.fake.free();
        let id = create(&bench).await.unwrap();
        assert!(create(&bench).await.unwrap_err().contains("\"web\" is running already"));
        assert_eq!(bench.manager.find("web"), Some(id));
        bench.manager.destroy(id).await.unwrap();
        assert_eq!((bench.fake.free(), bench.manager.find("web")), (free, None));
        assert!(bench.server.borrow().introduced().is_empty() && bench.consoles.0.borrow().is_empty());
        assert_eq!(bench.store.directory("/local/domain").unwrap(), ["0"]);
        create(&bench).await.unwrap();
    });
}

#[test]
fn policies_decide_what_happens_to_a_domain_that_ends() {
    block_on(async {
        let bench = machine();
        let log = alloc::rc::Rc::new(core::cell::RefCell::new(Vec::new()));
        let (manager, lines) = (bench.manager.clone(), log.clone());
        spawn(async move { manager.attend(|line| lines.borrow_mut().push(String::from(line))).await });
        let end = async |reason: u32| {
            let id = bench.manager.find("web").unwrap();
            bench.fake.stop(id, reason);
            bench.server.borrow_mut().shut_down(id);
            for _ in 0..20 {
                sleep(core::time::Duration::from_millis(1)).await;
            }
            id
        };
        create(&bench).await.unwrap();
        // The default for a reboot: the same domain again, under another number.
        let old = end(SHUTDOWN_REBOOT).await;
        let new = bench.manager.find("web").unwrap();
        assert!(new != old && !bench.fake.0.borrow().domains.contains_key(&old.0), "{:?}", log.borrow());
        // This configuration keeps what crashed.
        let crashed = end(SHUTDOWN_CRASH).await;
        assert_eq!(bench.manager.find("web"), Some(crashed));
        bench.manager.destroy(crashed).await.unwrap();
        // One that is kept beside its successor keeps no disk from it.
        let config = bench.manager.read_config("web.cfg", &["on_reboot='rename-restart'"]).unwrap();
        let kept = bench.manager.create(config, false).await.unwrap();
        let back = format!("/local/domain/0/backend/vbd/{}/51712", kept.0);
        bench.store.write(&format!("{back}/state"), "4").unwrap();
        let front = format!("/local/domain/{}/device/vbd/51712", kept.0);
        let (served, path, other) = (Client::new(&bench.server), back.clone(), front.clone());
        spawn(async move { obliging_backend(&served, &path, &other).await });
        assert_eq!(end(SHUTDOWN_REBOOT).await, kept);
        while bench.manager.find("web").is_none_or(|new| new == kept) {
            sleep(core::time::Duration::from_millis(1)).await;
        }
        let state = bench.store.read_text(&format!("{back}/state"));
        assert_eq!((bench.manager.name(kept), state), (Some(format!("web-{}", kept.0)), Some("6".into())));
        assert!(bench.store.read(&front).is_err());
        bench.manager.destroy(kept).await.unwrap();
        end(SHUTDOWN_POWEROFF).await;
        assert_eq!(bench.manager.find("web"), None);
        let log = log.borrow().join("\n");
        assert!(
            log.contains("asks for a reboot") && log.contains("has crashed") && log.contains("powered off"),
            "{log}"
        );
    });
}

fn run(shell: &Shell<super::fake::Fake>, line: &'static str) -> String {
    let shell = Shell::new(shell.manager.clone(), |_| {});
    block_on(async move { shell.run(line).await.1 })
}

fn created_with(shell: &Shell<super::fake::Fake>, words: &str) -> String {
    let (shell, line) = (Shell::new(shell.manager.clone(), |_| {}), format!("create web {words}"));
    block_on(async move { shell.run(&line).await.1 })
}

#[test]
fn the_shell_prints_what_xl_prints() {
    let bench = machine();
    let shell = Shell::new(bench.manager.clone(), |_| {});
    assert_eq!(run(&shell, "xl create web.cfg"), "Parsing config from web.cfg\n");
    assert_eq!(
        run(&shell, "list"),
        "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
         Domain-0                                     0     1     1     r-----       0.0\n\
         web                                          1     8     1     ------       0.0\n"
    );
    assert_eq!(
        run(&shell, "vcpu-list web"),
        "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)\n\
         web                                  1     0     0   ---       0.0  all / all\n"
    );
    assert_eq!(
        run(&shell, "block-list web"),
        "Vdev  BE  handle state evt-ch ring-ref BE-path                       \n\
         51712 0   1      1     -1     -1       /local/domain/0/backend/vbd/1/51712\n"
    );
    assert!(run(&shell, "network-list web").contains("/local/domain/0/backend/vif/1/0"));
    assert_eq!((run(&shell, "domid web"), run(&shell, "xl domname 1")), ("1\n".into(), "web\n".into()));
    assert_eq!(run(&shell, "mem-set web 4m"), "");
    assert_eq!(bench.store.read_text("/local/domain/1/memory/target").as_deref(), Some("4096"));
    assert!(run(&shell, "mem-set web 9").contains("maximum of 8192 KiB"));
    assert!(run(&shell, "mem-set 0 100").contains("below the minimum"));
    assert_eq!(bench.manager.running(DomId(1)).unwrap().config.memory, 4);
    assert_eq!(run(&shell, "sysrq web h"), "");
    assert_eq!(bench.store.read_text("/local/domain/1/control/sysrq").as_deref(), Some("h"));
    for bad in ["sysrq web hh", "sysrq web ''", "sysrq 0 h", "vcpu-set 0 1", "vcpu-set web many"] {
        assert!(!run(&shell, bad).is_empty(), "{bad}");
    }
    assert_eq!(run(&shell, "sched-credit2 -d web -c 30"), "");
    assert!(run(&shell, "sched-credit2").ends_with("web                                  1    512   30\n"));
    assert_eq!(run(&shell, "pause web"), "");
    assert!(run(&shell, "list web").contains("--p---"));
    assert_eq!(run(&shell, "shutdown web"), "Shutting down domain 1\n");
    assert_eq!(bench.store.read_text("/local/domain/1/control/shutdown").as_deref(), Some("poweroff"));
    // Whoever waits is told for what, before.
    std::thread_local!(static SAID: core::cell::RefCell<String> = const { core::cell::RefCell::new(String::new()) });
    let told = Shell::new(bench.manager.clone(), |text| SAID.with_borrow_mut(|said| *said += text));
    bench.fake.stop(DomId(1), SHUTDOWN_POWEROFF);
    assert_eq!(block_on(async move { told.run("shutdown -w web").await.1 }), "");
    assert_eq!(SAID.take(), "Shutting down domain 1\nWaiting for 1 domains\n");
    assert_eq!(run(&shell, "nosuch"), "xl: unknown command \"nosuch\"; try \"help\"\n");
    assert!(
        run(&shell, "destroy").starts_with("'xl destroy' requires at least 1 argument.\n\nUsage: xl destroy")
    );
    assert_eq!(run(&shell, "destroy nobody"), "nobody is an invalid domain identifier (rc=-6)\n");
    assert!(run(&shell, "list -x").starts_with("option `x' not supported."));
    assert!(run(&shell, "sched-credit2 --domain").starts_with("option `--domain' needs a value."));
    for asked in ["xl destroy --help", "xl help destroy", "dest -h web"] {
        assert!(run(&shell, asked).starts_with("Usage: xl destroy [options] <Domain>"), "{asked}");
    }
    assert_eq!(run(&shell, "list 'x --json"), "{\"error\":\"a quote is not closed\"}\n");
    assert!(run(&shell, "xl").starts_with("Usage xl <subcommand>") && run(&shell, "").is_empty());
    assert_eq!(run(&shell, "create web 'name=\"other\"' memory=9"), "Parsing config from web\n");
    assert!(
        run(&shell, "list other")
            .ends_with("other                                        2     9     1     ------       0.0\n")
    );
    assert_eq!(run(&shell, "xl -vvv create -q -f web 'name=\"third\"'"), "");
    assert_eq!(
        run(&shell, "list -c -n third"),
        "Name                                        ID   Mem VCPUs\tState\tTime(s)         Cpupool NODE Affinity\n\
         third                                        3     8     1     ------       0.0          Pool-0 all\n"
    );
    let info = run(&shell, "info -n");
    let places =
        "cpu_topology           :\ncpu:    core    socket     node\n  0:       0        0        0\n";
    assert!(info.contains(places) && !run(&shell, "info").contains("cpu_topology"), "{info}");
    assert!(info.contains("node:    memsize    memfree    distances\n   0:        64     "), "{info}");
    assert!(info.contains("      10,20\nxen_major "), "{info}");
    assert!(run(&shell, "console -n 1 third").contains("-n 1: a domain has console 0 alone"));
    for (words, complaint) in [
        ("name=fourth", "name=fourth: expected a number, a quoted string or a list, found 'f'; quotes need"),
        ("memory=7 vcpus=200", "vcpus=200: \"vcpus\" is 200, not between"),
        ("'name=\"4\"'", "name=\"4\": a name that is a number"),
    ] {
        assert!(
            created_with(&shell, words).starts_with(complaint),
            "{words}: {}",
            created_with(&shell, words)
        );
    }
    assert_eq!(run(&shell, "destroy web"), "");
    assert_eq!(shell.candidates("des"), shell.candidates(""));
}

#[test]
fn a_running_domain_is_changed() {
    let bench = machine();
    let shell = Shell::new(bench.manager.clone(), |_| {});
    run(&shell, "create web.cfg vcpus=2");
    let affinity = || bench.fake.0.borrow().domains[&1].affinity.clone();
    bench.fake.0.borrow_mut().domains.get_mut(&1).unwrap().affinity.clear();
    assert_eq!(run(&shell, "vcpu-pin web 1 0-3,^2"), "");
    assert_eq!(affinity(), [(1, Vec::from([0, 1, 3]))].into());
    assert_eq!(run(&shell, "vcpu-pin web all all"), "");
    assert_eq!(affinity(), [(0, Vec::from([0])), (1, Vec::from([0]))].into());
    for bad in
        ["vcpu-pin web 2 0", "vcpu-pin web x 0", "vcpu-pin web 0 x", "vcpu-pin web 0 0 0", "vcpu-pin no 0 0"]
    {
        assert!(!run(&shell, bad).is_empty(), "{bad}");
    }
    assert_eq!(affinity()[&1], [0]);

    assert_eq!((run(&shell, "trigger web nmi"), run(&shell, "trigger web nmi 1")), ("".into(), "".into()));
    assert_eq!(run(&shell, "trigger web nmi 9"), "cannot send the trigger: ESRCH\n");
    assert!(run(&shell, "trigger web power").contains("only \"nmi\""));
    assert!(run(&shell, "trigger 0 nmi").contains("privileged"));
    assert_eq!(bench.fake.0.borrow().domains[&1].nmis, 2);
    assert_eq!(run(&shell, "debug-keys hq"), "");
    assert_eq!(bench.fake.0.borrow().keys, "hq");

    assert_eq!(run(&shell, "mem-max web 16"), "");
    assert_eq!(bench.fake.0.borrow().domains[&1].max_kib, 16384);
    assert!(run(&shell, "mem-max web 7").contains("below the 8192 KiB"));
    assert_eq!(run(&shell, "mem-set web 9"), "", "the limit is in xenstore too");

    for bad in [
        "rename web 5",
        "rename web a/b",
        "rename web ''",
        "rename web Domain-0",
        "rename 0 x",
        "rename no x",
    ] {
        assert!(!run(&shell, bad).is_empty(), "{bad}");
    }
    assert_eq!(run(&shell, "rename web shop"), "");
    assert_eq!((run(&shell, "domid shop"), run(&shell, "domname 1")), ("1\n".into(), "shop\n".into()));
    assert!(run(&shell, "domid web").contains("does not exist"));

    // what it becomes at its next start, under the name it has
    assert_eq!(run(&shell, "config-update shop web.cfg memory=6"), "");
    let config = bench.manager.running(DomId(1)).unwrap().config;
    assert_eq!((config.name.as_str(), config.memory), ("shop", 6));
    assert!(run(&shell, "config-update shop nosuch.cfg").contains("no such file"));
    assert!(run(&shell, "config-update shop web.cfg colour=1").contains("unknown key"));

    let list = run(&shell, "vm-list");
    assert!(
        list.starts_with("UUID  ") && list.ends_with("  1    shop\n") && list.lines().count() == 2,
        "{list}"
    );
    {
        let mut machine = bench.fake.0.borrow_mut();
        let info = &mut machine.domains.get_mut(&1).unwrap().info;
        (info.cpu_time, info.max_pages) = (3_000_000_000, 4096);
        machine.domains.get_mut(&0).unwrap().info.max_pages = u64::MAX;
    }
    let top = run(&shell, "top");
    assert!(top.ends_with(
        "            Domain-0 r-----          0    0.0       1024    1.5   no limit       n/a     1\n                \
         shop ------          3    0.0       8192   12.5      16384      25.0     2\n"
    ), "{top}");
    assert!(run(&shell, "top -d 0").contains("-d takes a number"));
}

#[test]
fn vcpus_are_switched_on_and_off() {
    let bench = machine();
    let shell = Shell::new(bench.manager.clone(), |_| {});
    run(&shell, "create web.cfg vcpus=1 maxvcpus=3");
    let states = || {
        let state = |vcpu| bench.store.read_text(&format!("/local/domain/1/cpu/{vcpu}/availability"));
        [0, 1, 2, 3].map(state).map(|state| state.unwrap_or_default())
    };
    assert_eq!(states(), ["online", "offline", "offline", ""]);
    assert_eq!(run(&shell, "vcpu-set -i web 2"), "");
    assert_eq!(states(), ["online", "online", "offline", ""]);
    // What there is decides, not what the machine has.
    assert!(run(&shell, "vcpu-set -i web 4").contains("the domain has 1 to 3"));
    assert!(run(&shell, "vcpu-set web 99").contains("overcommitting"));
    assert!(run(&shell, "vcpu-set web 0").contains("the domain has 1 to 3"));
    assert_eq!(states(), ["online", "online", "offline", ""]);
    assert_eq!(bench.manager.running(DomId(1)).unwrap().config.vcpus, 2);
}

#[test]
fn every_command_answers_in_json() {
    let bench = machine();
    let shell = Shell::new(bench.manager.clone(), |_| {});
    for line in [
        "create web.cfg --json",
        "list --json",
        "info --json",
        "dmesg --json",
        "domid web --json",
        "domname 1 --json",
        "uptime --json",
        "vcpu-list --json",
        "sched-credit2 --json",
        "block-list web --json",
        "network-list web --json",
        "help --json",
        "help list --json",
        "mem-set web 8 --json",
        "vcpu-set web 1 --json",
        "sysrq web h --json",
        "vcpu-pin web 0 0 --json",
        "mem-max web 8 --json",
        "rename web web2 --json",
        "rename web2 web --json",
        "config-update web web.cfg --json",
        "trigger web nmi --json",
        "debug-keys h --json",
        "top --json",
        "vm-list --json",
        "pause web --json",
        "unpause web --json",
        "shutdown web --json",
        "reboot web --json",
        "console web --json",
        "destroy web --json",
        "destroy web --json",
        "nosuch --json",
        "domid --json",
    ] {
        let text = run(&shell, line);
        let value: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line}: {text}"));
        assert!(value.is_array() || value.is_object(), "{line}: {text}");
    }
}

/// A backend as the toolstack sees it: it closes when it is asked to and its frontend has let go.
async fn obliging_backend(store: &Client, path: &str, frontend: &str) {
    loop {
        let asked = store.read_text(&format!("{path}/state")).as_deref() == Some("5");
        if asked && store.read_text(&format!("{frontend}/state")).is_none_or(|state| state == "6") {
            return store.write(&format!("{path}/state"), "6").unwrap();
        }
        sleep(core::time::Duration::from_millis(1)).await;
    }
}

/// A guest used to be started without its disk, and a running one to be shown a device whose backend had closed.
#[test]
fn what_no_backend_can_have_is_refused() {
    block_on(async {
        let bench = machine();
        let shell = Shell::new(bench.manager.clone(), |_| {});
        let free = bench.fake.free();
        let (done, text, _) = shell.run("create web.cfg \"disk+=['phy:absent,xvdb,w']\"").await;
        assert!(!done && text.ends_with("web.cfg: disk xvdb (absent): there is none\n"), "{text}");
        assert_eq!((bench.fake.free(), bench.manager.find("web")), (free, None));
        assert_eq!(bench.store.directory("/local/domain").unwrap(), ["0"]);

        let id = create(&bench).await.unwrap();
        let mut before = Vec::new();
        dump(&bench.store, "/", &mut before);
        let (watch, front) = (Client::new(&bench.server), format!("/local/domain/{}/device", id.0));
        watch.watch(&front, "").unwrap();
        let begun = || {
            let events = core::iter::from_fn(|| watch.try_event()).collect::<Vec<_>>();
            let states = events.iter().filter(|event| event.path.ends_with("/state"));
            states.filter_map(|event| watch.read_text(&event.path)).any(|state| state == "1")
        };
        for (line, complaint) in [
            ("block-attach web phy:absent,xvdb,w", "disk xvdb (absent): there is none\n"),
            ("network-attach web bridge=absent", "network interface 1: there is none\n"),
        ] {
            let (done, text, _) = shell.run(line).await;
            assert_eq!((done, text.as_str()), (false, complaint));
            assert!(!begun());
        }
        let mut after = Vec::new();
        dump(&bench.store, "/", &mut after);
        assert_eq!(before, after);
        assert_eq!(bench.manager.running(id).unwrap().config.disks.len(), 1);
        assert!(shell.run("block-attach web phy:data,xvdb,w").await.0 && begun());
    });
}

#[test]
fn devices_come_and_go_while_a_domain_runs() {
    block_on(async {
        let bench = machine();
        let id = create(&bench).await.unwrap();
        let shell = Shell::new(bench.manager.clone(), |_| {});
        let run = async |line: &str| {
            let (done, text, _) = shell.run(line).await;
            (done, text)
        };
        let store = Client::new(&bench.server);
        let back = format!("/local/domain/0/backend/vbd/{}/51728", id.0);
        let front = format!("/local/domain/{}/device/vbd/51728", id.0);
        assert_eq!(run("xl block-attach web phy:data xvdb w").await, (true, "".into()));
        assert_eq!(store.read_text(&format!("{back}/params")).as_deref(), Some("data"));
        assert_eq!(store.read_text(&format!("{front}/backend")).as_deref(), Some(back.as_str()));
        let (done, text) = run("xl block-attach web phy:data,xvdb,w").await;
        assert!(!done && text.contains("already"), "{text}");
        assert_eq!(bench.manager.running(id).unwrap().config.disks.len(), 2);

        // Both halves are connected, and the frontend holds on: the device stays.
        for path in [&back, &front] {
            store.write(&format!("{path}/state"), "4").unwrap();
        }
        let (served, path, other) = (Client::new(&bench.server), back.clone(), front.clone());
        spawn(async move { obliging_backend(&served, &path, &other).await });
        let (done, text) = run("xl block-detach web xvdb").await;
        assert!(!done && text.contains("does not let go"), "{text}");
        assert_eq!(store.read_text(&format!("{back}/state")).as_deref(), Some("5"));
        assert_eq!(run("xl block-detach --force web xvdb").await, (true, "".into()));
        assert!(store.read(&back).is_err() && store.read(&front).is_err());
        assert_eq!(bench.manager.running(id).unwrap().config.disks.len(), 1);
        assert!(!run("xl block-detach web xvdb").await.0);

        // One that never met its frontend goes at once.
        assert_eq!(run("xl network-attach web mac=00:16:3e:00:00:99").await, (true, "".into()));
        assert_eq!(
            store.read_text(&format!("/local/domain/{}/device/vif/1/handle", id.0)).as_deref(),
            Some("1")
        );
        assert_eq!(run("xl network-detach web 00:16:3E:00:00:99").await, (true, "".into()));
        assert_eq!(bench.manager.running(id).unwrap().config.vifs.len(), 1);
        assert!(!run("xl network-detach web 1").await.0);
        assert!(!run("xl network-detach web x").await.0);

        let (done, text) = run("backend-restart web vbd").await;
        assert!(!done && text.contains("is not connected"), "{text}");
    });
}
