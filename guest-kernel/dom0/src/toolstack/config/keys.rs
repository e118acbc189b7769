//! The names of `xl.cfg`'s keys: which of them this toolstack acts upon, and what becomes of the others.

use super::syntax::{ConfigError, Kind, Setting};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Keys that this toolstack acts upon.
pub(super) const KEYS: &[&str] = &[
    "name",
    "uuid",
    "type",
    "builder",
    "kernel",
    "ramdisk",
    "root",
    "extra",
    "cmdline",
    "memory",
    "maxmem",
    "vcpus",
    "maxvcpus",
    "cpus",
    "cpu_weight",
    "cap",
    "tsc_mode",
    "disk",
    "vif",
    "on_poweroff",
    "on_reboot",
    "on_crash",
];

/// Keys of `xl` that are accepted and have no effect here: most are about other types of guests.
const WITHOUT_EFFECT: &str = "
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic
    bios bios_path_override blkdev_start bootloader_args boot claim_mode console cpuid cpus_soft
    device_model_args device_model_args_hvm device_model_args_pv device_model_override
    device_model_stubdomain_override device_model_stubdomain_seclabel device_model_user device_model_version
    dm_restrict driver_domain e820_host firmware firmware_override gfx_passthru hap hdtype hpet init_seclabel
    keymap lmce localtime max_event_channels max_grant_frames max_grant_version max_maptrack_frames mca_caps
    mmio_hole ms_vm_genid msr_relaxed nestedhvm nodes nographic nomigrate nx on_soft_reset on_watchdog oos opengl
    pae passthrough pci_msitranslate pci_permissive pci_power_mgmt pci_seize pool poolid
    pvshim pvshim_cmdline pvshim_extra pvshim_path rdm_mem_boundary rtc_timeoffset
    sched sdl seclabel serial shadow_memory smbios_firmware soundhw spice spice_clipboard_sharing
    spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost spicepasswd
    spiceport spicetls_port spiceusbredirection spicevdagent stdvga
    stubdomain_cmdline stubdomain_kernel stubdomain_memory stubdomain_ramdisk
    tee timer_mode usb usbdevice usbversion vendor_device vfb vga videoram viridian vkb vkb_device vmtrace_buf_kb
    vnc vncdisplay vnclisten vncpasswd vncunused vpmu vpt_align vuart xauthority xen_platform_pci
    xend_suspend_evtchn_compat";

/// Keys of `xl` that ask for something that does not exist here; ignoring them would surprise.
const UNSUPPORTED: &[&str] = &[
    "bootloader",
    "channel",
    "device_tree",
    "dtdev",
    "ioports",
    "iomem",
    "irqs",
    "p9",
    "pci",
    "pvcalls",
    "pvusb",
    "rdm",
    "usbctrl",
    "usbdev",
    "vdispl",
    "virtio",
    "vnuma",
    "vsnd",
    "vtpm",
];

/// What the administrator should know about the keys, or the first that can't be.
pub(super) fn check(settings: &[Setting]) -> Result<Vec<String>, ConfigError> {
    let (mut warnings, mut idle) = (Vec::new(), Vec::new());
    for setting in settings {
        let (key, line) = (setting.key.as_str(), setting.at.line);
        if KEYS.contains(&key) {
            continue;
        }
        if WITHOUT_EFFECT.split_whitespace().any(|known| known == key) {
            idle.push(format!("\"{key}\" (line {line})"));
        } else if UNSUPPORTED.contains(&key) {
            if asks_for_nothing(&setting.value.kind) {
                continue;
            }
            let instead = match key {
                "bootloader" => {
                    "; \"kernel\" and \"ramdisk\" name dom0's files, a kernel may be GRUB for Xen"
                }
                _ => "",
            };
            return Err(ConfigError::new(setting.at, format!("\"{key}\" is not supported{instead}")));
        } else if let Some(near) = nearest(key, KEYS.iter().copied()) {
            let message = format!("unknown key \"{key}\"; did you mean \"{near}\"?");
            return Err(ConfigError::new(setting.at, message));
        } else {
            warnings.push(format!("line {line}: unknown key \"{key}\" is ignored"));
        }
    }
    if !idle.is_empty() {
        warnings.insert(0, format!("without effect here: {}", idle.join(", ")));
    }
    Ok(warnings)
}

/// An empty list or string, or 0.
fn asks_for_nothing(kind: &Kind) -> bool {
    match kind {
        Kind::Number(text) => text == "0",
        Kind::Text(text) => text.is_empty(),
        Kind::List(values) => values.is_empty(),
    }
}

/// The word that `word` is perhaps a misspelling of: at most half of its letters differ, and no more than two.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = 2.min(word.chars().count() / 2);
    known
        .map(|known| (distance(word, known), known))
        .min()
        .filter(|(far, _)| *far <= most)
        .map(|(_, near)| near)
}

/// How many letters have to be added, dropped or changed.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = core::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolstack::config::syntax;

    fn checked(text: &str) -> Result<Vec<String>, String> {
        check(&syntax::parse(text).unwrap()).map_err(|error| error.message)
    }

    #[test]
    fn old_and_foreign_keys_are_told_and_misspelt_ones_refused() {
        // what xen-tools and xend's users have in their files
        let warnings =
            checked("name='x'\nvnc=0\ndhcp='dhcp'\nip='10.0.0.2'\ndevice_model_version='qemu-xen'");
        let warnings = warnings.unwrap();
        assert_eq!(warnings[0], "without effect here: \"vnc\" (line 2), \"device_model_version\" (line 5)");
        assert_eq!(
            warnings[1..],
            ["line 3: unknown key \"dhcp\" is ignored", "line 4: unknown key \"ip\" is ignored"]
        );
        assert_eq!(checked("pci=[]\nbootloader=''\nvtpm=[]"), Ok(Vec::new()));
        assert!(checked("bootloader='pygrub'").unwrap_err().contains("GRUB for Xen"));
        for (key, meant) in [("memroy", "memory"), ("dsik", "disk"), ("vcpu", "vcpus"), ("vif2", "vif")] {
            let message = format!("unknown key \"{key}\"; did you mean \"{meant}\"?");
            assert_eq!(checked(&format!("{key}=1")), Err(message));
        }
    }

    #[test]
    fn each_key_is_in_one_list() {
        let mut all: Vec<&str> = WITHOUT_EFFECT.split_whitespace().collect();
        all.extend(KEYS.iter().chain(UNSUPPORTED));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
