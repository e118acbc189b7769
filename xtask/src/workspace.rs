//! The workspace's packages, as `cargo metadata` tells.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cmd;

/// A package of this workspace and what cargo can make of it.
pub struct Package {
    /// The package's name.
    pub name: String,
    /// It lives under `guest-kernel/services/`: its binary is a guest.
    pub is_service: bool,
    /// It lives under `tests/guests/`: its binary is a guest for tests.
    pub is_test_guest: bool,
    /// It has a library.
    pub lib: bool,
    /// The names of its binaries.
    pub bins: Vec<String>,
    /// The names of its integration tests.
    pub tests: Vec<String>,
}

/// Every package of the workspace. Reads manifests only: no network, no build.
pub fn packages() -> Result<Vec<Package>> {
    let text =
        cmd::output(cmd::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    Ok(packages.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let targets = value["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &str| -> Vec<String> {
        let is = |t: &&Value| t["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
        targets.iter().filter(is).map(|t| text(&t["name"])).collect()
    };
    let lib = ["lib", "rlib", "proc-macro"].iter().any(|kind| !of_kind(kind).is_empty());
    let manifest = text(&value["manifest_path"]);
    let is_service = manifest.contains("guest-kernel/services/");
    let is_test_guest = manifest.contains("tests/guests/");
    Package {
        name: text(&value["name"]),
        is_service,
        is_test_guest,
        lib,
        bins: of_kind("bin"),
        tests: of_kind("test"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}
