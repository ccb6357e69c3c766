//! What the fuzzer has found, as the sequences that showed it.

use anyhow::Result;
use vnet_tests::fuzz::replay;

/// Bytes behind the payload are the link's padding, and no extension header is in them.
#[test]
fn chain_of_headers_that_leaves_the_payload_is_malformed() -> Result<()> {
    replay(
        r#"
{"packet":{"at":"eth0","from":"[2001:db8:1804::9]:80","to":"[2001:db8:7::10]:1028 at eth0","body":"udp_bare","payload":64,"id":1,"fragment":[8,2],"damage":[{"byte":[19,0]}]}}
"#,
    )
}

/// The quote ends before the checksum, and the frame goes on: that is no checksum to translate.
#[test]
fn padding_behind_a_short_quote_is_not_translated() -> Result<()> {
    replay(
        r#"
{"packet":{"at":"virbr0","from":"192.168.122.10:1028","to":"198.51.100.77:80","body":"udp"}}
{"packet":{"at":"eth0","from":"198.18.3.9:0","to":"192.168.122.10:1028 at eth0","body":{"error":[3,3,{"from":"192.168.122.10:1028 at eth0","to":"198.51.100.77:80","body":"udp","payload":8,"ttl":63},26]},"damage":[{"pad":4}]}}
"#,
    )
}

/// The kernel knows no IPv6 route back by the interface that the packet came from.
#[test]
fn asymmetric_route_leaves_a_rejected_sender_without_an_answer_in_ipv6() -> Result<()> {
    replay(
        r#"
{"packet":{"at":"virbr0","leaves":true,"came_by":"eth0","from":"[2001:db8:1804::9]:443","to":"[fd00:122::10]:1025 at eth0","body":"udp"}}
"#,
    )
}

/// In IPv6 each fragment says what follows in the first one, and nobody checks that they agree.
#[test]
fn later_fragment_of_another_protocol_does_not_revive_a_reset_connection() -> Result<()> {
    replay(
        r#"
{"packet":{"at":"virbr1","from":"[fd00:123::10]:1026","to":"[2001:db8:1803::9]:443","body":{"tcp":2}}}
{"packet":{"at":"eth1","from":"[2001:db8:1803::9]:443","to":"[fd00:123::10]:1026 at eth1","body":{"tcp":16},"payload":64,"id":21,"fragment":[32,0]}}
{"packet":{"at":"eth1","from":"[2001:db8:1803::9]:443","to":"[fd00:123::10]:1026 at eth1","body":{"tcp":4}}}
{"packet":{"at":"eth1","from":"[2001:db8:1803::9]:443","to":"[fd00:123::10]:1026 at eth1","body":"udp_bare","payload":64,"id":21,"fragment":[24,1]}}
"#,
    )
}
