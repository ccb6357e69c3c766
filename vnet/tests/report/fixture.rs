//! An instance without a daemon and without programs: its state and its maps.

use std::{
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::{Ebpf, EbpfLoader, maps::Map};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
    unistd::geteuid,
};
use vnet::{
    host::{bpffs, privileges},
    instance::{
        Name, State,
        state::{NetworkState, ShortcutState, UplinkState},
    },
    object,
};
use vnet_common::names::map;

/// Slots of the session array.
pub const SLOTS: u32 = 64;

pub struct Instance {
    pub name: Name,
    bpf: Ebpf,
    pins: PathBuf,
}

/// Runs a test with a fresh instance `default`, in a thread whose file systems vanish with it. Says
/// so and does nothing where that is impossible.
pub fn with_instance(test: impl FnOnce(Instance) + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: making namespaces and maps needs root");
        return;
    }
    let object = match object::object() {
        Ok(object) => object,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let body = move || {
        own_file_systems();
        test(Instance::make(object));
    };
    if let Err(panic) = thread::spawn(body).join() {
        resume_unwind(panic);
    }
}

fn own_file_systems() {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING).unwrap();
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
    let options = Some("mode=0700");
    mount(Some("bpf"), bpffs::DEFAULT_PATH, Some("bpf"), MsFlags::empty(), options).unwrap();
}

impl Instance {
    fn make(object: &[u8]) -> Self {
        privileges::raise_memlock_limit();
        let bpf = EbpfLoader::new().map_max_entries(map::SESSIONS, SLOTS).load(object).unwrap();
        let name: Name = "default".parse().unwrap();
        let pins = name.pin_directory(Path::new(bpffs::DEFAULT_PATH));
        fs::create_dir_all(pins.join("maps")).unwrap();
        for map in map::ALL {
            bpf.map(map).unwrap().pin(Name::map_pin(&pins, map)).unwrap();
        }
        let runtime = name.runtime_directory();
        fs::create_dir_all(&runtime).unwrap();
        state(&pins).stage(&runtime).unwrap();
        State::commit(&runtime).unwrap();
        Self { name, bpf, pins }
    }

    pub fn map(&mut self, map: &str) -> &mut Map {
        self.bpf.map_mut(map).unwrap()
    }

    pub fn unpin(&self, map: &str) {
        fs::remove_file(Name::map_pin(&self.pins, map)).unwrap();
    }

    /// Leaves another map at the place of a map.
    pub fn pin_instead(&self, map: &str, other: &str) {
        self.unpin(map);
        self.bpf.map(other).unwrap().pin(Name::map_pin(&self.pins, map)).unwrap();
    }
}

fn state(pins: &Path) -> State {
    let network = |slot, name: &str| NetworkState {
        slot,
        name: name.to_owned(),
        mode: "nat".to_owned(),
        mode_ipv6: "route".to_owned(),
        bridge: format!("br-{name}"),
        bridge_ifindex: 40 + u32::from(slot),
        subnets: vec!["192.168.122.0/24".parse().unwrap()],
        masquerade: vec![],
    };
    State {
        version: "9.9.9".to_owned(),
        instance: "default".to_owned(),
        pid: std::process::id(),
        started: 1_700_000_000,
        pins: pins.to_owned(),
        flow_limit: SLOTS,
        networks: vec![network(1, "default"), network(2, "lab")],
        uplinks: vec![UplinkState {
            interface: "enp1s0".to_owned(),
            ifindex: 2,
            addresses: vec!["198.51.100.1".parse().unwrap()],
        }],
        hooks: vec![],
        guests: vec![],
        services: vec![],
        shortcut: ShortcutState::default(),
        layout: vnet_common::names::LAYOUT,
    }
}

/// The clock of the programs, in nanoseconds.
pub fn monotonic_now() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    u64::try_from(now.as_nanos()).unwrap()
}
