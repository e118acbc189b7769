//! A disk written all over by several tasks at once, each in its own part, and read back.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use guest_kernel::block::{BlockDevice, BlockError, SECTOR_SIZE};
use guest_kernel::executor::spawn;
use guest_kernel::front::blk::VirtualDisk;
use guest_kernel::println;
use guest_kernel::time::Instant;

const TASKS: u64 = 4;
/// Sectors of each task's part.
const PART: u64 = 1024;
const ROUNDS: u64 = 60;

/// Prints what came of it.
pub async fn exercise(disk: Rc<VirtualDisk>) {
    let geometry = disk.geometry();
    println!("disk: {geometry:?}");
    if geometry.sectors < TASKS * PART {
        return println!("disk: too small");
    }
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS).map(|task| spawn(part(disk.clone(), task))).collect();
    for task in tasks {
        match task.await {
            Some(Ok(())) => {}
            Some(Err(why)) => return println!("disk: {why}"),
            None => return println!("disk: a task was lost"),
        }
    }
    let beyond = disk.read(geometry.sectors, &mut [0; SECTOR_SIZE]).await;
    if beyond != Err(BlockError::OutOfRange) {
        return println!("disk: reading past its end gave {beyond:?}");
    }
    println!("disk: ok, {} transfers in {} us", TASKS * ROUNDS * 2, start.elapsed().as_micros());
}

async fn part(disk: Rc<VirtualDisk>, task: u64) -> Result<(), String> {
    let first = task * PART;
    let mut model = vec![0u8; PART as usize * SECTOR_SIZE];
    disk.write(first, &model).await.map_err(|e| format!("task {task}: clear: {e:?}"))?;
    // xorshift: which sectors, and what goes there.
    let mut state = 0x9e37_79b9 + task;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..ROUNDS {
        let from = next() % PART;
        let count = 1 + next() % (PART - from);
        let range = from as usize * SECTOR_SIZE..(from + count) as usize * SECTOR_SIZE;
        let filling = next().to_le_bytes();
        for (at, byte) in model[range.clone()].iter_mut().enumerate() {
            *byte = filling[at % 8].wrapping_add((at / SECTOR_SIZE) as u8);
        }
        disk.write(first + from, &model[range]).await.map_err(|e| format!("task {task}: write: {e:?}"))?;
        if round % 10 == 0 {
            disk.flush().await.map_err(|e| format!("task {task}: flush: {e:?}"))?;
        }
        let from = next() % PART;
        let count = 1 + next() % (PART - from);
        let range = from as usize * SECTOR_SIZE..(from + count) as usize * SECTOR_SIZE;
        let mut got = vec![0; range.len()];
        disk.read(first + from, &mut got).await.map_err(|e| format!("task {task}: read: {e:?}"))?;
        if got != model[range] {
            return Err(format!("task {task}, round {round}: other bytes than were written"));
        }
    }
    Ok(())
}
