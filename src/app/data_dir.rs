//! The data directory: whose it is at the moment, and where its parts are.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::app::database;
use crate::config::Config;

/// Longest path of a Unix socket, minus its name.
const MAX_PATH: usize = 107 - "/mcp-orch.sock".len();

#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// Who holds a data directory, as its lock file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// Of the HTTP server; a process that only speaks MCP on its stdin has none.
    pub port: Option<u16>,
    pub url: Option<String>,
    pub version: String,
}

impl Holder {
    /// This process, before it listens.
    pub fn this_process() -> Holder {
        Holder {
            pid: std::process::id(),
            port: None,
            url: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}", self.pid)?;
        match self.port {
            Some(port) => write!(f, ", port {port}")?,
            None => write!(f, ", no port: it serves an MCP client over stdio")?,
        }
        write!(f, ", version {}", self.version)
    }
}

/// The right to use a data directory; the kernel gives it back when the process ends, however it ends.
pub struct Lock {
    file: File,
}

pub enum Locking {
    Ours(Lock),
    /// Somebody else's. Nothing is known of them in the moment before they wrote it down.
    Held(Option<Holder>),
}

impl DataDir {
    /// Where it is, or would be.
    pub fn place(config: &Config) -> anyhow::Result<PathBuf> {
        match &config.server.data_dir {
            Some(it) => std::path::absolute(it).context("the data directory has no absolute path"),
            None => default_path(),
        }
    }

    /// As it is: nothing is made. `None`: no process has used it yet.
    pub fn find(config: &Config) -> anyhow::Result<Option<DataDir>> {
        let dir = DataDir { path: DataDir::place(config)? };
        Ok(dir.lock_file().exists().then_some(dir))
    }

    /// The directory of a state that is there. One that was mistyped is refused and not made.
    pub fn open_existing(config: &Config) -> anyhow::Result<DataDir> {
        let path = DataDir::place(config)?;
        if !database::is_there(&path) {
            bail!(
                "there is no state of mcp-orch in `{}`\n\
                 hint: name the data directory of the server with `--data-dir`",
                path.display()
            );
        }
        DataDir::open(config)
    }

    /// Makes the directory if it is not there; only its owner can look inside.
    pub fn open(config: &Config) -> anyhow::Result<DataDir> {
        let path = DataDir::place(config)?;
        if MAX_PATH < path.as_os_str().len() {
            bail!(
                "the path of the data directory is longer than {MAX_PATH} bytes, too long for its socket: `{}`\n\
                 hint: choose a shorter one with `--data-dir`",
                path.display()
            );
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("the data directory `{}` cannot be made", path.display()))?;
        let dir = DataDir { path };
        dir.close_to_others()?;
        Ok(dir)
    }

    /// Only its owner may look inside. A directory with other files keeps its mode, as it may be a home: what we put
    /// into it is private by itself, unless others could exchange it.
    fn close_to_others(&self) -> anyhow::Result<()> {
        let path = &self.path;
        let mode = fs_err::metadata(path)?.permissions().mode();
        let is_ours = || -> anyhow::Result<bool> {
            Ok(self.lock_file().exists() || fs_err::read_dir(path)?.next().is_none())
        };
        if mode & 0o077 != 0 && is_ours()? {
            fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
        } else if mode & 0o002 != 0 {
            bail!(
                "everybody may write to `{}`\n\
                 hint: choose a directory of your own, or a new one, with `--data-dir`",
                path.display()
            );
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("mcp-orch.sock")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Writes the first credentials where only the owner of the directory can read them.
    pub fn keep_credentials(&self, text: &str) -> anyhow::Result<PathBuf> {
        use std::io::Write;
        let path = self.path.join("first-login.txt");
        // A new file: one that is there already could be somebody's who then reads along.
        drop(fs_err::remove_file(&path));
        let mut file = fs_err::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .context("the first credentials cannot be kept")?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(path)
    }

    /// Takes the lock, or says who has it.
    pub fn lock(&self) -> anyhow::Result<Locking> {
        let path = self.lock_file();
        let file = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?
            .into_file();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let lock = Lock { file };
                lock.announce(&Holder::this_process())?;
                Ok(Locking::Ours(lock))
            }
            Err(Errno::WOULDBLOCK) => Ok(Locking::Held(read_holder(file))),
            Err(err) => Err(err).with_context(|| format!("`{}` cannot be locked", path.display())),
        }
    }

    /// Takes the lock for a process that cannot do without it.
    pub fn lock_or_refuse(&self) -> anyhow::Result<Lock> {
        match self.lock()? {
            Locking::Ours(it) => Ok(it),
            Locking::Held(holder) => bail!("{}", self.refusal(holder.as_ref())),
        }
    }

    fn refusal(&self, holder: Option<&Holder>) -> String {
        let dir = self.path.display();
        let Some(holder) = holder else {
            return format!(
                "the data directory `{dir}` is in use by another mcp-orch that is just starting\n\
                 hint: try again, or choose another with `--data-dir`"
            );
        };
        let use_it = match &holder.url {
            Some(url) => format!("use that one at {url}"),
            None => "end the MCP client that started it".to_owned(),
        };
        format!(
            "the data directory `{dir}` is in use by another mcp-orch ({holder})\n\
             hint: {use_it}, stop it with `kill {}`, or choose another directory with `--data-dir`",
            holder.pid
        )
    }

    /// Who holds the directory now; `None` when nobody does.
    pub fn holder(&self) -> Option<Holder> {
        let file = fs_err::File::open(self.lock_file()).ok()?.into_file();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => read_holder(file),
            _ => None,
        }
    }
}

fn read_holder(mut file: File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(text.lines().next()?).ok()
}

fn default_path() -> anyhow::Result<PathBuf> {
    use etcetera::BaseStrategy;
    let dirs = etcetera::choose_base_strategy()
        .context("there is no home directory\nhint: choose a data directory with `--data-dir`")?;
    Ok(dirs.data_dir().join("mcp-orch"))
}

impl Lock {
    /// Writes down who holds the directory.
    pub fn announce(&self, holder: &Holder) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(holder)?;
        text.push('\n');
        // First the line, then its end: a reader takes the first line, and never finds none.
        self.file.write_all_at(text.as_bytes(), 0).context("the lock file cannot be written")?;
        self.file.set_len(text.len() as u64).context("the lock file cannot be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> anyhow::Result<DataDir> {
        let mut config = Config::default();
        config.server.data_dir = Some(path.to_owned());
        DataDir::open(&config)
    }

    #[test]
    fn a_second_holder_is_told_of_the_first() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open(&temp.path().join("a/b")).unwrap();
        assert_eq!(fs_err::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(dir.holder(), None);

        let lock = dir.lock_or_refuse().unwrap();
        let holder = Holder {
            port: Some(3000),
            url: Some("http://127.0.0.1:3000".to_owned()),
            ..Holder::this_process()
        };
        lock.announce(&holder).unwrap();
        assert_eq!(dir.holder(), Some(holder));
        let refusal = dir.lock_or_refuse().err().unwrap().to_string();
        let pid = std::process::id();
        assert!(refusal.contains(&format!("pid {pid}, port 3000")), "{refusal}");
        assert!(refusal.contains(&format!("`kill {pid}`")), "{refusal}");

        lock.announce(&Holder::this_process()).unwrap();
        assert_eq!(dir.holder(), Some(Holder::this_process()));
        drop(lock);
        assert_eq!(dir.holder(), None);
        dir.lock_or_refuse().unwrap();
    }

    #[test]
    fn a_directory_of_others_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let set = |mode| {
            fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let mode = || fs_err::metadata(temp.path()).unwrap().permissions().mode() & 0o777;
        fs_err::write(temp.path().join("theirs"), "").unwrap();
        set(0o777);
        let err = open(temp.path()).unwrap_err().to_string();
        assert!(err.contains("everybody may write"), "{err}");
        assert_eq!(mode(), 0o777);
        set(0o755);
        open(temp.path()).unwrap();
        assert_eq!(mode(), 0o755);
        // Empty, it becomes ours.
        fs_err::remove_file(temp.path().join("theirs")).unwrap();
        open(temp.path()).unwrap();
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn a_path_too_long_for_the_socket_is_refused_at_once() {
        let err = open(&PathBuf::from(format!("/tmp/{}", "x".repeat(120)))).unwrap_err();
        assert!(err.to_string().contains("--data-dir"), "{err}");
    }
}
