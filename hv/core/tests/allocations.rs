//! The rule about memory (hv-machine's `heap`): after boot an allocation of the hypervisor's can fail. Rust's
//! collections make it easy to forget, so this reads the source for what allocates and can't say that it
//! couldn't. What stands in [`BOUND`] has a reason.

use std::fs;
use std::path::Path;

/// What allocates, and panics when there is no memory.
const ALLOCATES: [&str; 20] = [
    "Box::new(",
    "Arc::new(",
    "Rc::new(",
    "Vec::from(",
    "vec![",
    "format!(",
    "String::",
    ".to_vec()",
    ".to_string()",
    ".to_owned()",
    "Vec::with_capacity(",
    ".collect",
    ".reserve(",
    ".reserve_exact(",
    ".push(",
    ".insert(",
    ".extend(",
    ".resize(",
    ".resize_with(",
    ".append(",
];

/// What runs at boot alone, when a panic says what the machine lacks.
const AT_BOOT: [&str; 8] = [
    "core/src/acpi/",
    "core/src/acpi_setup.rs",
    "core/src/domain/dom0.rs",
    "core/src/efi.rs",
    "machine/src/boot.rs",
    "machine/src/x86_64/ioapic.rs",
    "machine/src/x86_64/start.rs",
    "machine/src/budget.rs",
];

/// Lists of page tables that are linked through the frame table, and need no memory.
const INTRUSIVE: &str = "machine/src/frame/";

/// Where else such things may stand: file, what, how often at most, and why it can't fail there.
const BOUND: [(&str, &str, usize, &str); 36] = [
    ("core/src/console.rs", "vec![", 1, "boot"),
    ("core/src/console.rs", ".extend(", 1, "reserved before"),
    ("core/src/domain/lifecycle.rs", ".push(", 1, "reserved before"),
    ("core/src/domain/lifecycle.rs", ".insert(", 2, "the list's and the scheduler's, which can fail"),
    ("core/src/domain/list.rs", ".resize_with(", 1, "reserved before"),
    ("core/src/domain/mod.rs", ".insert(", 1, "a list of numbers"),
    ("core/src/event/channel.rs", ".resize_with(", 1, "reserved before"),
    ("core/src/event/fifo.rs", ".push(", 1, "reserved before"),
    ("core/src/event/ops.rs", ".resize(", 2, "reserved before"),
    ("core/src/grant/maptrack.rs", ".extend(", 1, "reserved before"),
    ("core/src/grant/maptrack.rs", ".push(", 1, "reserved before"),
    ("core/src/grant/active.rs", ".resize_with(", 1, "reserved before"),
    ("core/src/grant/special.rs", ".push(", 2, "of fixed capacity"),
    ("core/src/grant/table.rs", ".push(", 2, "reserved before"),
    ("core/src/hypercall/domctl/domain.rs", ".push(", 1, "reserved before"),
    ("core/src/hypercall/domctl/policy.rs", ".push(", 1, "reserved before"),
    ("core/src/hypercall/grant_table_op.rs", ".extend(", 1, "of fixed capacity"),
    ("core/src/hypercall/memory_op.rs", ".push(", 3, "two reserved before, one of fixed capacity"),
    ("core/src/irq/pirq.rs", ".push(", 2, "reserved before"),
    ("core/src/keys.rs", "String::", 1, "of fixed capacity"),
    ("core/src/mm/descriptors.rs", ".push(", 2, "of fixed capacity"),
    ("core/src/ranges.rs", ".insert(", 2, "reserved before"),
    ("core/src/run.rs", ".reserve(", 1, "the timer queue's, which can fail"),
    ("core/src/sched/credit.rs", ".collect", 1, "of fixed capacity"),
    ("core/src/sched/credit.rs", ".resize_with(", 1, "reserved before"),
    ("core/src/sched/credit.rs", ".reserve(", 1, "the run queue's, which can fail"),
    ("core/src/sched/entity.rs", ".resize_with(", 1, "reserved before"),
    ("core/src/sched/names.rs", ".extend(", 1, "reserved before"),
    ("core/src/sched/queue.rs", ".insert(", 1, "reserved when a vcpu is made"),
    ("core/src/sched/queue.rs", ".push(", 1, "reserved when a vcpu is made"),
    ("core/src/screen.rs", ".resize(", 1, "reserved before"),
    ("core/src/time/queue.rs", ".insert(", 1, "asks for its capacity first"),
    ("machine/src/heap.rs", "Arc::new(", 1, "its memory is promised"),
    ("machine/src/heap.rs", ".extend(", 1, "of a layout"),
    ("machine/src/x86_64/mmio.rs", ".push(", 1, "reserved before"),
    ("machine/src/ram.rs", ".collect", 2, "on a host only"),
];

/// A file's code: without its tests and its comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source file");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

fn read(dir: &Path, name: &str, found: &mut Vec<(String, &'static str, usize)>) {
    for entry in fs::read_dir(dir).expect("the source") {
        let path = entry.expect("an entry").path();
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            if !path.ends_with("tests") {
                read(&path, &name, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("/tests.rs") {
            let code = code(&path);
            for what in ALLOCATES {
                match code.matches(what).count() {
                    0 => {}
                    n => found.push((name.clone(), what, n)),
                }
            }
        }
    }
}

#[test]
fn every_allocation_can_fail() {
    let hv = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for part in ["core/src", "machine/src"] {
        read(&hv.join(part), part, &mut found);
    }
    assert!(found.len() > 20, "the source was not read");
    let mut strange = Vec::new();
    for (file, what, n) in found {
        let at_boot = AT_BOOT.iter().any(|b| file.starts_with(b)) || file.starts_with(INTRUSIVE);
        if !at_boot && !BOUND.iter().any(|(f, w, most, _)| *f == file && *w == what && n <= *most) {
            strange.push(format!("{file}: {n} times {what}"));
        }
    }
    assert!(strange.is_empty(), "allocations that can't fail, or are not known to:\n{}", strange.join("\n"));
}
