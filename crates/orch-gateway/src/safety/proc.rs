//! What `/proc` says of processes.

use std::collections::HashMap;

/// Bytes of a page; the kernel counts resident memory in pages.
fn page() -> u64 {
    rustix::param::page_size() as u64
}

/// One line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// In ticks since the machine started: with the pid and the boot, it names one process for ever.
    pub(super) started: u64,
    /// Bytes.
    pub(super) resident: u64,
    pub(super) is_zombie: bool,
}

impl Stat {
    /// None: there is no such process.
    pub(super) fn of(pid: i32) -> Option<Stat> {
        parse(&fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

fn parse(line: &str) -> Option<Stat> {
    // The name of the program stands in parentheses and may contain anything.
    let (pid, rest) = line.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are counted from 1 in proc(5), and the first here is the third.
    let field = |n: usize| fields.get(n - 3).copied();
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
        resident: field(24)?.parse::<u64>().ok()? * page(),
        is_zombie: field(3)? == "Z",
    })
}

/// All that there are now.
pub(super) fn all() -> Vec<Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|it| it.file_name().to_str()?.parse().ok()).filter_map(Stat::of).collect()
}

/// Resident bytes of each process group. Memory that two processes share counts for both.
pub(super) fn resident_by_group() -> HashMap<i32, u64> {
    let mut out = HashMap::new();
    for it in all() {
        *out.entry(it.group).or_default() += it.resident;
    }
    out
}

/// Names the time since this machine, or the container of this process, was started. Empty where that is not told.
pub(super) fn boot_id() -> String {
    let id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let line = "12 (a) S (b) 1) R 1 77 66 0 -1 4194560 1 0 0 0 1 0 0 0 20 0 1 0 4242 1000 3 18446744073709551615 1";
        let it = parse(line).unwrap();
        assert_eq!((it.pid, it.group, it.session, it.started), (12, 77, 66, 4242));
        assert_eq!(it.resident, 3 * page());
        assert!(!it.is_zombie);
        assert_eq!(parse("12 (a"), None);
    }

    #[test]
    fn this_process_is_there() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let it = Stat::of(pid).unwrap();
        assert!(1_000_000 < it.resident && it.group != 0);
        assert!(it.resident <= resident_by_group()[&it.group] + 50_000_000);
        assert_eq!(boot_id().len(), 36);
    }
}
