//! C programs against Xen's public headers, for the tests that take those headers as their oracle.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HEADERS: &str = "/usr/include/xen";

/// What the C program starts with. `__XEN_TOOLS__` shows the toolstack's part and chooses the newest
/// interface version.
pub const PROLOGUE: &str = r#"
#define __XEN_TOOLS__ 1
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <xen/xen.h>
#include <xen/errno.h>
#include <xen/arch-x86/cpuid.h>
#include <xen/arch-x86/xen-mca.h>
#include <xen/arch-x86/hvm/start_info.h>
#include <xen/callback.h>
#include <xen/domctl.h>
#include <xen/elfnote.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/hypfs.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/platform.h>
#include <xen/sched.h>
#include <xen/sysctl.h>
#include <xen/vcpu.h>
#include <xen/version.h>
#include <xen/xsm/flask_op.h>
#include <xen/io/blkif.h>
#include <xen/io/console.h>
#include <xen/io/netif.h>
#include <xen/io/protocols.h>
#include <xen/io/ring.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>

/* The rings' macros leave barriers to their user; one thread needs none. */
#define xen_mb()
#define xen_wmb()

/* A ring of entries without bytes is a ring's header alone. */
struct empty {};
DEFINE_RING_TYPES(empty, struct empty, struct empty);
"#;

/// A directory of this test's own for one C program.
pub fn workplace(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Runs the C compiler.
pub fn cc(args: &[&str]) -> Output {
    assert!(
        Path::new(HEADERS).join("xen.h").exists(),
        "\n\nXen's public headers are missing from {HEADERS}: install Debian's libxen-dev\n\
         (apt-get install libxen-dev), or the xen-devel of your distribution.\n"
    );
    let output = Command::new("cc").args(args).output().unwrap_or_else(|e| {
        panic!("\n\nno C compiler: cannot run `cc` ({e}): install gcc (apt-get install gcc libc6-dev)\n")
    });
    assert!(
        output.status.success(),
        "\n\ncc {} failed:\n{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Compiles and runs a program whose `main` is `body`, and returns its lines.
pub fn run(name: &str, body: &str) -> Vec<String> {
    let place = workplace(name);
    let source = place.join("oracle.c");
    let program = place.join("oracle");
    std::fs::write(&source, format!("{PROLOGUE}\nint main(void)\n{{\n{body}\nreturn 0;\n}}\n")).unwrap();
    cc(&["-O0", "-w", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
