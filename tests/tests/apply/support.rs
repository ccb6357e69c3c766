//! What these tests have in common.

use anyhow::{Result, ensure};
use vnet_tests::{lab::Output, lifecycle::Scene};

pub const OUTSIDE: &str = "203.0.113.1";

/// The scene's network with another mode and more elements.
pub fn network(forward: &str, rest: &str) -> String {
    named("default", forward, "virbr0", &format!("<ip address='192.168.122.1' prefix='24'/>{rest}"))
}

pub fn named(name: &str, forward: &str, bridge: &str, rest: &str) -> String {
    format!("<network><name>{name}</name>{forward}<bridge name='{bridge}'/>{rest}</network>\n")
}

pub const NAT: &str = "<forward mode='nat'/>";

/// `vnet apply` of files.
pub fn apply(scene: &Scene, arguments: &[&str]) -> Result<Output> {
    let mut command = vec!["apply", "--instance", &scene.instance];
    command.extend(arguments);
    scene.vnet(&command)
}

/// As [`apply`], which has to succeed and say this.
pub fn applied(scene: &Scene, arguments: &[&str], wanted: &str) -> Result<()> {
    let output = apply(scene, arguments)?;
    let seen = (output.status.code(), output.stdout.as_str());
    ensure!(seen == (Some(0), wanted), "{seen:?}\nis not\n{wanted:?}\n{}", output.stderr);
    Ok(())
}
