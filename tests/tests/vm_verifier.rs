//! Whether this machine's kernel takes the programs: `cargo xtask test --vm KERNEL vm_verifier`.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fmt::Write as _;

use aya::{
    EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use vnet_common::names;
use vnet_tests::lab::require_root;

/// Lines of the verifier's log that lead up to a refusal.
const LOG_LINES: usize = 60;

#[test]
fn every_program_passes_the_verifier() {
    verify(0, &names::program::ALL);
}

#[test]
fn programs_of_a_migration_pass_the_verifier() {
    verify(1, &[&names::program::ALL[..], &[names::program::ADOPT]].concat());
}

fn verify(migrates: u8, programs: &[&str]) {
    if !require_root() {
        return;
    }
    let mut loader = EbpfLoader::new();
    loader.override_global("MIGRATES", &migrates, true);
    let mut ebpf = loader.load(vnet::object::object().unwrap()).unwrap();
    let mut refusals = String::new();
    for name in programs {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        match program.load() {
            Ok(()) => {
                let info = program.info().unwrap();
                let count = info.verified_instruction_count().unwrap_or_default();
                println!("{name}: {count} instructions verified");
            }
            Err(error) => writeln!(refusals, "{name}: {}", explained(&error)).unwrap(),
        }
    }
    assert!(refusals.is_empty(), "{refusals}");
}

fn explained(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    format!("{io_error}; the verifier's last words:\n{end}")
}
