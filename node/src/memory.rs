//! The memory of this process and of the machine, as Linux tells it; elsewhere nobody does.

/// The most that it has held.
pub(crate) fn peak() -> Option<u64> {
    told("VmHWM:")
}

/// What it holds now.
pub(crate) fn resident() -> Option<u64> {
    told("VmRSS:")
}

/// What the machine has left for programs.
pub(crate) fn available() -> Option<u64> {
    told_in("/proc/meminfo", "MemAvailable:")
}

/// Bytes under a name in its status.
fn told(name: &str) -> Option<u64> {
    told_in("/proc/self/status", name)
}

fn told_in(file: &str, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
