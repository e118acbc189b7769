//! Stores to page tables that are mapped read-only: the hypervisor carries them out, or the guest has its
//! page fault.

use super::{entry, trapped};
use crate::answer;
use crate::paging::pool::{DATA, Pool, READ_ONLY};
use crate::paging::shown;
use crate::raw::peek;

const PRESENT: u64 = 1;
const USER: u64 = 4;

/// Every question about them.
pub fn ask() {
    let Some(pool) = Pool::new("stores") else { return };
    for level in 1..=4 {
        let table = pool.address(level as usize - 1) as u64;
        for bit in (0..12).chain(40..64) {
            run!("mov [rcx], rax" ; pool.child(level) ^ 1 << bit, table + 64, 0);
            told(format_args!("store to L{level}, bit {bit}"), table + 64);
            run!("mov [rcx], rax" ; 0, table + 64, 0);
        }
    }
    let data = pool.frame(DATA);
    for (name, frame) in
        [("itself", pool.table(1)), ("data", data), ("frame 0", 0), ("VGA", 0xa0), ("no frame", 1 << 28)]
    {
        for flags in [PRESENT | USER, PRESENT | USER | 2] {
            let table = pool.address(0) as u64;
            run!("mov [rcx], rax" ; (frame << 12) | flags, table + 64, 0);
            told(format_args!("store of {name} {flags}"), table + 64);
            run!("mov [rcx], rax" ; 0, table + 64, 0);
        }
    }
    let read_only = pool.address(READ_ONLY) as u64;
    run!("mov [rcx], rax" ; 5, read_only, 0);
    told(format_args!("store to read-only data"), read_only);
    instructions(pool.address(0) as u64 + 64, pool.child(1));
    pool.end();
}

/// What came of the last store: a trap or not, and the word then.
fn told(name: core::fmt::Arguments<'_>, at: u64) {
    answer(name, entry::note(0).cast_signed());
    if trapped().is_some() {
        answer(format_args!("  error code"), entry::note(1).cast_signed());
    }
    answer(format_args!("  stored"), shown(peek(at as usize)));
}

/// Every instruction that a kernel may use for it, but the FPU's: Xen 4.17 itself dies of one (it calls a
/// function that its emulator of page-table writes has not).
fn instructions(at: u64, good: u64) {
    macro_rules! store {
        ($name:literal, $($line:literal),+) => { store!([("empty", 0), ("full", good)], $name, $($line),+) };
        ($states:expr, $name:literal, $($line:literal),+) => {{
            for (state, before) in $states {
                run!("mov [rcx], rax" ; before, at, 0);
                // As it is stored: with the flags that the hypervisor adds.
                let before = peek(at as usize);
                let (rax, rcx, rdx) = run!($($line),+ ; good | 0x20, at, before);
                told(format_args!("{} to {state}", $name), at);
                answer(format_args!("  rax"), shown(rax));
                answer(format_args!("  rcx"), rcx.wrapping_sub(at).cast_signed());
                answer(format_args!("  rdx"), shown(rdx));
                run!("mov [rcx], rax" ; 0, at, 0);
            }
        }};
    }
    store!("mov 32", "mov [rcx], eax");
    store!("mov 16", "mov [rcx], ax");
    store!("mov 8", "mov [rcx], al");
    store!("mov high half", "mov eax, 0x80000000", "mov [rcx + 4], eax");
    store!("mov unaligned", "mov [rcx + 4], rax");
    store!("mov immediate", "mov qword ptr [rcx], 0");
    store!("movnti", "movnti [rcx], rax");
    store!("xchg", "xchg [rcx], rax");
    store!("xchg 32", "xchg [rcx], eax");
    store!("xadd", "mov edx, 0x20", "xadd [rcx], rdx");
    store!("lock xadd", "mov edx, 0x20", "lock xadd [rcx], rdx");
    store!("cmpxchg same", "xchg rax, rdx", "cmpxchg [rcx], rdx");
    store!("lock cmpxchg same", "xchg rax, rdx", "lock cmpxchg [rcx], rdx");
    store!("cmpxchg other", "mov rdx, 0", "cmpxchg [rcx], rdx");
    store!(
        "cmpxchg8b same",
        "mov rax, [rcx]",
        "mov rdx, rax",
        "shr rdx, 32",
        "mov rbx, rax",
        "mov rsi, rcx",
        "mov rcx, rdx",
        "lock cmpxchg8b [rsi]",
        "mov rcx, rsi"
    );
    store!(
        "cmpxchg8b other",
        "xor eax, eax",
        "mov edx, 1",
        "xor ebx, ebx",
        "mov rsi, rcx",
        "xor ecx, ecx",
        "lock cmpxchg8b [rsi]",
        "mov rcx, rsi"
    );
    store!("lock and", "lock and qword ptr [rcx], -3");
    store!("and 8", "and byte ptr [rcx], 0xfd");
    store!("or 8", "or byte ptr [rcx], 2");
    store!("or 32", "or dword ptr [rcx], 0x40");
    store!("btr", "lock btr qword ptr [rcx], 1");
    store!("bts", "lock bts qword ptr [rcx], 5");
    store!("btc", "lock btc qword ptr [rcx], 5");
    store!("bts far", "mov edx, 69", "sub rcx, 8", "bts [rcx], rdx", "add rcx, 8");
    store!("add", "add qword ptr [rcx], 0x20");
    store!("inc", "inc qword ptr [rcx]");
    store!("dec", "dec qword ptr [rcx]");
    store!("neg", "neg qword ptr [rcx]");
    store!("not", "not qword ptr [rcx]");
    // Not of a present entry: Xen keeps flags of its own there, which would come to light.
    let absent = [("empty", 0), ("absent", 0x1234_5678_9abc_dee0)];
    store!(absent, "shl", "shl qword ptr [rcx], 1");
    store!(absent, "sar", "sar qword ptr [rcx], 1");
    store!(absent, "rol", "rol qword ptr [rcx], 64");
    store!(absent, "rol 32", "rol dword ptr [rcx], 5");
    store!(absent, "ror 8", "ror byte ptr [rcx], 5");
    store!(absent, "rcl", "stc", "rcl qword ptr [rcx], 1");
    store!(absent, "rcr 16", "stc", "rcr word ptr [rcx], 3");
    store!(absent, "shr by cl", "mov rdi, rcx", "mov ecx, 5", "shr qword ptr [rdi], cl", "mov rcx, rdi");
    store!("setg", "setg byte ptr [rcx]");
    store!("pop 16", "sub rsp, 6", "push ax", "pop word ptr [rcx]", "add rsp, 6");
    store!("pop", "push rax", "pop qword ptr [rcx]");
    store!("sete", "sete byte ptr [rcx]");
    store!("stosq", "mov rdi, rcx", "stosq");
    store!(
        "rep stosq",
        "mov rdi, rcx",
        "mov rsi, rcx",
        "mov ecx, 3",
        "xor eax, eax",
        "rep stosq",
        "mov rcx, rsi"
    );
    store!("movsq", "mov rdi, rcx", "push rax", "mov rsi, rsp", "movsq", "pop rax");
    store!("sgdt", "sgdt [rcx]");
    store!("mov sreg", "mov [rcx], ds");
    store!("pop of zero", "push 0", "pop qword ptr [rcx]");
}
