//! The child processes of all servers: how many, how large, and those that an earlier run left behind.
//!
//! Each is noted in a file of its own when it begins, and struck out when nothing is left of it. A gateway that was
//! killed strikes nothing out; the next one ends what is noted and still there. A process is known by its pid together
//! with the moment it began, which no other process of this boot has.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::disk::{self, Durability};
use super::limits::Limits;
use super::metric;
use super::proc::{self, Stat};

/// Between two readings of a child's memory; two in a row above the limit end it.
const PERIOD: Duration = Duration::from_secs(1);
const READINGS: u32 = 2;
/// How long children of an earlier run have to end after they were asked to.
const GRACE: Duration = Duration::from_secs(2);
const VERSION: u32 = 1;

pub struct Children {
    dir: Option<PathBuf>,
    max: Option<usize>,
    boot: String,
    /// Invariant: counts the places that are taken, by server.
    taken: Mutex<BTreeMap<Arc<str>, usize>>,
    memory: Mutex<Option<Reading>>,
    /// Cancelled when nothing is left of an earlier run.
    swept: CancellationToken,
}

/// Resident bytes by process group, and when that was.
type Reading = (Instant, HashMap<i32, u64>);

/// A child as it is noted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NotedV1 {
    version: u32,
    boot: String,
    pid: i32,
    started: u64,
    session: i32,
    server: String,
}

/// A child's place among those that may be. Dropped when nothing is left of the child.
pub struct Place {
    children: Arc<Children>,
    server: Arc<str>,
    file: Option<PathBuf>,
    group: Option<i32>,
    memory: Option<u64>,
}

impl Children {
    pub fn new(dir: Option<PathBuf>, max: Option<usize>) -> Arc<Children> {
        Arc::new(Children {
            dir,
            max,
            boot: proc::boot_id(),
            taken: Mutex::default(),
            memory: Mutex::default(),
            swept: CancellationToken::new(),
        })
    }

    /// The error is why there may be none more.
    pub fn claim(
        self: &Arc<Children>,
        server: &Arc<str>,
        limits: &Limits,
    ) -> Result<Place, String> {
        let mut taken = self.taken.lock();
        let of_server = taken.get(server).copied().unwrap_or(0);
        let all: usize = taken.values().sum();
        if let Some(max) = limits.max_children.filter(|it| *it <= of_server) {
            return Err(format!(
                "{max} of its children are there already, which is what its `limits.max_children` allows"
            ));
        }
        if let Some(max) = self.max.filter(|it| *it <= all) {
            return Err(format!(
                "{max} children are there already, which is what `gateway.max_children` allows"
            ));
        }
        taken.insert(server.clone(), of_server + 1);
        metric::children(server, of_server + 1);
        Ok(Place {
            children: self.clone(),
            server: server.clone(),
            file: None,
            group: None,
            memory: limits.memory,
        })
    }

    /// Groups of those that are noted.
    #[cfg(test)]
    fn noted(&self) -> Vec<i32> {
        let entries = std::fs::read_dir(self.dir.as_ref().unwrap()).unwrap().flatten();
        entries.filter_map(|it| it.path().file_stem()?.to_str()?.parse().ok()).collect()
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.taken.lock().values().sum()
    }

    /// Resident bytes of a group, not older than a moment: one look at all processes serves all who ask.
    fn resident(&self, group: i32) -> u64 {
        let mut memory = self.memory.lock();
        let is_fresh = |it: &Reading| it.0.elapsed() < PERIOD / 2;
        let seen = match memory.take().filter(is_fresh) {
            Some(it) => it,
            None => (Instant::now(), proc::resident_by_group()),
        };
        let bytes = seen.1.get(&group).copied().unwrap_or(0);
        *memory = Some(seen);
        bytes
    }

    /// Ends what an earlier run left. To be called once, before any child is started.
    pub async fn sweep(&self) {
        let done = self.swept.clone().drop_guard();
        let Some(dir) = &self.dir else { return };
        let mut left: Vec<(PathBuf, NotedV1)> = Vec::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match disk::read::<NotedV1>(&entry.path()) {
                Ok(Some(it)) if it.version == VERSION && it.is_there(&self.boot) => {
                    left.push((entry.path(), it));
                }
                _ => disk::remove(&entry.path()),
            }
        }
        for (_, it) in &left {
            tracing::warn!(
                "a child of the server `{}` outlived an earlier run (process group {}); it is ended",
                it.server,
                it.pid
            );
            signal(it.pid, Signal::TERM);
        }
        let deadline = Instant::now() + GRACE;
        while left.iter().any(|(_, it)| it.is_there(&self.boot)) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (file, it) in left {
            if it.is_there(&self.boot) {
                signal(it.pid, Signal::KILL);
            }
            disk::remove(&file);
        }
        drop(done);
    }

    pub async fn swept(&self) {
        self.swept.cancelled().await;
    }
}

impl NotedV1 {
    /// Whether the child, or something that it started, is still there, and is no stranger.
    fn is_there(&self, boot: &str) -> bool {
        if self.boot != boot || self.pid <= 1 {
            return false;
        }
        match Stat::of(self.pid) {
            Some(it) if it.started != self.started || it.group != self.pid => false,
            Some(it) if !it.is_zombie => true,
            // A pid is not given away while a group goes by it; and only what is of our session and began later can be
            // of that group.
            _ => proc::all().iter().any(|it| {
                it.group == self.pid
                    && it.session == self.session
                    && self.started <= it.started
                    && !it.is_zombie
            }),
        }
    }
}

fn signal(group: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        // Fails when nothing is left of the group, which is what is wanted.
        kill_process_group(group, signal).ok();
    }
}

impl Place {
    /// The child leads the group of this number.
    pub fn begun(&mut self, group: i32) {
        self.group = Some(group);
        let (Some(dir), Some(stat)) = (&self.children.dir, Stat::of(group)) else { return };
        let noted = NotedV1 {
            version: VERSION,
            boot: self.children.boot.clone(),
            pid: group,
            started: stat.started,
            session: stat.session,
            server: self.server.to_string(),
        };
        let file = dir.join(format!("{group}.json"));
        let bytes = serde_json::to_vec(&noted).expect("text and numbers can be written as JSON");
        match disk::replace(&file, &bytes, Durability::Process) {
            Ok(()) => self.file = Some(file),
            Err(err) => tracing::warn!("a child cannot be noted: {err}"),
        }
    }

    /// Returns when the child takes more memory than it may, and says so; without a limit, never.
    pub async fn over_memory(&self) -> String {
        let (Some(limit), Some(group)) = (self.memory, self.group) else {
            return std::future::pending().await;
        };
        let mut n_over = 0;
        loop {
            tokio::time::sleep(PERIOD).await;
            let children = self.children.clone();
            let resident = tokio::task::spawn_blocking(move || children.resident(group)).await;
            let resident = resident.unwrap_or(0);
            n_over = if limit < resident { n_over + 1 } else { 0 };
            if n_over == READINGS {
                return format!(
                    "it was ended because it took {} of memory, over its memory limit of {}",
                    megabytes(resident),
                    megabytes(limit)
                );
            }
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            disk::remove(file);
        }
        let mut taken = self.children.taken.lock();
        if let Some(n) = taken.get_mut(&self.server) {
            *n -= 1;
            metric::children(&self.server, *n);
            if *n == 0 {
                taken.remove(&self.server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        command.spawn().unwrap()
    }

    fn group_of(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    fn n_of_group(group: i32) -> usize {
        proc::all().iter().filter(|it| it.group == group && !it.is_zombie).count()
    }

    #[tokio::test]
    async fn children_of_a_killed_run_are_ended_with_what_they_started_and_strangers_are_not() {
        use std::io::Read;
        let dir = tempfile::tempdir().unwrap();
        let before = Children::new(Some(dir.path().to_owned()), None);
        let server: Arc<str> = "s".into();
        let note = |child: &Child| {
            let mut place = before.claim(&server, &Limits::default()).unwrap();
            place.begun(group_of(child));
            // As when the process is killed: nothing is struck out.
            std::mem::forget(place);
        };
        // One that does not listen to a request, with one that it started; both say that they are there.
        let mut deaf = shell("trap '' TERM; sleep 300 & echo; sleep 300");
        // One that is gone, and what it started is not.
        let mut orphaning = shell("sleep 300 & echo");
        for child in [&mut deaf, &mut orphaning] {
            let mut byte = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        }
        note(&deaf);
        note(&orphaning);
        orphaning.wait().unwrap();
        // Someone else who has got the number of one of ours.
        let mut stranger = shell("sleep 300");
        note(&stranger);
        let file = dir.path().join(format!("{}.json", stranger.id()));
        let mut noted: NotedV1 = disk::read(&file).unwrap().unwrap();
        noted.started -= 1;
        disk::replace(&file, &serde_json::to_vec(&noted).unwrap(), Durability::Process).unwrap();
        assert!(0 < n_of_group(group_of(&orphaning)));

        let after = Children::new(Some(dir.path().to_owned()), None);
        after.sweep().await;
        after.swept().await;
        deaf.wait().unwrap();
        assert_eq!(n_of_group(group_of(&deaf)), 0);
        assert_eq!(n_of_group(group_of(&orphaning)), 0);
        assert!(0 < n_of_group(group_of(&stranger)));
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
        signal(group_of(&stranger), Signal::KILL);
        stranger.wait().unwrap();
    }

    #[tokio::test]
    async fn two_hundred_crashes_leave_neither_zombies_nor_notes() {
        use crate::config::Reach;
        use crate::upstream::Link;
        use crate::upstream::stdio::StdioLink;
        let dir = tempfile::tempdir().unwrap();
        let children = Children::new(Some(dir.path().to_owned()), None);
        let (tasks, server) = (tokio_util::task::TaskTracker::new(), Arc::from("s"));
        // It starts something that would outlive it, and dies.
        let reach = Reach::Stdio {
            command: "sh".to_owned(),
            args: vec!["-c".to_owned(), "sleep 300 & exit 3".to_owned()],
            env: BTreeMap::new(),
            cwd: None,
        };
        let path = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let mut groups = Vec::new();
        for _ in 0..4 {
            let mut links = Vec::new();
            for _ in 0..50 {
                let place = children.claim(&server, &Limits::default());
                let place = place.unwrap_or_else(|it| panic!("{it}"));
                let (inbox, _) = tokio::sync::mpsc::unbounded_channel();
                links.push(StdioLink::start(&reach, &path, inbox, &tasks, place).unwrap());
            }
            groups.extend(children.noted());
            for link in links {
                link.closed().cancelled().await;
                link.close().await;
                assert!(link.reason().contains("exit status: 3"), "{}", link.reason());
            }
        }
        assert_eq!(children.n(), 0);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(groups.len(), 200);
        let left: Vec<Stat> =
            proc::all().into_iter().filter(|it| groups.contains(&it.group)).collect();
        let ours: Vec<&Stat> = left.iter().filter(|it| groups.contains(&it.pid)).collect();
        assert!(ours.is_empty(), "{ours:?}");
        // Of what they started, init reaps what is dead.
        assert!(left.iter().all(|it| it.is_zombie), "{left:?}");
    }

    #[test]
    fn there_are_no_more_than_may_be() {
        let children = Children::new(None, Some(3));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let two = Limits { max_children: Some(2), ..Limits::default() };
        let first = children.claim(&a, &two).unwrap_or_else(|it| panic!("{it}"));
        let _second = children.claim(&a, &two).unwrap_or_else(|it| panic!("{it}"));
        let said = children.claim(&a, &two).err().unwrap();
        assert!(said.contains("`limits.max_children`"), "{said}");
        let _third = children.claim(&b, &Limits::default()).unwrap_or_else(|it| panic!("{it}"));
        let said = children.claim(&b, &Limits::default()).err().unwrap();
        assert!(said.contains("`gateway.max_children`"), "{said}");
        drop(first);
        assert_eq!(children.n(), 2);
        assert!(children.claim(&a, &two).is_ok());
    }
}
