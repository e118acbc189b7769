//! Links the hypervisor at its fixed address (see images/hv.ld).
fn main() {
    let script = format!("{}/../images/hv.ld", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        for arg in ["--no-pie", "-zmax-page-size=4096", "--build-id=none", &format!("-T{script}")] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
