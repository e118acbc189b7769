//! Compares this crate with the public headers of Xen 4.17, as a C compiler sees them.
//!
//! The headers are the ABI's source of truth (and everything else in this repository trusts this
//! crate), so the oracle is a C program made from the crate's own lists, compiled against
//! `/usr/include/xen` and run. A new structure or constant needs no line here: the macros it is
//! declared with put it on its module's list. A new module needs one line in `modules!`.

use shared_abi::io::xenbus::XenbusState;
use shared_abi::{Constant, Errno, Layout, io, xen};
use std::collections::HashMap;
use std::fmt::Write as _;

mod oracle;
use oracle::{PROLOGUE, cc, run, workplace};

macro_rules! modules {
    (structs: $($s:path),* $(,)?; constants: $($c:path),* $(,)?;) => {
        fn structs() -> Vec<&'static Layout> {
            [$({ use $s as m; m::STRUCTS }),*].into_iter().flatten().collect()
        }
        fn constants() -> Vec<&'static Constant> {
            [$({ use $c as m; m::CONSTANTS }),*].into_iter().flatten().collect()
        }
    };
}

modules! {
    structs:
        shared_abi::arch_x86,
        shared_abi::arch_x86::xen_mca,
        shared_abi::callback,
        shared_abi::domctl,
        shared_abi::domctl::domain,
        shared_abi::domctl::resources,
        shared_abi::domctl::vcpu,
        shared_abi::event_channel,
        shared_abi::grant_table,
        shared_abi::hvm_start_info,
        shared_abi::hypfs,
        shared_abi::memory,
        shared_abi::nmi,
        shared_abi::physdev,
        shared_abi::platform,
        shared_abi::platform::firmware,
        shared_abi::platform::power,
        shared_abi::sched,
        shared_abi::sysctl,
        shared_abi::sysctl::power,
        shared_abi::vcpu,
        shared_abi::version,
        shared_abi::xen,
        shared_abi::io::blkif,
        shared_abi::io::console,
        shared_abi::io::netif,
        shared_abi::io::ring,
        shared_abi::io::xs_wire;
    constants:
        shared_abi::arch_x86,
        shared_abi::arch_x86::xen_mca,
        shared_abi::callback,
        shared_abi::cpuid,
        shared_abi::domctl,
        shared_abi::domctl::domain,
        shared_abi::domctl::resources,
        shared_abi::domctl::vcpu,
        shared_abi::elfnote,
        shared_abi::event_channel,
        shared_abi::features,
        shared_abi::grant_table,
        shared_abi::hvm_start_info,
        shared_abi::hypfs,
        shared_abi::memory,
        shared_abi::nmi,
        shared_abi::physdev,
        shared_abi::platform,
        shared_abi::platform::firmware,
        shared_abi::platform::power,
        shared_abi::sched,
        shared_abi::sysctl,
        shared_abi::sysctl::power,
        shared_abi::vcpu,
        shared_abi::version,
        shared_abi::xen,
        shared_abi::xen::hypercall,
        shared_abi::xsm,
        shared_abi::io::blkif,
        shared_abi::io::netif,
        shared_abi::io::xs_wire;
}

fn numbers(line: &str) -> Vec<usize> {
    line.split(' ').map(|n| n.parse().unwrap()).collect()
}

/// The headers' object-like macros by their upper-case names. Several macros may share one.
fn macros() -> HashMap<String, Vec<String>> {
    let source = workplace("macros").join("macros.c");
    std::fs::write(&source, PROLOGUE).unwrap();
    let output = cc(&["-E", "-dM", source.to_str().unwrap()]);
    let mut names: HashMap<String, Vec<String>> = HashMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let name = line.trim_start_matches("#define ").split(' ').next().unwrap();
        if !name.contains('(') {
            names.entry(name.to_uppercase()).or_default().push(name.to_owned());
        }
    }
    names
}

/// What the header calls a constant: the same name, or else every macro that differs from it only in
/// case, or else (an enumerator) the same name again.
fn c_names(constant: &Constant, macros: &HashMap<String, Vec<String>>) -> Vec<String> {
    let name = format!("{}{}", constant.prefix, constant.name);
    match macros.get(&name.to_uppercase()) {
        Some(found) if !found.contains(&name) => found.clone(),
        _ => vec![name],
    }
}

fn fail_on(errors: &[String]) {
    assert!(errors.is_empty(), "\n\n{} differences:\n{}\n", errors.len(), errors.join("\n"));
}

#[test]
fn structures_lie_in_memory_as_c_puts_them() {
    let structs = structs();
    let mut body = String::new();
    for s in &structs {
        let c = s.c_type;
        writeln!(body, r#"printf("%zu %zu\n", sizeof({c}), _Alignof({c}));"#).unwrap();
        for f in s.fields.iter().filter(|f| !f.name.starts_with('_')) {
            let name = f.name.trim_start_matches("r#");
            writeln!(body, r#"printf("%zu %zu\n", offsetof({c}, {name}), sizeof((({c} *)0)->{name}));"#)
                .unwrap();
        }
    }

    let mut lines = run("structures", &body).into_iter();
    let mut next = || <[usize; 2]>::try_from(numbers(&lines.next().unwrap())).unwrap();
    let mut errors = Vec::new();
    let mut fields = 0;
    for s in &structs {
        let c = next();
        if c != [s.size, s.align] {
            errors.push(format!("{}: size, align {c:?} in C, {:?} here", s.c_type, [s.size, s.align]));
        }
        for f in s.fields.iter().filter(|f| !f.name.starts_with('_')) {
            let c = next();
            fields += 1;
            if c != [f.offset, f.size] {
                let here = [f.offset, f.size];
                errors.push(format!("{}.{}: offset, size {c:?} in C, {here:?} here", s.c_type, f.name));
            }
        }
    }
    fail_on(&errors);
    println!("{} structures, {fields} fields", structs.len());
}

#[test]
fn constants_have_their_values() {
    let macros = macros();
    let expected: Vec<(String, &Constant)> = constants()
        .into_iter()
        .flat_map(|c| c_names(c, &macros).into_iter().map(move |name| (name, c)))
        .collect();
    let body: String =
        expected.iter().map(|(name, _)| format!("printf(\"%lld\\n\", (long long)({name}));\n")).collect();

    let mut errors = Vec::new();
    for ((name, constant), line) in expected.iter().zip(run("constants", &body)) {
        let c: i64 = line.parse().unwrap();
        let bits = 8 * constant.width as u32;
        let mask = u64::MAX >> (64 - bits);
        // A C value may be signed where ours is not and the reverse; its bits must be the same, and
        // none may be outside our type but copies of the sign.
        let fits = bits == 64 || (-(1i64 << (bits - 1))..1i64 << bits).contains(&c);
        if !fits || (c as u64) & mask != constant.value & mask {
            errors.push(format!("{name}: {c:#x} in C, {:#x} here", constant.value & mask));
        }
    }
    fail_on(&errors);
    println!("{} constants", expected.len());
}

#[test]
fn reserved_domains_errnos_and_states_have_their_values() {
    let mut expected: Vec<(String, i64)> = vec![
        ("DOMID_FIRST_RESERVED".into(), xen::DOMID_FIRST_RESERVED.0.into()),
        ("DOMID_SELF".into(), xen::DOMID_SELF.0.into()),
        ("DOMID_IO".into(), xen::DOMID_IO.0.into()),
        ("DOMID_XEN".into(), xen::DOMID_XEN.0.into()),
        ("DOMID_COW".into(), xen::DOMID_COW.0.into()),
        ("DOMID_INVALID".into(), xen::DOMID_INVALID.0.into()),
        ("DOMID_IDLE".into(), xen::DOMID_IDLE.0.into()),
        ("DOMID_MASK".into(), xen::DOMID_MASK.0.into()),
        ("XEN_EWOULDBLOCK".into(), Errno::EWOULDBLOCK.number()),
        ("XEN_EDEADLOCK".into(), Errno::EDEADLOCK.number()),
    ];
    expected.extend(Errno::ALL.iter().map(|e| (format!("XEN_{e}"), e.number())));
    expected.extend(XenbusState::ALL.iter().map(|(c, state)| (c.to_string(), state.number().into())));

    let body: String =
        expected.iter().map(|(name, _)| format!("printf(\"%lld\\n\", (long long)({name}));\n")).collect();
    let mut errors = Vec::new();
    for ((name, here), line) in expected.iter().zip(run("numbers", &body)) {
        if line != here.to_string() {
            errors.push(format!("{name}: {line} in C, {here} here"));
        }
    }
    fail_on(&errors);
}

#[test]
fn every_errno_of_the_header_is_here() {
    // The header lists each errno in a macro that its includer defines.
    let source = workplace("errnos").join("errnos.c");
    std::fs::write(&source, "#define XEN_ERRNO(name, value) errno: name\n#include <xen/errno.h>\n").unwrap();
    let output = cc(&["-E", "-P", source.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("errno: ")).collect();
    assert!(names.len() > 40, "the header's list was not understood:\n{text}");
    for name in names {
        let known = Errno::ALL.iter().any(|e| e.name() == name);
        assert!(known || matches!(name, "EWOULDBLOCK" | "EDEADLOCK"), "{name} is missing");
    }
}

#[test]
fn strings_are_the_headers() {
    let prefix = shared_abi::arch_x86::XEN_EMULATE_PREFIX.map(|b| format!("0x{b:02x}")).join(",");
    let mut expected = vec![
        ("XEN_EMULATE_PREFIX".to_owned(), format!(".byte {prefix} ; ")),
        ("XEN_IO_PROTO_ABI_X86_32".into(), io::protocols::XEN_IO_PROTO_ABI_X86_32.into()),
        ("XEN_IO_PROTO_ABI_X86_64".into(), io::protocols::XEN_IO_PROTO_ABI_X86_64.into()),
        ("XEN_IO_PROTO_ABI_ARM".into(), io::protocols::XEN_IO_PROTO_ABI_ARM.into()),
        ("XEN_IO_PROTO_ABI_NATIVE".into(), io::protocols::XEN_IO_PROTO_ABI_NATIVE.into()),
    ];
    for status in 0..14 {
        let message = shared_abi::grant_table::status_message(-status).unwrap();
        expected.push((format!("((const char *[])GNTTABOP_error_msgs)[{status}]"), message.into()));
    }
    let body: String = expected.iter().map(|(c, _)| format!("puts({c});\n")).collect();
    for ((c, here), line) in expected.iter().zip(run("strings", &body)) {
        assert_eq!(&line, here, "{c}");
    }
    assert_eq!(shared_abi::grant_table::status_message(-14), None);
}

#[test]
fn string_buffers_have_their_lengths() {
    let lines = run("lengths", r#"printf("%zu\n", sizeof(xen_commandline_t));"#);
    assert_eq!(lines, [shared_abi::version::XEN_COMMANDLINE_LEN.to_string()]);
}
