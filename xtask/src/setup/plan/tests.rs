use std::path::PathBuf;

use super::*;
use crate::setup::tools::TOOLS;

/// A machine with apt, whose lists hold these packages.
fn debian(known: &[&str], root: bool) -> Sources {
    let known = known.iter().map(|name| (*name).to_owned()).collect();
    Sources {
        root,
        manager: Manager::Apt(Apt { known, updated: false }),
        nightly: Nightly::NoRustup,
        llvm: Vec::new(),
        binstall: false,
        tools: PathBuf::from("/src/target/tools"),
    }
}

fn updated(mut sources: Sources) -> Sources {
    if let Manager::Apt(apt) = &mut sources.manager {
        apt.updated = true;
    }
    sources
}

fn fedora(root: bool) -> Sources {
    Sources { manager: Manager::Dnf, ..debian(&[], root) }
}

fn everything() -> Missing {
    Missing {
        toolchain: Some(Preference::Auto),
        linker: Some(MissingLinker::default()),
        clippy: None,
        tools: tools(&["nft", "bpftool"]),
    }
}

fn only_toolchain(preference: Preference) -> Missing {
    Missing { toolchain: Some(preference), ..Missing::default() }
}

fn only_linker(rustc_llvm: u32) -> Missing {
    let linker = Some(MissingLinker { rustc_llvm: Some(rustc_llvm) });
    Missing { linker, ..Missing::default() }
}

fn tools(programs: &[&str]) -> Vec<&'static Tool> {
    static ALL: [Tool; TOOLS.len()] = TOOLS;
    ALL.iter().filter(|tool| programs.contains(&tool.program)).collect()
}

fn install(packages: &[&str]) -> Step {
    Step::InstallPackages(packages.iter().map(|name| (*name).to_owned()).collect())
}

const BOOKWORM: [&str; 5] =
    ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "nftables", "bpftool"];

#[test]
fn root_on_debian_installs_all_packages_at_once() {
    assert_eq!(
        plan(&everything(), &debian(&BOOKWORM, true)),
        Plan::Steps(vec![install(&[
            "rustc-web",
            "libstd-rust-web-dev-bpf",
            "llvm-22-dev",
            "nftables",
            "bpftool"
        ])])
    );
}

#[test]
fn nobody_but_root_installs_packages() {
    let line = "sudo apt-get install -y --no-install-recommends --no-remove \
                rustc-web libstd-rust-web-dev-bpf llvm-22-dev nftables bpftool";
    assert_eq!(plan(&everything(), &debian(&BOOKWORM, false)), Plan::Paste(vec![line.into()]));
}

#[test]
fn lists_are_updated_before_a_package_is_given_up() {
    let plan_of = |sources: &Sources| plan(&everything(), sources);
    assert_eq!(plan_of(&debian(&[], true)), Plan::Steps(vec![Step::UpdateLists]));
    assert_eq!(
        plan_of(&updated(debian(&[], true))),
        Plan::Impossible("install rustup (https://rustup.rs), then repeat".into())
    );
}

#[test]
fn line_to_paste_updates_lists_that_hold_too_little() {
    let Plan::Paste(lines) = plan(&everything(), &debian(&[], false)) else { panic!() };
    assert_eq!(lines[0], "sudo apt-get update");
    assert!(lines[1].ends_with("rustc-web libstd-rust-web-dev-bpf llvm-22-dev nftables bpftool"));
    assert_eq!(lines.len(), 2);
}

#[test]
fn distribution_without_a_rustc_for_bpf_gets_nightly() {
    let sources =
        Sources { nightly: Nightly::NotInstalled, ..updated(debian(&["llvm-22-dev"], true)) };
    assert_eq!(
        plan(&only_toolchain(Preference::Auto), &sources),
        Plan::Steps(vec![Step::InstallNightly])
    );
}

#[test]
fn user_without_root_gets_the_source_of_nightly_although_apt_has_packages() {
    let sources = Sources { nightly: Nightly::NoSource, ..debian(&BOOKWORM, false) };
    assert_eq!(
        plan(&only_toolchain(Preference::Auto), &sources),
        Plan::Steps(vec![Step::AddRustSource])
    );
}

#[test]
fn forced_nightly_ignores_the_distribution() {
    let sources = Sources { nightly: Nightly::NotInstalled, ..debian(&BOOKWORM, true) };
    assert_eq!(
        plan(&only_toolchain(Preference::Nightly), &sources),
        Plan::Steps(vec![Step::InstallNightly])
    );
}

#[test]
fn forced_distribution_never_calls_rustup() {
    let sources = Sources { nightly: Nightly::NotInstalled, ..fedora(true) };
    assert_eq!(
        plan(&only_toolchain(Preference::Distribution), &sources),
        Plan::Impossible("this distribution has no such package; use `--toolchain nightly`".into())
    );
}

#[test]
fn linker_is_built_when_its_llvm_is_there() {
    let sources = Sources { llvm: vec![22], ..debian(&[], false) };
    assert_eq!(plan(&only_linker(22), &sources), Plan::Steps(vec![Step::BuildLinker(22)]));
}

#[test]
fn linker_is_not_built_on_an_llvm_older_than_that_of_rustc() {
    let sources = Sources { llvm: vec![22], ..updated(debian(&["llvm-22-dev"], true)) };
    let Plan::Paste(lines) = plan(&only_linker(23), &sources) else { panic!() };
    assert!(lines[0].contains("bpf-linker/releases/latest"), "{lines:?}");
}

#[test]
fn linker_is_built_only_after_the_toolchain_is_known() {
    let missing =
        Missing { linker: Some(MissingLinker::default()), ..only_toolchain(Preference::Auto) };
    let sources =
        Sources { nightly: Nightly::NotInstalled, llvm: vec![22], ..updated(debian(&[], true)) };
    assert_eq!(plan(&missing, &sources), Plan::Steps(vec![Step::InstallNightly]));
}

#[test]
fn linker_comes_from_binstall_where_there_is_no_llvm_to_build_on() {
    let sources = Sources { binstall: true, ..fedora(false) };
    assert_eq!(plan(&only_linker(22), &sources), Plan::Steps(vec![Step::FetchLinker]));
}

#[test]
fn rustc_too_new_for_every_linker_is_refused_with_the_way_out() {
    let Plan::Impossible(reason) = plan(&only_linker(24), &debian(&BOOKWORM, true)) else {
        panic!()
    };
    assert_eq!(
        reason,
        "bpf-linker 0.13.0 cannot read what this rustc's LLVM 24 writes; \
         use `--toolchain distribution` or an older nightly"
    );
}

#[test]
fn fedora_gets_one_line_with_its_own_names() {
    let missing = Missing { tools: tools(&["ip", "conntrack"]), ..Missing::default() };
    assert_eq!(
        plan(&missing, &fedora(false)),
        Plan::Paste(vec!["sudo dnf install -y iproute conntrack-tools".into()])
    );
}

#[test]
fn ubuntu_gets_bpftool_from_the_package_that_has_it() {
    let missing = Missing { tools: tools(&["bpftool"]), ..Missing::default() };
    assert_eq!(
        plan(&missing, &debian(&["linux-tools-common"], true)),
        Plan::Steps(vec![install(&["linux-tools-common"])])
    );
}

#[test]
fn clippy_comes_from_where_the_toolchain_came_from() {
    let missing = |kind| Missing { clippy: Some(kind), ..Missing::default() };
    let sources = debian(&["rust-web-clippy"], true);
    assert_eq!(
        plan(&missing(Kind::Distribution), &sources),
        Plan::Steps(vec![install(&["rust-web-clippy"])])
    );
    assert_eq!(plan(&missing(Kind::Nightly), &sources), Plan::Steps(vec![Step::AddNightlyClippy]));
}
