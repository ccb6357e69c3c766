//! Whether a kernel takes the programs, and what its verifier has to do for it: `cargo xtask test vm_verifier`, and
//! `cargo xtask test --vm KERNEL vm_verifier`.
//!
//! Counts are compared with `tests/verifier/instructions.txt`, so that growth is seen; `--record` writes it.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
};

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};
use vnet_common::names;
use vnet_tests::lab::require_root;

/// Lines of the verifier's log that lead up to a refusal.
const LOG_LINES: usize = 60;

/// `compiler VERSION`, then a line `SERIES PROGRAM INSTRUCTIONS` for each kernel and program.
const RECORDED: &str = include_str!("../verifier/instructions.txt");

/// In percent of what is recorded.
const TOLERANCE: u64 = 2;

/// As [`TOLERANCE`], of programs that another rustc has compiled: it may place registers otherwise, which moves
/// counts by some percent; more than this is worth a look, because these are the programs that are used.
const TOLERANCE_OF_ANOTHER_COMPILER: u64 = 10;

/// Set by `cargo xtask test --record`: counts are told, in lines as of [`RECORDED`], and not compared.
const RECORD_VARIABLE: &str = "VNET_TEST_RECORD";

#[test]
fn every_program_passes_the_verifier() {
    verify(0, &[&names::program::ALL[..], &names::program::XDP].concat(), "");
}

#[test]
fn programs_of_a_migration_pass_the_verifier() {
    let programs = [&names::program::ALL[..], &[names::program::ADOPT], &names::program::XDP];
    verify(1, &programs.concat(), "+migration");
}

fn verify(migrates: u8, programs: &[&str], suffix: &str) {
    if !require_root() {
        return;
    }
    let mut loader = EbpfLoader::new();
    loader.override_global("MIGRATES", &migrates, true);
    let object = vnet::object::object().unwrap();
    let mut ebpf = loader.load(object).unwrap();
    let mut counted = Vec::new();
    let mut refusals = String::new();
    for name in programs {
        let program = ebpf.program_mut(name).unwrap();
        let result = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            other => {
                panic!("{name} is of type {:?}, which this test does not load", other.prog_type())
            }
        };
        match result {
            Ok(()) => {
                let count = program.info().unwrap().verified_instruction_count();
                println!("{name}: {} instructions verified", count.unwrap_or_default());
                // Linux tells since 5.16.
                counted.extend(count.map(|count| (format!("{name}{suffix}"), u64::from(count))));
            }
            Err(error) => writeln!(refusals, "{name}: {}", explained(&error)).unwrap(),
        }
    }
    assert!(refusals.is_empty(), "{refusals}");
    if env::var_os(RECORD_VARIABLE).is_some() {
        println!("recorded: compiler {}", compiler(object));
        for (program, count) in counted {
            println!("recorded: {} {program} {count}", series());
        }
    } else {
        compare(&counted, &series(), compiler(object));
    }
}

fn compare(counted: &[(String, u64)], series: &str, compiler: &str) {
    let by = RECORDED.lines().find_map(|line| line.strip_prefix("compiler ")).unwrap();
    let tolerance = if by == compiler {
        TOLERANCE
    } else {
        let of = format!("recorded with rustc {by}, and this is of rustc {compiler}");
        say(&format!("{of}: {TOLERANCE_OF_ANOTHER_COMPILER} % more are no growth"));
        TOLERANCE_OF_ANOTHER_COMPILER
    };
    let mut grown = String::new();
    for (program, count) in counted {
        let Some(known) = recorded(series, program) else {
            let missing = format!("nothing is recorded of {program} under Linux {series}");
            if must_be_recorded(series) {
                writeln!(grown, "{program}: {count} instructions verified, {missing}").unwrap();
            } else {
                say(&format!("not compared: {missing}"));
            }
            continue;
        };
        if *count * 100 > known * (100 + tolerance) {
            writeln!(grown, "{program}: {count} instructions verified, {known} are recorded")
                .unwrap();
        }
    }
    assert!(
        grown.is_empty(),
        "{grown}If that is as it should be: `cargo xtask test --record vm_verifier`, or for another kernel \
         `cargo xtask test --vm --record {series} vm_verifier`"
    );
}

/// In CI: every program of a kernel that is recorded, and every kernel that `test --vm` boots. The machine's own
/// kernel is whatever it is.
fn must_be_recorded(series: &str) -> bool {
    let is_known = RECORDED.lines().any(|line| line.split(' ').next() == Some(series));
    let required = env::var("VNET_TEST_REQUIRE").unwrap_or_default();
    let is_of_matrix = required.split(',').any(|word| word == "counts");
    env::var_os("CI").is_some() && (is_known || is_of_matrix)
}

fn recorded(series: &str, program: &str) -> Option<u64> {
    let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    RECORDED.lines().map(words).find_map(|words| match words[..] {
        [kernel, name, count] if kernel == series && name == program => count.parse().ok(),
        _ => None,
    })
}

/// The first two numbers of this kernel's version.
fn series() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split(['.', '-']).take(2).collect::<Vec<_>>().join(".")
}

/// The version of the rustc that has compiled the programs, as their debugging information names it.
fn compiler(object: &[u8]) -> &str {
    const BEFORE: &[u8] = b"(rustc version ";
    let start = object.windows(BEFORE.len()).position(|bytes| bytes == BEFORE);
    let version = start.map_or(&[][..], |start| &object[start + BEFORE.len()..]);
    let end = version.iter().position(|byte| b" )".contains(byte)).unwrap_or_default();
    std::str::from_utf8(&version[..end]).unwrap()
}

/// Past the test harness, which would keep it to itself.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
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
