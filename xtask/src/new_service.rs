//! `cargo xtask new-service NAME`: a service of one's own, beginning as a copy of `hello`.
//!
//! `hello`'s own files are the template, so that it can't fall behind what a service looks like.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{cmd, paths, services, workspace};

const TEMPLATE: &str = "hello";

/// Arguments of `new-service`.
#[derive(clap::Args)]
pub struct Args {
    /// The service's name: lower-case letters, digits and dashes
    #[arg(value_parser = name)]
    name: String,
}

fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(good) || text.ends_with('-') {
        return Err("use lower-case letters, digits and dashes, a letter first".into());
    }
    Ok(text.to_string())
}

/// Runs `cargo xtask new-service`.
pub fn command(args: &Args) -> Result<ExitCode> {
    let name = &args.name;
    if workspace::packages()?.iter().any(|package| package.name == *name) {
        bail!("there is a package called {name} already");
    }
    let services = paths::root().join("guest-kernel/services");
    copy(&services.join(TEMPLATE), &services.join(name), name)?;
    let images = paths::root().join("images");
    let config = String::from_utf8(cmd::read(&images.join(format!("{TEMPLATE}.cfg")))?)?;
    let config = configuration(&config, name, free_host_number()?)?;
    cmd::write(&images.join(format!("{name}.cfg")), config.as_bytes())?;
    println!("guest-kernel/services/{name}/  is the service: its program is src/main.rs");
    println!("images/{name}.cfg  is its domain");
    println!();
    println!("cargo xtask run --port {name}=7000   and in dom0's shell: xl create {name}");
    Ok(ExitCode::SUCCESS)
}

/// Copies the template's folder, its package's name replaced.
fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target, name)?;
            continue;
        }
        let text = String::from_utf8(cmd::read(&source)?)?;
        let text = if entry.file_name() == "Cargo.toml" {
            text.replace(&format!("\"{TEMPLATE}\""), &format!("\"{name}\""))
                .replace(&format!("The {TEMPLATE} service"), &format!("The {name} service"))
        } else {
            text.replace(&format!("{TEMPLATE}::"), &format!("{}::", name.replace('-', "_")))
        };
        cmd::write(&target, text.as_bytes())?;
    }
    Ok(())
}

/// The template's configuration for another name and address.
fn configuration(template: &str, name: &str, number: u8) -> Result<String> {
    let mut config = format!("# The service {name}. It is not started by itself: `xl create {name}`.\n");
    for line in template.lines().filter(|line| !line.starts_with('#')) {
        let line = line.replace(&format!("\"{TEMPLATE}\""), &format!("\"{name}\""));
        let line = line.replace(&format!("/boot/{TEMPLATE}"), &format!("/boot/{name}"));
        config += &match field(&line, "ip=10.0.2.", "/").or(field(&line, "mac=00:16:3e:00:00:", ",")) {
            Some(old) if line.contains("mac=") => {
                line.replace(&format!(":{old},"), &format!(":{number:02x},"))
            }
            Some(old) => line.replace(&format!(".{old}/"), &format!(".{number}/")),
            None => line,
        };
        config += "\n";
    }
    if !config.contains(&format!("ip=10.0.2.{number}/")) {
        bail!("images/{TEMPLATE}.cfg gives no address to replace");
    }
    Ok(config)
}

/// What stands in `line` between `before` and `after`.
fn field<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    line.split_once(before)?.1.split_once(after).map(|(field, _)| field)
}

/// The last part of an address in 10.0.2.0/24 after those that the services have.
fn free_host_number() -> Result<u8> {
    let last = |service: &services::Service| service.address.rsplit('.').next()?.parse::<u8>().ok();
    let highest = services::all()?.iter().filter_map(last).max().unwrap_or(20);
    highest.checked_add(1).filter(|&n| n < 255).context("no address is left in 10.0.2.0/24")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_gets_its_own_name_and_addresses() {
        let template = "# The smallest.\nname = \"hello\"\nkernel = \"/boot/hello\"\n\
                        vif = [ 'mac=00:16:3e:00:00:16,bridge=xenbr0' ]\nextra = \"ip=10.0.2.22/24 port=7777\"\n";
        let config = configuration(template, "echo", 30).expect("an address to replace");
        assert!(config.ends_with(
            "name = \"echo\"\nkernel = \"/boot/echo\"\n\
             vif = [ 'mac=00:16:3e:00:00:1e,bridge=xenbr0' ]\nextra = \"ip=10.0.2.30/24 port=7777\"\n"
        ));
        assert!(name("Echo").is_err() && name("1x").is_err() && name("a-").is_err() && name("a-1").is_ok());
    }
}
