//! Addresses as people give them: `host:port`, or a multiaddr.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};

/// An address that was given: `host:port`, which means TCP and QUIC, or a multiaddr, which means what it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    text: String,
    all: Vec<Multiaddr>,
}

impl Address {
    /// What it means for libp2p.
    pub fn multiaddrs(&self) -> &[Multiaddr] {
        &self.all
    }

    /// All addresses that some mean, without repetition.
    pub fn all<'a>(given: impl IntoIterator<Item = &'a Address>) -> Vec<Multiaddr> {
        let mut all: Vec<Multiaddr> = Vec::new();
        for address in given.into_iter().flat_map(|address| &address.all) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }
}

impl From<Multiaddr> for Address {
    fn from(address: Multiaddr) -> Self {
        Self { text: address.to_string(), all: vec![address] }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "`{text}` is no address ({why}): give host:port, for instance 192.168.1.20:4001, or a multiaddr, for instance /ip4/192.168.1.20/tcp/4001"
            )
        };
        let all = match text.starts_with('/') {
            true => vec![text.parse().map_err(|error: libp2p::multiaddr::Error| wrong(&error.to_string()))?],
            false => {
                let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("there is no port"))?;
                let port: u16 = port.parse().map_err(|_| wrong("the port is no number from 0 to 65535"))?;
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                let host = match host.parse::<IpAddr>() {
                    Ok(IpAddr::V4(ip)) => Protocol::Ip4(ip),
                    Ok(IpAddr::V6(ip)) => Protocol::Ip6(ip),
                    Err(_) if is_host_name(host) => Protocol::Dns(host.to_owned().into()),
                    Err(_) => return Err(wrong("the host is neither a name nor an IP address")),
                };
                let of = |transport: &[Protocol<'static>]| {
                    let mut address = Multiaddr::empty().with(host.clone());
                    transport.iter().for_each(|part| address.push(part.clone()));
                    address
                };
                vec![of(&[Protocol::Tcp(port)]), of(&[Protocol::Udp(port), Protocol::QuicV1])]
            }
        };
        Ok(Self { text: text.to_owned(), all })
    }
}

/// Whether this is the name of a host, and no IP address.
pub fn is_host_name(host: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    // Three or more numbers with dots are an IP address with a mistake in it.
    let is_number = host.split('.').all(|label| label.chars().all(|c| c.is_ascii_digit()));
    host.len() <= 253 && !is_number && host.split('.').all(is_label)
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Vec<String> {
        let address: Address = text.parse().expect("it is one");
        address.multiaddrs().iter().map(Multiaddr::to_string).collect()
    }

    #[test]
    fn host_and_port_mean_tcp_and_quic() {
        assert_eq!(meant("0.0.0.0:4001"), ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"]);
        assert_eq!(meant("[::1]:4001"), ["/ip6/::1/tcp/4001", "/ip6/::1/udp/4001/quic-v1"]);
        assert_eq!(meant("lab-3.local:4001"), ["/dns/lab-3.local/tcp/4001", "/dns/lab-3.local/udp/4001/quic-v1"]);
        assert_eq!(meant("/ip4/10.0.0.1/tcp/4001"), ["/ip4/10.0.0.1/tcp/4001"]);
    }

    #[test]
    fn what_is_no_address_is_told_with_one_that_is() {
        for wrong in
            ["", "10.0.0.1", "10.0.0.1:99999", "10.0.0:4001", ":4001", "a b:4001", "/ip4/10.0.0.1:4001", "http://a:1"]
        {
            let error = wrong.parse::<Address>().expect_err(wrong);
            assert!(error.contains("192.168.1.20:4001"), "{error}");
        }
    }

    #[test]
    fn an_address_is_remembered_as_it_was_given() {
        let address: Address = "lab-3:4001".parse().expect("it is one");
        let json = serde_json::to_string(&address).expect("a string");
        assert_eq!(json, "\"lab-3:4001\"");
        assert_eq!(serde_json::from_str::<Address>(&json).expect("it was written so"), address);
        assert!(serde_json::from_str::<Address>("\"nothing\"").is_err());
    }
}
