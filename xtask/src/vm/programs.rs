//! The test programs, and what each one has to run.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{process, workspace::Workspace};

/// A test program as cargo has built it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its target's name, as `vlan` for `tests/tests/vlan/main.rs`.
    pub name: String,
    pub executable: PathBuf,
    /// Its package's directory, in which cargo would run it.
    pub directory: PathBuf,
}

/// One start of a test program.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub program: Program,
    /// Parts of names of tests; empty for all tests.
    pub filters: Vec<String>,
}

/// Builds the programs of the packages that speak with the kernel.
pub fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut command = workspace.cargo();
    command
        .args(["test", "--no-run", "--package", "vnet", "--package", "vnet-tests"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let output = command
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .context("cannot run cargo test --no-run")?;
    process::child_result(&command, output.status)?;
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    Ok(messages.lines().filter_map(program).collect())
}

/// The program that this message of cargo's tells of.
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    Some(Program {
        name: message["target"]["name"].as_str()?.to_owned(),
        executable: message["executable"].as_str()?.into(),
        directory: manifest.parent()?.to_path_buf(),
    })
}

/// A filter that is a program's name stands for all of its tests; any other one is part of the
/// names of tests, wherever they are.
pub fn select(programs: &[Program], filters: &[String]) -> Vec<Run> {
    let (whole, parts): (Vec<_>, Vec<_>) = filters
        .iter()
        .cloned()
        .partition(|filter| programs.iter().any(|program| program.name == *filter));
    programs
        .iter()
        .filter_map(|program| {
            let all = filters.is_empty() || whole.contains(&program.name);
            (all || !parts.is_empty()).then(|| Run {
                program: program.clone(),
                filters: if all { Vec::new() } else { parts.clone() },
            })
        })
        .collect()
}

/// For a shell: each run after the one before, ending with the last failure's code.
pub fn script(runs: &[Run]) -> String {
    let mut lines = vec!["code=0".to_owned()];
    for Run { program, filters } in runs {
        let directory = process::quoted(&program.directory.to_string_lossy());
        let executable = process::quoted(&program.executable.to_string_lossy());
        let filters: Vec<_> = filters.iter().map(|filter| process::quoted(filter)).collect();
        lines.push(format!("echo '     Running {}'", program.name));
        lines.push(format!("cd {directory} && export CARGO_MANIFEST_DIR={directory} &&"));
        lines.push(format!("    {executable} {} || code=$?", filters.join(" ")));
    }
    lines.push("exit $code\n".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> [Program; 2] {
        ["nat", "vlan"].map(|name| Program {
            name: name.to_owned(),
            executable: format!("/target/debug/deps/{name}-1").into(),
            directory: "/src/tests".into(),
        })
    }

    fn selected(filters: &[&str]) -> Vec<(String, Vec<String>)> {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        select(&programs(), &filters)
            .into_iter()
            .map(|run| (run.program.name, run.filters))
            .collect()
    }

    #[test]
    fn program_is_read_from_cargos_message() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/src/tests/Cargo.toml",
            "target":{"name":"nat"},"profile":{"test":true},
            "executable":"/target/debug/deps/nat-1"}"#;
        assert_eq!(program(message).as_ref(), programs().first());
        assert_eq!(program(&message.replace("true", "false")), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn name_of_a_program_selects_all_of_its_tests() {
        assert_eq!(selected(&["vlan"]), [("vlan".to_owned(), vec![])]);
    }

    #[test]
    fn any_other_filter_goes_to_every_program() {
        let uplink = vec!["uplink".to_owned()];
        assert_eq!(
            selected(&["vlan", "uplink"]),
            [("nat".to_owned(), uplink), ("vlan".to_owned(), vec![])]
        );
    }

    #[test]
    fn everything_runs_without_a_filter() {
        assert_eq!(selected(&[]).len(), 2);
    }
}
