//! The build script of every guest program: link at a guest's addresses, without relocations.
//! A package uses it by `build = "../build-guest.rs"` (or one more `..`) in its Cargo.toml.
fn main() {
    println!("cargo:rerun-if-env-changed=CARGO_CFG_TARGET_OS");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let start = std::path::PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let script = start.ancestors().map(|dir| dir.join("images/guest.ld")).find(|path| path.exists());
    let script = script.expect("images/guest.ld in a parent directory");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    println!("cargo:rustc-link-arg-bins=--build-id=none");
}
