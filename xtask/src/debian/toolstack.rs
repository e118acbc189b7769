//! A minimal Debian for dom0, as an initramfs: Debian's own toolstack for Xen with the libraries and scripts that it
//! needs, and modules of Debian's kernel. Its first process is the caller's (see `image::initramfs`).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::linux::Linux;
use super::{kept, package};
use crate::cmd;
use crate::image::initramfs::{Archive, Node};

/// The packages whose files are taken.
const PACKAGES: &[&str] = &[
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "libxenmisc4.17",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "liblzma5",
    "libzstd1",
    "libuuid1",
    "libext2fs2",
    "libcom-err2",
    "zlib1g",
    "libc6",
    "libgcc-s1",
    "libncurses6",
    // what the scripts of xen-utils-common run
    "bash",
    "libtinfo6",
    "util-linux",
    "iproute2",
    "libbpf1",
    "libbsd0",
    "libcap2",
    "libelf1",
    "libmd0",
    "libmnl0",
];

/// The files to take. What ends in `/` or `-` stands for all that begin so.
const FILES: &[&str] = &[
    "bin/bash",
    "bin/ip",
    "etc/xen/",
    "lib64/",
    "usr/bin/flock",
    "usr/bin/xenstore-",
    "usr/lib/xen-4.17/bin/libxl-save-helper",
    "usr/lib/xen-4.17/bin/lsevtchn",
    "usr/lib/xen-4.17/bin/readnotes",
    "usr/lib/xen-4.17/bin/xen-",
    "usr/lib/xen-4.17/bin/xenconsole",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xencov",
    "usr/lib/xen-4.17/bin/xenlockprof",
    "usr/lib/xen-4.17/bin/xenperf",
    "usr/lib/xen-4.17/bin/xenpm",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xentop",
    "usr/lib/xen-4.17/bin/xl",
];
/// Folders whose shared libraries are taken.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu/", "usr/lib/x86_64-linux-gnu/"];

/// What dom0's first process begins with: a shell with the usual folders, the modules, the bridge `xenbr0` to the first
/// network card with dom0's address 10.0.2.10, and the toolstack's daemons. It tells on the way what dom0 may do.
pub const START: &str = r#"export PATH=/usr/lib/xen-4.17/bin:/usr/bin:/bin
mkdir -p /proc /sys /dev /tmp /run/xen /run/lock /root /sbin /usr/sbin /var/log/xen /var/lib/xen /var/lock
/bin/busybox --install -s /bin
ln -s /run /var/run
ln -s /bin/busybox /bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
while read module; do insmod $module; done < /etc/modules
mount -t xenfs xenfs /proc/xen
echo "capabilities: $(cat /proc/xen/capabilities)"
ip link set lo up
ip link add xenbr0 type bridge
ip link set eth0 master xenbr0
ip link set eth0 up
ip link set xenbr0 up
ip addr add 10.0.2.10/24 dev xenbr0
xenstored --pid-file=/run/xenstored.pid
xen-init-dom0
xenconsoled --pid-file=/run/xenconsoled.pid
"#;

/// The kernel's modules to take, with those that they need.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "ahci",
    "sd_mod",
    "e1000",
    "loop",
    "brd",
    "bridge",
    "xen_evtchn",
    "xen_gntdev",
    "xen_gntalloc",
    "xen_privcmd",
    "xenfs",
    "xen_blkback",
    "xen_netback",
];

/// The toolstack and what it needs, as an archive.
pub fn userland() -> Result<PathBuf> {
    kept(&format!("xl-{:x}.cpio", digest(&(PACKAGES, FILES))), |work| {
        let tree = work.join("tree");
        for name in PACKAGES {
            package(name, work, &tree)?;
        }
        let mut archive = Archive::default();
        add(&mut archive, &tree, &tree, &|path| {
            let named = |file: &str| path == file || file.ends_with(['/', '-']) && path.starts_with(file);
            let library = |file: &str| file.contains(".so") && !file.contains('/');
            FILES.iter().any(|file| named(file))
                || LIBRARIES.iter().any(|folder| path.strip_prefix(folder).is_some_and(library))
        })?;
        Ok(archive.end())
    })
}

/// What tells an archive in the cache from one of other contents.
fn digest(contents: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

/// The kernel's modules, and the list `/etc/modules` of them in the order in which they are loaded, as an archive.
pub fn modules() -> Result<PathBuf> {
    kept(&format!("modules-{:x}.cpio", digest(&MODULES)), |work| {
        let tree = work.join("tree");
        Linux::Generic.all_modules(&tree)?;
        archive_of_modules(&tree)
    })
}

/// [`modules`] of an unpacked package.
fn archive_of_modules(tree: &Path) -> Result<Vec<u8>> {
    let mut all = BTreeMap::new();
    find_modules(&tree.join("lib/modules"), &mut all)?;
    let mut order = Vec::new();
    for name in MODULES {
        depend(name, &all, &mut order)?;
    }
    let mut archive = Archive::default();
    for folder in ["lib", "lib/modules", "etc"] {
        archive.add(folder, Node::Directory);
    }
    let mut list = String::new();
    for (name, data) in &order {
        archive.add(&format!("lib/modules/{name}.ko"), Node::File(data));
        list += &format!("/lib/modules/{name}.ko\n");
    }
    archive.add("etc/modules", Node::File(list.as_bytes()));
    Ok(archive.end())
}

fn find_modules(dir: &Path, all: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_modules(&path, all)?;
        } else if let Some(name) = entry.file_name().to_string_lossy().strip_suffix(".ko") {
            all.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Adds a module behind those that it depends on (the word `depends` of its section .modinfo). One that is no file is part
/// of the kernel.
fn depend(name: &str, all: &BTreeMap<String, PathBuf>, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(file) = all.get(name).filter(|_| !order.iter().any(|(known, _)| known == name)) else {
        return Ok(());
    };
    let data = cmd::read(file)?;
    const DEPENDS: &[u8] = b"\0depends=";
    let at = data
        .windows(DEPENDS.len())
        .position(|bytes| bytes == DEPENDS)
        .context("a module without .modinfo")?;
    let list = data[at + DEPENDS.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    for needed in String::from_utf8_lossy(list).split(',').filter(|name| !name.is_empty()) {
        depend(&needed.replace('-', "_"), all, order)?;
    }
    order.push((name.to_string(), data));
    Ok(())
}

/// Adds what is `wanted` under `dir`, and the folders that it is in.
fn add(archive: &mut Archive, root: &Path, dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        if kind.is_dir() {
            add(archive, root, &path, wanted)?;
            continue;
        }
        if !wanted(&name) {
            continue;
        }
        for (slash, _) in name.match_indices('/') {
            archive.add(&name[..slash], Node::Directory);
        }
        if kind.is_symlink() {
            archive.add(&name, Node::Link(&std::fs::read_link(&path)?.to_string_lossy()));
        } else {
            archive.add(&name, Node::File(&cmd::read(&path)?));
        }
    }
    Ok(())
}
