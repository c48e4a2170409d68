//! How much memory a process has, as the system counts it.

/// Resident bytes, now and at their highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resident {
    pub(super) now: u64,
    pub(super) most: u64,
}

impl Resident {
    /// What Linux says of this process; None on systems that do not say it there.
    pub(super) fn read() -> Option<Resident> {
        Resident::of(std::process::id())
    }

    /// The same of another process; None also when there is no such one.
    pub(super) fn of(process: u32) -> Option<Resident> {
        Resident::parse(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Resident> {
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
        };
        Some(Resident { now: bytes("VmRSS")?, most: bytes("VmHWM")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_are_understood() {
        let status = "Name:\tvljepa\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(Resident::parse(status), Some(Resident { now: 1 << 20, most: 2 << 20 }));
        assert_eq!(Resident::parse("Name:\tvljepa\n"), None);
    }
}
