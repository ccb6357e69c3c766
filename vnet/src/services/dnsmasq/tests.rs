use std::path::Path;

use super::*;
use crate::definition::{self, Network};

fn network(xml: &str) -> Network {
    let mut loaded = definition::load_text(Path::new("test.xml"), xml);
    assert!(!loaded.report.has_errors(), "{}", loaded.report.render(definition::Severity::Warning));
    loaded.networks.remove(0)
}

fn config(network: &Network) -> Result<String, ConfigError> {
    let files = Files {
        pid: Path::new("/run/n.pid"),
        leases: Path::new("/lib/n.leases"),
        reserved: Path::new("/run/n.hosts"),
        records: Path::new("/run/n.names"),
    };
    text(network, "virbr0", files, "nobody")
}

const DEFAULT: &str = "<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>\
    <ip address='192.168.122.1' netmask='255.255.255.0'>\
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>";

#[test]
fn default_network_gets_what_libvirt_gives_it() {
    let network = network(DEFAULT);
    assert!(is_wanted(&network));
    assert_eq!(
        config(&network).unwrap(),
        "user=nobody\n\
         strict-order\n\
         pid-file=/run/n.pid\n\
         except-interface=lo\n\
         bind-dynamic\n\
         interface=virbr0\n\
         dhcp-range=192.168.122.2,192.168.122.254,255.255.255.0\n\
         dhcp-no-override\n\
         dhcp-authoritative\n\
         dhcp-leasefile=/lib/n.leases\n\
         dhcp-hostsfile=/run/n.hosts\n\
         dhcp-lease-max=1024\n\
         addn-hosts=/run/n.names\n"
    );
    assert_eq!((reserved(&network), records(&network)), (String::new(), String::new()));
}

#[test]
fn isolated_guests_get_no_default_route_and_no_names_of_the_outside() {
    let network = network(
        "<network><name>n</name><bridge name='virbr0'/>\
         <ip address='10.0.0.1' prefix='8'><dhcp><range start='10.1.0.0' end='10.1.255.255'>\
         <lease expiry='2' unit='hours'/></range></dhcp></ip>\
         <ip family='ipv6' address='fd00::1' prefix='64'>\
         <dhcp><range start='fd00::100' end='fd00::1ff'><lease expiry='0'/></range></dhcp></ip>\
         </network>",
    );
    assert_eq!(
        config(&network).unwrap(),
        "user=nobody\n\
         strict-order\n\
         no-resolv\n\
         pid-file=/run/n.pid\n\
         except-interface=lo\n\
         bind-dynamic\n\
         interface=virbr0\n\
         dhcp-option=3\n\
         ra-param=*,0,0\n\
         dhcp-range=10.1.0.0,10.1.255.255,255.0.0.0,7200s\n\
         dhcp-range=fd00::100,fd00::1ff,64,infinite\n\
         dhcp-no-override\n\
         dhcp-authoritative\n\
         dhcp-leasefile=/lib/n.leases\n\
         dhcp-hostsfile=/run/n.hosts\n\
         dhcp-lease-max=65536\n\
         enable-ra\n\
         addn-hosts=/run/n.names\n"
    );
}

#[test]
fn every_record_and_server_is_in_its_place() {
    let network = network(
        "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
         <name>n</name><forward mode='route'/><bridge name='virbr0'/>\
         <domain name='lab.example' localOnly='yes'/>\
         <dns forwardPlainNames='no'>\
         <forwarder addr='192.0.2.53'/><forwarder domain='corp.example' addr='2001:db8::53'/>\
         <forwarder domain='free.example'/>\
         <txt name='example' value='a value, too'/>\
         <srv service='sip' protocol='tcp' domain='voice.example' target='pbx' port='5060' weight='9'/>\
         <srv service='ldap' protocol='tcp'/>\
         <host ip='192.0.2.7'><hostname>seven</hostname><hostname>sept</hostname></host></dns>\
         <ip address='192.0.2.1' prefix='24' localPtr='yes'><tftp root='/srv/tftp'/><dhcp>\
         <host mac='52:54:00:00:00:01' name='one' ip='192.0.2.10'/>\
         <host mac='52:54:00:00:00:02' ip='192.0.2.11'><lease expiry='5' unit='minutes'/></host>\
         <host name='three' ip='192.0.2.12'/>\
         <bootp file='pxelinux.0' server='192.0.2.9'/></dhcp></ip>\
         <ip family='ipv6' address='2001:db8:1::1' prefix='64' localPtr='yes'/>\
         <dnsmasq:options><dnsmasq:option value='log-queries'/></dnsmasq:options></network>",
    );
    assert_eq!(
        config(&network).unwrap(),
        "user=nobody\n\
         strict-order\n\
         server=192.0.2.53\n\
         server=/corp.example/2001:db8::53\n\
         server=/free.example/#\n\
         no-resolv\n\
         local=/lab.example/\n\
         domain=lab.example\n\
         expand-hosts\n\
         local=/2.0.192.in-addr.arpa/\n\
         local=/0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa/\n\
         domain-needed\n\
         pid-file=/run/n.pid\n\
         except-interface=lo\n\
         bind-dynamic\n\
         interface=virbr0\n\
         txt-record=example,a value, too\n\
         srv-host=_sip._tcp.voice.example,pbx,5060,0,9\n\
         srv-host=_ldap._tcp.lab.example\n\
         dhcp-range=192.0.2.0,static,255.255.255.0\n\
         dhcp-no-override\n\
         dhcp-authoritative\n\
         dhcp-leasefile=/lib/n.leases\n\
         dhcp-hostsfile=/run/n.hosts\n\
         enable-tftp\n\
         tftp-root=/srv/tftp\n\
         dhcp-boot=pxelinux.0,,192.0.2.9\n\
         dhcp-range=2001:db8:1::,ra-only\n\
         addn-hosts=/run/n.names\n\
         log-queries\n"
    );
    assert_eq!(
        reserved(&network),
        "52:54:00:00:00:01,192.0.2.10,one\n\
         52:54:00:00:00:02,192.0.2.11,300s\n\
         three,192.0.2.12\n"
    );
    assert_eq!(records(&network), "192.0.2.7\tseven\tsept\n");
}

#[test]
fn guests_of_ipv6_are_known_by_identifier_or_name() {
    let network = network(
        "<network><name>n</name><forward mode='open'/><bridge name='virbr0'/><dns enable='no'/>\
         <ip family='ipv6' address='2001:db8:1::1' prefix='64'><dhcp>\
         <host id='0:3:0:1:52:54:0:0:0:1' name='one' ip='2001:db8:1::10'/>\
         <host name='two' ip='2001:db8:1::11'/></dhcp></ip></network>",
    );
    assert_eq!(
        reserved(&network),
        "id:0:3:0:1:52:54:0:0:0:1,one,[2001:db8:1::10]\ntwo,[2001:db8:1::11]\n"
    );
    let text = config(&network).unwrap();
    assert!(text.contains("port=0\n") && !text.contains("addn-hosts"), "{text}");
    assert!(text.contains("dhcp-range=2001:db8:1::,static,64\n"), "{text}");
}

#[test]
fn value_that_would_begin_another_option_is_refused() {
    let network = network(&DEFAULT.replace(
        "<bridge name='virbr0'/>",
        "<bridge name='virbr0'/><dns><txt name='x' value='y&#10;dhcp-script=/bin/sh'/></dns>",
    ));
    let message = config(&network).unwrap_err().to_string();
    assert_eq!(
        message,
        "network `default`: the value of dnsmasq's option `txt-record` has a control character in it"
    );
}

#[test]
fn networks_without_addresses_or_services_want_none() {
    let bridge = "<network><name>n</name><forward mode='bridge'/><bridge name='br0'/></network>";
    assert!(!is_wanted(&network(bridge)));
    let none =
        DEFAULT.replace("<bridge name='virbr0'/>", "<bridge name='virbr0'/><dns enable='no'/>");
    let none =
        none.replace("<dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>", "");
    assert!(!is_wanted(&network(&none)));
}
