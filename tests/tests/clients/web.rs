//! curl: the bytes of downloads and uploads.

use vnet_tests::lab::services::{HttpServer, Upload, content, hash};

use crate::internet::*;

#[test]
fn curl_downloads_and_uploads_the_same_bytes_over_both_families() -> anyhow::Result<()> {
    const LENGTH: usize = 3_000_000;
    on_each_port(|net| {
        for family in FAMILIES {
            let web = HttpServer::start(&net.server, at(family.server, 80))?;
            let url = format!("http://{}/bytes/{LENGTH}", web.address());
            let body = content(LENGTH);
            assert!(net.guest.curl(&url)? == body, "{}", family.switch);
            let answer = net.guest.curl_upload(&url, &body)?;
            let wanted = Upload { bytes: LENGTH as u64, hash: hash(&body) };
            assert_eq!(Upload::parse(&answer), Some(wanted), "{}", family.switch);
            let peers = web.peers();
            assert_eq!(peers.len(), 2);
            assert!(peers.iter().all(|peer| peer.ip() == ip(family.uplink)), "{peers:?}");
        }
        Ok(())
    })
}
