//! Bridges that libvirt serves: it starts a dnsmasq with each of its networks, and fails to start the
//! network where somebody else has its ports (`networkStartDhcpDaemon` in `src/network/bridge_driver.c`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::definition::{self, Network};

/// Where libvirt keeps the definitions of its networks.
pub const DEFINITIONS: &str = "/etc/libvirt/qemu/networks";

/// The bridges of networks that libvirt has a definition of and serves while they run.
#[derive(Debug, Default)]
pub struct LibvirtBridges(BTreeMap<String, PathBuf>);

impl LibvirtBridges {
    /// Reads libvirt's directory; what cannot be read there is not libvirt's either.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        let files = definition::files_in(directory).unwrap_or_default().into_iter();
        Self(files.filter_map(|file| Some((bridge_of(&file)?, file))).collect())
    }

    /// The definition by which libvirt serves a bridge.
    #[must_use]
    pub fn definition_of(&self, bridge: &str) -> Option<&Path> {
        self.0.get(bridge).map(PathBuf::as_path)
    }
}

fn bridge_of(file: &Path) -> Option<String> {
    let network = definition::load(&[file.to_owned()]).networks.pop()?;
    is_served(&network).then_some(network.bridge.name?.value)
}

/// Unlike vnet, libvirt serves names also where nothing is said of them.
fn is_served(network: &Network) -> bool {
    let has_names = network.dns.as_ref().is_none_or(|dns| dns.enable);
    network.forward.mode.value.has_own_bridge()
        && !network.ips.is_empty()
        && (has_names || network.ips.iter().any(|ip| ip.dhcp.is_some()))
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    #[test]
    fn bridges_are_those_of_networks_that_libvirt_starts_a_dnsmasq_for() {
        let directory = env::temp_dir().join(format!("vnet-libvirt-bridges-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let dhcp = "<dhcp><range start='10.9.0.9' end='10.9.0.19'/></dhcp>";
        let no_dns = "<dns enable='no'/>";
        for (name, dns, inside) in
            [("names", "", ""), ("addresses", no_dns, dhcp), ("silent", no_dns, "")]
        {
            let text = format!(
                "<network><name>{name}</name><bridge name='br-{name}'/>{dns}\
                 <ip address='10.9.0.1' prefix='24'>{inside}</ip></network>"
            );
            fs::write(directory.join(format!("{name}.xml")), text).unwrap();
        }
        let bridges = LibvirtBridges::read(&directory);
        fs::remove_dir_all(&directory).unwrap();
        let file = |name: &str| bridges.definition_of(name).map(Path::to_owned);
        assert_eq!(file("br-names"), Some(directory.join("names.xml")));
        assert_eq!(file("br-addresses"), Some(directory.join("addresses.xml")));
        assert_eq!(file("br-silent"), None);
        assert_eq!(LibvirtBridges::read(&directory).definition_of("br-names"), None);
    }
}
