//! `callback_op`, `set_callbacks`, `nmi_op`: where the guest's kernel is entered.

use crate::domain::{Current, vcpu::Callback};
use crate::error::HcResult;
use crate::trap::NMI;
use hv_machine::guest_mem;
use hv_machine::x86_64::cpu::is_canonical;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use shared_abi::callback::*;
use shared_abi::errno::Errno;
use shared_abi::nmi;

fn register(cur: &mut Current<'_>, kind: u16, address: u64, mask_events: bool) -> Result<(), Errno> {
    if !is_canonical(address) {
        return Err(Errno::EINVAL);
    }
    let c = Callback { address, mask_events };
    match kind {
        CALLBACKTYPE_EVENT => cur.cx.event = address,
        CALLBACKTYPE_FAILSAFE => cur.cx.failsafe = c,
        CALLBACKTYPE_SYSCALL => {
            cur.cx.syscall = c;
            cur.cx.arm_system_calls(cur.dom);
        }
        CALLBACKTYPE_SYSCALL32 => cur.cx.syscall32 = c,
        CALLBACKTYPE_SYSENTER => cur.cx.sysenter = c,
        // Another name for a gate of the trap table.
        CALLBACKTYPE_NMI => {
            let gate = TrapInfo { vector: NMI as u8, cs: FLAT_KERNEL_CS, address, ..TrapInfo::default() };
            cur.cx.traps[NMI] = gate;
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

/// `callback_op(cmd, arg)`.
pub fn callback_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    match a[0] as u32 {
        CALLBACKOP_REGISTER => {
            let r: CallbackRegister = guest_mem::read(GuestAddr(a[1]))?;
            register(cur, r.r#type, r.address, r.flags & CALLBACKF_MASK_EVENTS != 0)?;
            Ok(0)
        }
        CALLBACKOP_UNREGISTER => {
            let r: CallbackUnregister = guest_mem::read(GuestAddr(a[1]))?;
            match r.r#type {
                // A kernel can't do without these.
                CALLBACKTYPE_EVENT
                | CALLBACKTYPE_FAILSAFE
                | CALLBACKTYPE_SYSCALL
                | CALLBACKTYPE_SYSCALL32
                | CALLBACKTYPE_SYSENTER => Err(Errno::EINVAL.into()),
                CALLBACKTYPE_NMI => {
                    cur.cx.traps[NMI] = TrapInfo::default();
                    Ok(0)
                }
                _ => Err(Errno::ENOSYS.into()),
            }
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `set_callbacks(event, failsafe, syscall)`: the older form.
pub fn set_callbacks(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let kinds = [(CALLBACKTYPE_EVENT, true), (CALLBACKTYPE_FAILSAFE, false), (CALLBACKTYPE_SYSCALL, false)];
    for ((kind, mask_events), address) in kinds.into_iter().zip(*a) {
        // One that is refused stays as it was: this form has no error.
        let _ = register(cur, kind, address, mask_events);
    }
    Ok(0)
}

/// `nmi_op(cmd, arg)`: the older form for the NMI callback.
pub fn nmi_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    match a[0] as u32 {
        nmi::XENNMI_REGISTER_CALLBACK => {
            let c: nmi::XennmiCallback = guest_mem::read(GuestAddr(a[1]))?;
            if cur.vcpu.id != 0 {
                return Err(Errno::EINVAL.into());
            }
            register(cur, CALLBACKTYPE_NMI, c.handler_address, false)?;
            Ok(0)
        }
        nmi::XENNMI_UNREGISTER_CALLBACK => {
            cur.cx.traps[NMI] = TrapInfo::default();
            Ok(0)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}
