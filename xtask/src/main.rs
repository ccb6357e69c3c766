//! `cargo xtask`: everything that a developer of vnet or its CI runs.

mod bpf;
mod fuzz;
mod lint;
mod process;
mod record;
mod run;
mod setup;
mod sudo;
mod test;
mod vm;
mod workspace;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    process::ChildFailed,
    setup::{Needs, Preference, ToolSet},
    workspace::Workspace,
};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    /// Say also what is already there
    #[arg(short, long, global = true)]
    verbose: bool,

    /// Which rustc compiles the BPF programs
    #[arg(long, global = true, value_enum, env = "VNET_BPF_TOOLCHAIN", default_value = "auto")]
    toolchain: Preference,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what the other verbs need
    Setup,
    /// Build the BPF object, then the host's programs
    Build {
        /// Build the host's programs with the release profile
        #[arg(long)]
        release: bool,
    },
    /// Run every test: unit, `BPF_PROG_TEST_RUN`, namespaces
    Test {
        /// Run only the tests whose name contains one of these; with `--vm`, also names of test
        /// programs, and the kernels to boot, as `6.1` or `6.12`
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        /// Run the tests in a virtual machine with a kernel of Debian's
        #[arg(long)]
        vm: bool,
        /// Seconds until the virtual machine is switched off
        #[arg(long, requires = "vm", default_value_t = 300)]
        limit: u64,
        /// Write the counts of the test program `vm_verifier` to the file that it compares with
        #[arg(long)]
        record: bool,
        /// How the daemons that tests run use native XDP, if they are to be told
        #[arg(long, value_name = "WHEN")]
        xdp: Option<test::Xdp>,
        /// Install nothing; fail when something is missing
        #[arg(long)]
        no_setup: bool,
    },
    /// Compare the programs with the model of them, longer than `test` does
    Fuzz {
        /// What to compare
        #[arg(value_enum)]
        target: fuzz::Target,
        /// For how long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// The seed of an earlier run, to repeat it
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Boot a kernel of Debian's in a virtual machine and run a command there
    Vm {
        /// The kernel to boot, as `6.1`
        #[arg(default_value = vm::DEFAULT_KERNEL)]
        kernel: String,
        /// Seconds until the virtual machine is switched off
        #[arg(long, default_value_t = 300)]
        limit: u64,
        /// What to run, as root, with this machine's files, read-only
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run the demonstration; or, with arguments, `vnet run` on this host
    Run {
        /// Arguments of `vnet run`
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Measure, each figure beside a baseline of the same run: `programs`, `rate`, `bulk`, `flows`, `scale`,
    /// `control`, `latency`; `--rounds N`, `--networks N`, `--json FILE`, `--plot DIR`
    Bench {
        /// Arguments of `vnet-bench`
        #[arg(value_name = "NAME", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check formatting and lints
    Lint,
    /// Build the documentation; warnings are errors
    Docs,
    /// Execute a program through sudo (what `test` uses as cargo's runner)
    #[command(hide = true)]
    AsRoot {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<ChildFailed>() {
            // The child has already said what is wrong.
            Some(child) if !child.needs_message() => ExitCode::from(child.code()),
            Some(child) => {
                eprintln!("xtask: {error:#}");
                ExitCode::from(child.code())
            }
            None => {
                eprintln!("xtask: error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn execute(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::locate()?;
    let needs = |tools, install| Needs {
        preference: arguments.toolchain,
        tools,
        clippy: matches!(arguments.verb, Verb::Setup | Verb::Lint),
        install,
        verbose: arguments.verbose,
    };
    match &arguments.verb {
        Verb::Setup => setup::ensure(&workspace, &needs(ToolSet::Tests, true)).map(drop),
        Verb::Build { release } => {
            let ready = setup::ensure(&workspace, &needs(ToolSet::None, true))?;
            bpf::build(&workspace, &ready)?;
            workspace.build_host(*release)
        }
        Verb::Test { filters, vm, limit, record, xdp, no_setup } => {
            let ready = setup::ensure(&workspace, &needs(ToolSet::Tests, !no_setup))?;
            bpf::build(&workspace, &ready)?;
            workspace.build_host(false)?;
            if *vm {
                let request = vm::Request {
                    records: *record,
                    xdp: xdp.map(test::Xdp::word),
                    ..vm::Request::parse(filters)
                };
                vm::run(&workspace, &request, Duration::from_secs(*limit))
            } else {
                test::run(&workspace, filters, *record, *xdp)
            }
        }
        Verb::Fuzz { target: fuzz::Target::Nat, minutes, seed } => {
            let ready = setup::ensure(&workspace, &needs(ToolSet::Tests, true))?;
            bpf::build(&workspace, &ready)?;
            fuzz::run(&workspace, *minutes, *seed)
        }
        Verb::Vm { kernel, limit, command } => {
            setup::ensure(&workspace, &needs(ToolSet::Tests, true))?;
            vm::shell(&workspace, kernel, command, Duration::from_secs(*limit))
        }
        Verb::Run { arguments } => {
            let tools = if arguments.is_empty() { ToolSet::Demo } else { ToolSet::None };
            let ready = setup::ensure(&workspace, &needs(tools, true))?;
            bpf::build(&workspace, &ready)?;
            workspace.build_host(false)?;
            run::run(&workspace, arguments)
        }
        Verb::Bench { arguments } => {
            let ready = setup::ensure(&workspace, &needs(ToolSet::Tests, true))?;
            bpf::build(&workspace, &ready)?;
            workspace.build_host(true)?;
            run::bench(&workspace, arguments)
        }
        Verb::Lint => {
            let ready = setup::ensure(&workspace, &needs(ToolSet::None, true))?;
            lint::lint(&workspace, &ready)
        }
        Verb::Docs => lint::docs(&workspace),
        Verb::AsRoot { command } => sudo::execute_as_root(command),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_of_vnet_run_follow_two_dashes() {
        let parsed =
            Arguments::try_parse_from(["xtask", "run", "--", "--uplink", "eth0", "a.xml"]).unwrap();
        let Verb::Run { arguments } = parsed.verb else { panic!("not `run`") };
        assert_eq!(arguments, ["--uplink", "eth0", "a.xml"]);
    }
}
