//! Unpacking kernels beside everything else that dom0 does.
//!
//! It takes seconds, for which no guest is to wait for its backends or for xenstored: so it goes piece by piece,
//! and every other task has its turn after each. One kernel at a time: dom0 has memory for no more.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bzimage::{Error, Kernel};
use core::cell::Cell;
use core::ops::Deref;
use guest_kernel::executor::yield_now;
use guest_kernel::log::info;
use guest_kernel::wait::Line;

/// What must be left for all other tasks meanwhile, in bytes.
const SPARE: usize = 8 << 20;

/// Who has the memory to unpack a kernel.
#[derive(Default)]
pub(super) struct Unpacker {
    line: Line,
    taken: Cell<bool>,
}

struct Turn<'a>(&'a Unpacker);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.line.wake();
    }
}

/// An ELF file. One that was packed keeps others from being unpacked until it is dropped.
pub(super) struct Elf<'a> {
    // Dropped in this order: the memory is given back before the next one's turn.
    file: Cow<'a, [u8]>,
    turn: Option<Turn<'a>>,
}

impl Elf<'_> {
    /// Whether it was packed, so that other tasks have run meanwhile.
    pub fn was_packed(&self) -> bool {
        self.turn.is_some()
    }
}

impl Deref for Elf<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.file
    }
}

impl Unpacker {
    /// The ELF file in `file`, which is called `name`.
    pub async fn unpack<'a>(&'a self, name: &str, file: &'a [u8]) -> Result<Elf<'a>, String> {
        let told = |error| format!("{name}: {error}");
        let packed = match bzimage::open(file).map_err(told)? {
            Kernel::Elf(elf) => return Ok(Elf { file: Cow::Borrowed(elf), turn: None }),
            Kernel::Packed(packed) => packed,
        };
        let turn = self.line.wait(|| (!self.taken.replace(true)).then(|| Turn(self))).await;
        let mut unpacking = packed.begin().map_err(told)?;
        let mut spare = Vec::<u8>::new();
        let left = spare.try_reserve_exact(SPARE);
        // What is not used might not be allocated at all.
        drop(core::hint::black_box(spare));
        left.map_err(|_| told(Error::Memory(packed.size() + SPARE)))?;

        info!("{name}: unpacking {} KiB", packed.size() >> 10);
        let elf = loop {
            if let Some(elf) = unpacking.step().map_err(told)? {
                break elf;
            }
            yield_now().await;
        };
        info!("{name}: unpacked");
        Ok(Elf { file: Cow::Owned(elf), turn: Some(turn) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::RefCell;
    use guest_kernel::executor::{block_on, spawn};

    /// A bzImage of `long`, packed by LZ4 with a block for each 100 bytes: literals, as its block format has them.
    fn bzimage(long: &[u8]) -> Vec<u8> {
        let mut payload = Vec::from([0x02, 0x21, 0x4c, 0x18]);
        for part in long.chunks(100) {
            payload.extend((part.len() as u32 + 2).to_le_bytes());
            payload.extend([0xf0, part.len() as u8 - 15]);
            payload.extend(part);
        }
        payload.extend((long.len() as u32).to_le_bytes());
        let mut file = alloc::vec![0; 1024];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend(payload);
        file
    }

    #[test]
    fn others_run_between_the_pieces_and_one_kernel_waits_for_the_other() {
        block_on(async {
            let (unpacker, order) = (Rc::new(Unpacker::default()), Rc::new(RefCell::new(Vec::new())));
            let tasks: Vec<_> = (0..2)
                .map(|task| {
                    let (unpacker, order) = (unpacker.clone(), order.clone());
                    spawn(async move {
                        let long = [task; 5000];
                        let file = bzimage(&long);
                        let elf = unpacker.unpack("k", &file).await.unwrap();
                        assert!(elf.was_packed() && elf[..] == long);
                        order.borrow_mut().push(task);
                        yield_now().await;
                        order.borrow_mut().push(task);
                    })
                })
                .collect();
            let mut turns = 0;
            while !tasks.iter().all(|task| task.is_finished()) {
                turns += 1;
                yield_now().await;
            }
            assert!(turns >= 100, "{turns}");
            assert_eq!(*order.borrow(), [0, 0, 1, 1]);
        });
    }

    #[test]
    fn a_damaged_kernel_is_one_error_and_keeps_nobody_waiting() {
        block_on(async {
            let unpacker = Unpacker::default();
            let mut file = bzimage(&[7; 1000]);
            let at = file.len() - 300;
            file[at..].fill(0xff);
            file.extend(1000u32.to_le_bytes());
            let end = file.len() - 1024;
            file[0x24c..0x250].copy_from_slice(&(end as u32).to_le_bytes());
            let error = unpacker.unpack("/boot/k", &file).await.err();
            assert_eq!(error.as_deref(), Some("/boot/k: broken lz4 payload"));
            assert!(unpacker.unpack("k", &bzimage(&[7; 1000])).await.is_ok());
            assert!(unpacker.unpack("k", b"\x7fELF").await.is_ok_and(|elf| !elf.was_packed()));
        });
    }
}
