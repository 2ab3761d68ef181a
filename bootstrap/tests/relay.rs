//! A node that can't be dialled is reached through the bootstrap. Relays are not used on loopback, so the test needs an
//! address beyond it; without one it says so and passes.

mod common;

use std::net::UdpSocket;

use common::{peer, run_file, until};
use paceline_bootstrap::{DiscoveryEvent, ServeOptions, node_id, serve};
use tokio::sync::oneshot;

/// This machine's address towards others. Nothing is sent.
fn own_ip() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn nodes_that_listen_nowhere_meet_through_the_relay() {
    let Some(ip) = own_ip() else {
        eprintln!("skipped: there is no address beyond loopback");
        return;
    };
    let (tell, told) = oneshot::channel();
    let listen = vec![format!("/ip4/{ip}/tcp/0").parse().expect("a multiaddr")];
    let options = ServeOptions { listen, ..ServeOptions::default() };
    tokio::spawn(async move {
        serve(options, |ready| drop(tell.send(ready)), std::future::pending()).await.expect("serves");
    });
    let ready: paceline_bootstrap::Ready = told.await.expect("it listens");
    let given = common::parse(&ready.addresses);
    let file = run_file(1);
    // Neither listens on an address of its own, so neither can dial the other: all that is left is the relay.
    let mut hidden = common::node_listening(&file, &given, &[]).await;
    let mut other = common::node_listening(&file, &given, &[]).await;
    let wanted = node_id(&peer(&hidden));
    until(&mut [&mut other, &mut hidden], |i, event| {
        (i == 0 && matches!(event, DiscoveryEvent::PeerUp(node) if Some(*node) == wanted)).then_some(())
    })
    .await;
    for swarm in [&hidden, &other] {
        let addresses = common::addresses(swarm);
        assert!(!addresses.is_empty(), "it has a place at the relay");
        assert!(addresses.iter().all(|a| a.to_string().contains("/p2p-circuit")), "{addresses:?}");
    }
    eprintln!("ran at {ip}");
}
