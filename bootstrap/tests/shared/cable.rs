//! A local network for tests of mDNS, which doesn't work on loopback: two network namespaces and a cable between them. Needs
//! root and `ip`. The tests of the node use it too.

use std::process::{Child, Command, Stdio};

/// Two namespaces with a cable between them. Taken down when dropped.
pub(crate) struct Cable {
    /// The names of the namespaces.
    pub(crate) ends: [String; 2],
    network: u8,
}

impl Cable {
    /// Lays a cable with the addresses `10.213.NETWORK.1` and `.2` at its ends; tests that run at the same time need different
    /// networks. `None` where namespaces can't be had.
    pub(crate) fn lay(network: u8) -> Option<Self> {
        // A name of a link has at most 15 characters.
        let id = format!("{network}-{}", std::process::id());
        let cable = Self { ends: ["l", "r"].map(|end| format!("pl{id}{end}")), network };
        let [left, right] = cable.ends.each_ref().map(String::as_str);
        let links = ["l", "r"].map(|end| format!("v{id}{end}"));
        let [l, r] = links.each_ref().map(String::as_str);
        let cabled = ip(&["netns", "add", left])
            && ip(&["netns", "add", right])
            && ip(&["link", "add", l, "netns", left, "type", "veth", "peer", "name", r, "netns", right]);
        let up = |(end, (name, link)): (usize, (&str, &str))| {
            ip(&["-n", name, "addr", "add", &format!("{}/24", cable.address(end)), "dev", link])
                && ip(&["-n", name, "link", "set", link, "up", "multicast", "on"])
                && ip(&["-n", name, "route", "add", "default", "dev", link])
        };
        let is_up = cabled && [(left, l), (right, r)].into_iter().enumerate().all(up);
        is_up.then_some(cable)
    }

    /// Takes an end of the cable out ("down"), or puts it back ("up").
    #[allow(dead_code, reason = "each test file uses a part")]
    pub(crate) fn set(&self, end: usize, to: &str) -> bool {
        let link = format!("v{}-{}{}", self.network, std::process::id(), ["l", "r"][end]);
        ip(&["-n", &self.ends[end], "link", "set", &link, to])
    }

    /// The IP address of an end, 0 or 1.
    pub(crate) fn address(&self, end: usize) -> String {
        format!("10.213.{}.{}", self.network, end + 1)
    }

    /// A command that runs in the namespace of an end, 0 or 1.
    pub(crate) fn at(&self, end: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ends[end]]).arg(program);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.ends {
            ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A process that ends with this.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
