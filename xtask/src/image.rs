//! `cargo xtask image`: a GPT disk that boots on PC firmware, by BIOS and by UEFI, without root or loop
//! devices.
//!
//! | partition | holds |
//! | --- | --- |
//! | 1 `bios` | GRUB's core for BIOS |
//! | 2 `efi` | FAT: GRUB for UEFI, its menu, the hypervisor, dom0 and the ramdisk |
//! | 3… | the guests' volumes, by their names |
//!
//! Both GRUBs carry all their modules and read the same menu, `/grub/grub.cfg` in partition 2.

mod gpt;
mod grub;
pub mod initramfs;
pub mod linux;
mod volumes;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use self::volumes::Source;
use crate::build::{self, Built, ramdisk};
use crate::setup;
use crate::steps::Step;
use crate::{cmd, paths};

/// The partitions that are no volumes.
const RESERVED: [&str; 2] = ["bios", "efi"];
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
    /// Put a file into dom0's ramdisk, for its `xl`: e.g. /boot/vmlinuz=FILE or /etc/xen/debian.cfg=FILE
    #[arg(long = "file", value_name = "PATH=FILE", value_parser = ramdisk::Added::parse)]
    pub files: Vec<ramdisk::Added>,
    /// Bring Debian's Linux as a guest: `xl create -c debian.cfg` in dom0's shell; root, without a password
    #[arg(long)]
    pub linux: bool,
    /// Add a volume for guests with a file's content, or an empty one of a size like 2G; an xl.cfg has it by
    /// disk = [ 'phy:NAME,xvda,w' ]
    #[arg(long = "volume", value_name = "NAME=FILE|SIZE", value_parser = volumes::Added::parse)]
    pub volumes: Vec<volumes::Added>,
}

impl Default for Content {
    fn default() -> Self {
        let (hypervisor_args, dom0_args) = (HYPERVISOR_ARGS.into(), DOM0_ARGS.into());
        let (files, volumes) = (Vec::new(), Vec::new());
        Self {
            site: None,
            hypervisor: None,
            dom0: None,
            hypervisor_args,
            dom0_args,
            files,
            volumes,
            linux: false,
        }
    }
}

impl Content {
    /// Whether this can be an image's content, before anything is built for it. Linux's files and volume are among
    /// the others then; a user's file for the same path counts.
    pub fn resolve(&mut self) -> Result<()> {
        for (n, added) in self.files.iter().enumerate() {
            if self.files[..n].iter().any(|other| other.path == added.path) {
                bail!("--file /{}: there are two files for this path", added.path);
            }
        }
        if self.linux {
            self.files.splice(0..0, linux::files());
            self.volumes.insert(0, linux::volume());
        }
        volumes::all(self).map(drop)
    }

    /// Builds what goes into the image. dom0 gets memory for what is added, but where the user said how much.
    pub fn build(&mut self) -> Result<Built> {
        if self.linux {
            linux::make()?;
        }
        let built = build::with(self.hypervisor.as_deref(), self.dom0.as_deref(), &self.files)?;
        if self.hypervisor_args == HYPERVISOR_ARGS {
            let usual = format!("dom0_mem={DOM0_MIB}M");
            let more = format!("dom0_mem={}M", DOM0_MIB + built.added_mib);
            self.hypervisor_args = HYPERVISOR_ARGS.replace(&usual, &more);
        }
        Ok(built)
    }
}

/// The hypervisor's command line: the first serial port is its console, and the screen shows the same.
pub const HYPERVISOR_ARGS: &str = "console=com1,vga com1=115200 vga=keep dom0_mem=128M";
/// dom0's memory in MiB without files that a user adds, as in [`HYPERVISOR_ARGS`].
pub const DOM0_MIB: u64 = 128;
/// dom0's command line.
pub const DOM0_ARGS: &str = "ip=10.0.2.10/24 gw=10.0.2.2";

/// Runs `cargo xtask image`.
pub fn command(args: &Args) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| paths::out().join("oxen.img"));
    is_replaceable(&output)?;
    let mut content = args.content.clone();
    content.resolve()?;
    setup::ensure(setup::For::Image)?;
    let built = content.build()?;
    write(&output, &built, &content, false)?;
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
/// with `keep` its volumes go from it into the new one, all but `web`'s, whose files are always as they are in
/// their folder.
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

/// Writes the image to `draft` and gives its size. The volumes are those of the image `kept`.
fn fill(step: &Step, draft: &Path, built: &Built, content: &Content, kept: Option<&Path>) -> Result<u64> {
    let efi_files = [("oxen", &built.hypervisor), ("dom0", &built.dom0), ("dom0.tar", &built.ramdisk)];
    let mut efi_size = EFI_ROOM;
    for (_, file) in efi_files {
        efi_size += std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
    }

    let mut volumes = volumes::all(content)?;
    let kept = kept.map(gpt::Volumes::open).transpose()?;
    if let Some(kept) = &kept {
        volumes::keep(&mut volumes, &kept.list)?;
    }
    let mut disk = gpt::Disk::default();
    let bios = disk.add(RESERVED[0], gpt::BIOS_BOOT, ALIGNMENT)?;
    let efi = disk.add(RESERVED[1], gpt::EFI_SYSTEM, efi_size)?;
    let mut places = Vec::new();
    for volume in &volumes {
        places.push(disk.add(&volume.name, gpt::LINUX_DATA, volume.size)?);
    }

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
    // ours has no use for a screen
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

    for (place, volume) in places.into_iter().zip(&volumes) {
        step.detail(&format!("volume {}", volume.name));
        let offset = disk.offset(place);
        match &volume.source {
            Source::Empty => {}
            Source::Folder(folder) => {
                let made = work.join(format!("{}.ext4", volume.name));
                volumes::make(&volume.name, volume.size, folder, &made)?;
                copy_file(&made, &file, offset, volume.size)?;
            }
            Source::File(from) => copy_file(from, &file, offset, volume.size)?,
            Source::Kept(place) => {
                let old = kept.as_ref().context("nothing is kept")?;
                copy_sparse(&old.file, place.offset, place.size, &file, offset)?;
            }
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
    let add = |volume: &Volume| disk.add(volume.name, gpt::LINUX_DATA, volume.size);
    let places: Vec<gpt::Index> = volumes.iter().map(add).collect::<Result<_>>()?;
    let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    file.set_len(disk.size())?;
    disk.write_tables(&file, &[0; 512])?;
    for (place, volume) in places.into_iter().zip(volumes) {
        if let Some(content) = &volume.content {
            copy_file(content, &file, disk.offset(place), volume.size)?;
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

/// Copies the file `from`, which must not have become larger than `room`, to `offset` of `to`.
fn copy_file(from: &Path, to: &File, offset: u64, room: u64) -> Result<()> {
    let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let len = file.metadata()?.len();
    if len > room {
        bail!("{} grows while it is copied", from.display());
    }
    copy_sparse(&file, 0, len, to, offset).with_context(|| format!("cannot copy {}", from.display()))
}

/// Copies `len` bytes at `from_offset` of `from` to `to_offset` of `to`, leaving holes for holes and for zeros.
fn copy_sparse(from: &File, from_offset: u64, len: u64, to: &File, to_offset: u64) -> Result<()> {
    const CHUNK: u64 = 64 << 10;
    let mut chunk = vec![0; CHUNK as usize];
    let mut at = 0;
    while at < len {
        match rustix::fs::seek(from, SeekFrom::Data(from_offset + at)) {
            // the chunk with the first data
            Ok(data) => at = at.max((data - from_offset) / CHUNK * CHUNK),
            // nothing but a hole is left
            Err(Errno::NXIO) => break,
            // a file system that cannot tell
            Err(_) => {}
        }
        if at >= len {
            break;
        }
        let chunk = &mut chunk[..CHUNK.min(len - at) as usize];
        from.read_exact_at(chunk, from_offset + at)?;
        if chunk.iter().any(|&b| b != 0) {
            to.write_all_at(chunk, to_offset + at)?;
        }
        at += CHUNK;
    }
    Ok(())
}
