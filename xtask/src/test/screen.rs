//! What a machine's screen shows, read by QEMU's monitor.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use serde_json::json;

use crate::machine::Machine;
use crate::{cmd, paths};

/// A text mode's memory, and bytes of a line.
const TEXT: (u64, usize) = (0xb8000, 160);
const FONT: (FontWeight, RasterHeight) = (FontWeight::Regular, RasterHeight::Size16);

/// The lines of a PC's text mode of 25 lines.
pub fn text(machine: &mut Machine) -> Result<Vec<String>> {
    let file = file("screen.bin")?;
    machine.monitor("pmemsave", json!({ "val": TEXT.0, "size": TEXT.1 * 25, "filename": file }))?;
    let bytes = cmd::read(&file)?;
    Ok(bytes.chunks(TEXT.1).map(|line| line.chunks(2).map(|c| c[0] as char).collect()).map(trimmed).collect())
}

/// The lines that the hypervisor wrote on a screen of pixels. Each character is compared with its picture, bit by bit;
/// what is none is a '?'.
pub fn pixels(machine: &mut Machine) -> Result<Vec<String>> {
    let file = file("screen.ppm")?;
    machine.monitor("screendump", json!({ "filename": file }))?;
    let bytes = cmd::read(&file)?;
    let (width, pixels) = ppm(&bytes).context("QEMU's picture is no PPM of 8 bits")?;
    let (cell, height) = (get_raster_width(FONT.0, FONT.1), FONT.1.val());
    let pictures: HashMap<Vec<u8>, char> =
        (' '..='~').filter_map(|c| Some((get_raster(c, FONT.0, FONT.1)?.pixels().to_vec(), c))).collect();
    ensure!(pictures.len() == 95, "two characters look the same");
    let lines = pixels.chunks_exact(width * 3 * height).map(|line| {
        let character = |n: usize| {
            let rows = line.chunks_exact(width * 3).map(|row| &row[n * cell * 3..(n + 1) * cell * 3]);
            // they are grey
            let grey: Vec<u8> = rows.flat_map(|row| row.chunks_exact(3).map(|pixel| pixel[0])).collect();
            pictures.get(&grey).copied().unwrap_or('?')
        };
        trimmed((0..width / cell).map(character).collect())
    });
    Ok(lines.collect())
}

fn trimmed(line: String) -> String {
    line.trim_end_matches([' ', '\0']).to_string()
}

/// The width and the pixels, of three bytes, of a picture.
fn ppm(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut parts = bytes.splitn(4, |b| *b == b'\n');
    let mut line = || std::str::from_utf8(parts.next()?).ok();
    let (kind, size, depth) = (line()?, line()?, line()?);
    let (width, height) = size.split_once(' ')?;
    let (width, height): (usize, usize) = (width.parse().ok()?, height.parse().ok()?);
    let pixels = parts.next()?;
    (kind == "P6" && depth == "255" && pixels.len() == width * height * 3).then_some((width, pixels))
}

fn file(name: &str) -> Result<PathBuf> {
    Ok(paths::logs()?.join(name))
}
