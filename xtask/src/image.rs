//! `cargo xtask image`: a GPT disk that boots on PC firmware, by BIOS and by UEFI, without root or loop
//! devices.
//!
//! | partition | holds |
//! | --- | --- |
//! | 1 `bios` | GRUB's core for BIOS |
//! | 2 `efi` | FAT: GRUB for UEFI, its menu, the hypervisor, dom0 and the ramdisk |
//! | 3… | one volume per guest, by its name |
//!
//! Both GRUBs carry all their modules and read the same menu, `/grub/grub.cfg` in partition 2.

mod gpt;
mod grub;
mod volumes;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{self, Built};
use crate::setup;
use crate::steps::Step;
use crate::{cmd, paths};

/// Bytes of a disk sector.
const SECTOR: u64 = 512;
/// Partitions begin at multiples of this many bytes.
const ALIGNMENT: u64 = 1 << 20;
/// The EFI system partition's size without its files: the smallest for which FAT32 is safe.
const EFI_ROOM: u64 = 64 << 20;

/// Arguments of `image`.
#[derive(clap::Args)]
pub struct Args {
    /// The file to write [default: target/oxen/oxen.img of the tree]
    #[arg(short, long, value_name = "FILE", value_parser = paths::typed)]
    output: Option<PathBuf>,
    #[command(flatten)]
    content: Content,
}

/// What goes into an image besides what this tree builds by itself.
#[derive(clap::Args, Clone)]
pub struct Content {
    /// The folder that the `web` guest serves
    #[arg(long, value_name = "DIR", value_parser = paths::folder)]
    pub site: Option<PathBuf>,
    /// Boot this hypervisor (Multiboot 2) instead of ours, e.g. Debian's Xen
    #[arg(long, value_name = "FILE", value_parser = paths::file)]
    pub hypervisor: Option<PathBuf>,
    /// Boot this kernel as dom0 instead of ours
    #[arg(long, value_name = "FILE", value_parser = paths::file)]
    pub dom0: Option<PathBuf>,
    /// Give the hypervisor this command line
    #[arg(long, value_name = "ARGS", default_value = HYPERVISOR_ARGS, hide_default_value = true)]
    pub hypervisor_args: String,
    /// Give dom0 this command line
    #[arg(long, value_name = "ARGS", default_value = DOM0_ARGS, hide_default_value = true)]
    pub dom0_args: String,
}

impl Default for Content {
    fn default() -> Self {
        let (hypervisor_args, dom0_args) = (HYPERVISOR_ARGS.into(), DOM0_ARGS.into());
        Self { site: None, hypervisor: None, dom0: None, hypervisor_args, dom0_args }
    }
}

/// The hypervisor's command line: the first serial port is its console.
pub const HYPERVISOR_ARGS: &str = "console=com1 com1=115200 dom0_mem=128M";
/// dom0's command line.
pub const DOM0_ARGS: &str = "ip=10.0.2.10/24 gw=10.0.2.2";

/// Runs `cargo xtask image`.
pub fn command(args: &Args) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| paths::out().join("oxen.img"));
    is_replaceable(&output)?;
    setup::ensure(setup::For::Image)?;
    let built = build::with(args.content.hypervisor.as_deref(), args.content.dom0.as_deref())?;
    write(&output, &built, &args.content, false)?;
    Ok(ExitCode::SUCCESS)
}

/// The image is written beside `output` and then takes its place: that must not be a device's.
fn is_replaceable(output: &Path) -> Result<()> {
    match std::fs::metadata(output) {
        Ok(there) if !there.is_file() => {
            bail!("{} is no plain file: write an image to one, then copy it with dd", output.display())
        }
        _ => Ok(()),
    }
}

/// Writes a disk image of `built` to `output`. An image that is there is replaced at the end, in one go;
/// with `keep` the volumes that guests write to go from it into the new one. What a volume holds from
/// the start, `web`'s files, is always as it is in the tree.
pub fn write(output: &Path, built: &Built, content: &Content, keep: bool) -> Result<()> {
    let step = Step::new(&format!("writing {}", output.display()));
    let mut name = output.as_os_str().to_owned();
    name.push(".draft");
    let draft = PathBuf::from(name);
    let kept = keep.then_some(output).filter(|output| output.exists());
    let size = fill(&step, &draft, built, content, kept)
        .inspect_err(|_| drop(std::fs::remove_file(&draft)))
        .with_context(|| format!("cannot write {}", output.display()))?;
    std::fs::rename(&draft, output).with_context(|| format!("cannot write {}", output.display()))?;
    step.done(&format!("{} MiB", size >> 20));
    Ok(())
}

/// Writes the image to `draft` and gives its size. The volumes that guests write to are those of the
/// image `kept`.
fn fill(step: &Step, draft: &Path, built: &Built, content: &Content, kept: Option<&Path>) -> Result<u64> {
    let efi_files = [("oxen", &built.hypervisor), ("dom0", &built.dom0), ("dom0.tar", &built.ramdisk)];
    let mut efi_size = EFI_ROOM;
    for (_, file) in efi_files {
        efi_size += std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
    }

    let mut disk = gpt::Disk::default();
    let bios = disk.add("bios", gpt::BIOS_BOOT, ALIGNMENT);
    let efi = disk.add("efi", gpt::EFI_SYSTEM, efi_size);
    let mut filled = Vec::new();
    for volume in volumes::all(content.site.as_deref())? {
        filled.push((disk.add(volume.name, gpt::LINUX_DATA, volume.size), volume));
    }

    let kept = kept.map(gpt::Volumes::open).transpose()?;
    if let Some(dir) = draft.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(draft)
        .with_context(|| format!("cannot write {}", draft.display()))?;
    file.set_len(disk.size())?;

    step.detail("GRUB");
    let work = paths::out().join("image");
    std::fs::create_dir_all(&work)?;
    let (mbr, core) = grub::for_bios(&work, disk.first_lba(bios))?;
    disk.write_tables(&file, &mbr)?;
    file.write_all_at(&core, disk.offset(bios))?;

    step.detail("EFI system partition");
    let menu = work.join("grub.cfg");
    cmd::write(&menu, grub::menu(&content.hypervisor_args, &content.dom0_args).as_bytes())?;
    let loader = grub::for_uefi(&work)?;
    let fat = Fat { image: format!("{}@@{}", draft.display(), disk.offset(efi)) };
    fat.format(disk.sectors(efi))?;
    fat.make_dirs(&["EFI", "EFI/BOOT", "grub"])?;
    fat.copy(&loader, "EFI/BOOT/BOOTX64.EFI")?;
    fat.copy(&menu, "grub/grub.cfg")?;
    for (name, file) in efi_files {
        fat.copy(file, name)?;
    }

    for (partition, volume) in &filled {
        step.detail(&format!("volume {}", volume.name));
        let offset = disk.offset(*partition);
        if let Some(image) = volume.make(&work)? {
            copy_sparse(&File::open(&image)?, 0, volume.size, &file, offset)?;
        } else if let Some(old) = &kept {
            let (from, size) = old.find(volume.name, volume.size)?;
            copy_sparse(&old.file, from, size, &file, offset)?;
        }
    }
    file.sync_all()?;
    Ok(disk.size())
}

/// A volume of a disk that [`write_volumes`] writes.
pub struct Volume {
    /// Its name.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// A file with what it holds at first.
    pub content: Option<PathBuf>,
}

/// Writes a disk that nothing boots from: `volumes` alone.
pub fn write_volumes(output: &Path, volumes: &[Volume]) -> Result<()> {
    let mut disk = gpt::Disk::default();
    let places: Vec<gpt::Index> =
        volumes.iter().map(|volume| disk.add(volume.name, gpt::LINUX_DATA, volume.size)).collect();
    let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    file.set_len(disk.size())?;
    disk.write_tables(&file, &[0; 512])?;
    for (place, volume) in places.into_iter().zip(volumes) {
        if let Some(content) = &volume.content {
            copy_sparse(&File::open(content)?, 0, volume.size, &file, disk.offset(place))?;
        }
    }
    Ok(())
}

/// A FAT file system inside an image, handled by mtools.
struct Fat {
    image: String,
}

impl Fat {
    fn tool(&self, name: &str) -> Command {
        let mut command = cmd::program(name);
        // the volume's odd size is not a floppy's: mtools must not refuse it
        command.env("MTOOLS_SKIP_CHECK", "1").args(["-i", &self.image]);
        command
    }

    fn format(&self, sectors: u64) -> Result<()> {
        let geometry = ["-F", "-h", "255", "-s", "63", "-N", "4f58454e", "-v", "OXEN", "-T"];
        cmd::run(self.tool("mformat").args(geometry).arg(sectors.to_string()).arg("::"))
    }

    fn make_dirs(&self, dirs: &[&str]) -> Result<()> {
        cmd::run(self.tool("mmd").args(dirs.iter().map(|dir| format!("::/{dir}"))))
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        cmd::run(self.tool("mcopy").arg(from).arg(format!("::/{to}")))
    }
}

/// Copies `len` bytes at `from_offset` of `from` to `to_offset` of `to`, leaving holes for zeros.
fn copy_sparse(from: &File, from_offset: u64, len: u64, to: &File, to_offset: u64) -> Result<()> {
    const CHUNK: u64 = 64 << 10;
    let mut chunk = vec![0; CHUNK as usize];
    for at in (0..len).step_by(CHUNK as usize) {
        let chunk = &mut chunk[..CHUNK.min(len - at) as usize];
        from.read_exact_at(chunk, from_offset + at)?;
        if chunk.iter().any(|&b| b != 0) {
            to.write_all_at(chunk, to_offset + at)?;
        }
    }
    Ok(())
}
