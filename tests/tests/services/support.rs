//! What the tests share: definitions, files that go with the test, and who runs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use vnet::{
    definition::{self, Network},
    services::dnsmasq::Directories,
};
use vnet_tests::lab::Namespace;

pub const DEADLINE: Duration = Duration::from_secs(10);

pub fn network(xml: &str) -> Network {
    let mut loaded = definition::load_text(Path::new("test.xml"), xml);
    assert!(!loaded.report.has_errors(), "{}", loaded.report.render(definition::Severity::Warning));
    loaded.networks.remove(0)
}

pub fn definition(forward: &str, hosts: &str, records: &str) -> Network {
    network(&format!(
        "<network><name>default</name>{forward}<bridge name='virbr0'/><domain name='lab.example'/>\
         <dns>{records}</dns><ip address='192.168.122.1' prefix='24'><dhcp>\
         <range start='192.168.122.100' end='192.168.122.120'/>{hosts}</dhcp></ip></network>"
    ))
}

pub const NAT: &str = "<forward mode='nat'/>";

/// A directory of files that goes with the test.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vnet-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn directories(&self) -> Directories {
        Directories { runtime: self.0.join("run"), leases: self.0.join("leases") }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test has left behind; nobody else has this directory.
        for pid in processes(self) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn in_namespace<T: Send>(host: &Namespace, work: impl Future<Output = T> + Send) -> T {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    })
    .unwrap()
}

pub fn fs_of(namespace: &Namespace, path: &str) -> String {
    namespace.enter(|| fs::read_to_string(path)).unwrap().unwrap().trim_end().to_owned()
}

/// Processes that have a file of the place in their command line.
pub fn processes(place: &Place) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let wanted = place.0.to_str().unwrap().to_owned();
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&wanted)
        })
        .collect()
}

/// Who the process runs as.
pub fn owner(pid: u32) -> &'static str {
    use std::os::unix::fs::MetadataExt as _;
    let user = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    let known = ["dnsmasq", "libvirt-dnsmasq", "nobody"].into_iter().any(|name| {
        matches!(nix::unistd::User::from_name(name), Ok(Some(found)) if found.uid.as_raw() == user)
    });
    if known && user != 0 { "dnsmasq or nobody" } else { "somebody else" }
}
