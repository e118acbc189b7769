//! `xen_version`: what this is. The interface is Xen 4.17's; `extraversion` says who implements it.

use crate::domain::Current;
use crate::error::HcResult;
use hv_machine::guest_mem;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::HYPERVISOR_VIRT_START;
use shared_abi::errno::Errno;
use shared_abi::features::*;
use shared_abi::version::*;

/// The interface's version.
pub const VERSION: u64 = 4 << 16 | 17;

fn text<const N: usize>(s: &str) -> [u8; N] {
    let mut out = [0; N];
    let n = s.len().min(N - 1);
    out[..n].copy_from_slice(&s.as_bytes()[..n]);
    out
}

/// What the guest may rely on (features.h), first word.
fn features(cur: &Current<'_>) -> u32 {
    let mut f = 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
        | 1 << XENFEAT_HIGHMEM_ASSIST
        | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS
        | 1 << XENFEAT_DIRECT_MAPPED;
    if cur.dom.assists.load(core::sync::atomic::Ordering::Relaxed)
        & 1 << shared_abi::xen::VMASST_TYPE_PAE_EXTENDED_CR3
        != 0
    {
        f |= 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB;
    }
    if cur.dom.control {
        f |= 1 << XENFEAT_DOM0;
    }
    f
}

/// `xen_version(cmd, buffer)`.
#[inline]
pub fn xen_version(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    // Kernels ask for the version alone to be interrupted by a pending event: it is the null hypercall.
    if a[0] as u32 == XENVER_VERSION { Ok(VERSION) } else { with_buffer(cur, a) }
}

#[inline(never)]
fn with_buffer(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let to = GuestAddr(a[1]);
    match a[0] as u32 {
        XENVER_EXTRAVERSION => {
            guest_mem::write(to, &text::<XEN_EXTRAVERSION_LEN>(".0-oxen"))?;
            Ok(0)
        }
        XENVER_COMPILE_INFO => {
            let info = CompileInfo {
                compiler: text("rustc"),
                compile_by: text("oxen"),
                compile_domain: text(""),
                compile_date: text(""),
            };
            guest_mem::write(to, &info)?;
            Ok(0)
        }
        XENVER_CAPABILITIES => {
            guest_mem::write(to, &text::<XEN_CAPABILITIES_INFO_LEN>("xen-3.0-x86_64 "))?;
            Ok(0)
        }
        XENVER_CHANGESET => {
            guest_mem::write(to, &text::<XEN_CHANGESET_INFO_LEN>(env!("CARGO_PKG_VERSION")))?;
            Ok(0)
        }
        XENVER_PLATFORM_PARAMETERS => {
            guest_mem::write(to, &PlatformParameters { virt_start: HYPERVISOR_VIRT_START })?;
            Ok(0)
        }
        XENVER_GET_FEATURES => {
            let mut f: FeatureInfo = guest_mem::read(to)?;
            f.submap = match f.submap_idx {
                0 => features(cur),
                _ => return Err(Errno::EINVAL.into()),
            };
            guest_mem::write(to, &f)?;
            Ok(0)
        }
        XENVER_PAGESIZE if to.0 == 0 => Ok(4096),
        XENVER_PAGESIZE => Err(Errno::EINVAL.into()),
        XENVER_GUEST_HANDLE => {
            let handle = *cur.dom.handle.lock();
            guest_mem::write(to, &handle)?;
            Ok(0)
        }
        XENVER_COMMANDLINE if cur.dom.control => {
            guest_mem::write(
                to,
                &text::<XEN_COMMANDLINE_LEN>(crate::run::BOOT.get().map_or("", |b| &b.cmdline)),
            )?;
            Ok(0)
        }
        XENVER_COMMANDLINE => Err(Errno::EPERM.into()),
        XENVER_BUILD_ID => Err(Errno::ENODATA.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}
