//! A local network for tests of mDNS, which doesn't work on loopback: two network namespaces and a cable between them. Needs
//! root and `ip`. The tests of the node use it too.

use std::process::{Child, Command, Stdio};

/// Two namespaces with a cable between them. Taken down when dropped.
pub(crate) struct Cable {
    /// The names of the namespaces.
    pub(crate) ends: [String; 2],
    /// The namespace of the switch in the middle, if there is one.
    switch: Option<String>,
    network: u8,
}

impl Cable {
    /// Lays a cable with the addresses `10.213.NETWORK.1` and `.2` at its ends; tests that run at the same time need different
    /// networks. `None` where namespaces can't be had.
    #[allow(dead_code, reason = "each test file uses a part")]
    pub(crate) fn lay(network: u8) -> Option<Self> {
        // A name of a link has at most 15 characters.
        let id = format!("{network}-{}", std::process::id());
        let cable = Self { ends: ["l", "r"].map(|end| format!("pl{id}{end}")), switch: None, network };
        let [left, right] = cable.ends.each_ref().map(String::as_str);
        let links = ["l", "r"].map(|end| format!("v{id}{end}"));
        let [l, r] = links.each_ref().map(String::as_str);
        let cabled = ip(&["netns", "add", left])
            && ip(&["netns", "add", right])
            && ip(&["link", "add", l, "netns", left, "type", "veth", "peer", "name", r, "netns", right]);
        let is_up = cabled && cable.up(0, l) && cable.up(1, r);
        is_up.then_some(cable)
    }

    /// The same with a switch in the middle, so that what is sent while it is off is lost, and neither end sees why.
    #[allow(dead_code, reason = "each test file uses a part")]
    pub(crate) fn lay_over_switch(network: u8) -> Option<Self> {
        let id = format!("{network}-{}", std::process::id());
        let switch = format!("pl{id}s");
        let ends = ["l", "r"].map(|end| format!("pl{id}{end}"));
        let cable = Self { ends, switch: Some(switch.clone()), network };
        let mut is_up =
            ip(&["netns", "add", &switch]) && ip(&["-n", &switch, "link", "add", "name", "lan", "type", "bridge"]);
        for (end, name) in cable.ends.iter().enumerate() {
            let (link, port) = (format!("v{id}{end}"), format!("p{end}"));
            is_up = is_up
                && ip(&["netns", "add", name])
                && ip(&["link", "add", &link, "netns", name, "type", "veth", "peer", "name", &port, "netns", &switch])
                && ip(&["-n", &switch, "link", "set", &port, "master", "lan", "up"])
                && cable.up(end, &link);
        }
        (is_up && cable.turn_switch("up")).then_some(cable)
    }

    fn up(&self, end: usize, link: &str) -> bool {
        let name = &self.ends[end];
        ip(&["-n", name, "addr", "add", &format!("{}/24", self.address(end)), "dev", link])
            && ip(&["-n", name, "link", "set", link, "up", "multicast", "on"])
            && ip(&["-n", name, "route", "add", "default", "dev", link])
    }

    /// Turns the switch off ("down") or on ("up").
    #[allow(dead_code, reason = "each test file uses a part")]
    pub(crate) fn turn_switch(&self, to: &str) -> bool {
        self.switch.as_ref().is_some_and(|switch| ip(&["-n", switch, "link", "set", "lan", to]))
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
        for name in self.ends.iter().chain(&self.switch) {
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
