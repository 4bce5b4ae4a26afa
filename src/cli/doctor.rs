//! `doctor`: what works on this machine, and what to do about what does not.

mod docker;
mod llm;
mod nodes;
mod ray;

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use orch_core::ports::clock::{Clock, SystemClock};
use orch_domain::time::Timestamp;

use super::args::{DoctorArgs, Globals};
use super::{ExitStatus, chain, print};
use crate::app::data_dir::{DataDir, Locking};
use crate::app::{database, machine};
use crate::config::{Config, Env};

/// Less free space than this is too little for images and the database.
const MIN_FREE: u64 = 1 << 30;

/// One thing that was looked at.
struct Finding {
    subject: Cow<'static, str>,
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, but less than it could.
    Poor,
    Bad,
}

fn good(subject: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Finding {
    Finding { subject: subject.into(), verdict: Verdict::Good, text: text.into() }
}

fn poor(subject: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Finding {
    Finding { subject: subject.into(), verdict: Verdict::Poor, text: text.into() }
}

fn bad(subject: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Finding {
    Finding { subject: subject.into(), verdict: Verdict::Bad, text: text.into() }
}

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &DoctorArgs,
) -> anyhow::Result<ExitStatus> {
    let version = env!("CARGO_PKG_VERSION");
    let os = rustix::system::uname();
    let system = format!("{} {}", os.sysname().to_string_lossy(), os.release().to_string_lossy());
    let mut findings = vec![good("version", format!("mcp-orch {version} on {system}"))];
    let config = match globals.load(env) {
        Ok(config) => {
            let file = globals.config_file();
            let file =
                file.map_or("no file, all defaults".to_owned(), |it| it.display().to_string());
            findings.push(good("config", file));
            Some(config)
        }
        Err(err) => {
            findings.push(bad("config", chain(&err)));
            None
        }
    };
    let config = config.unwrap_or_default();
    if args.node.is_none() {
        findings.push(clock());
        findings.extend(data_dir(&config));
        findings.extend(docker::look(&machine::docker_socket(env)).await);
        findings.push(port_range(&config));
        findings.extend(ray::look(&config).await);
        findings.extend(llm::look(&config).await);
    }
    findings.extend(nodes::look(env, &config, args.node.as_deref()).await);
    show(&findings)?;
    let is_bad = findings.iter().any(|it| it.verdict == Verdict::Bad);
    Ok(if is_bad { ExitStatus::Failed } else { ExitStatus::Done })
}

fn show(findings: &[Finding]) -> anyhow::Result<()> {
    for it in findings {
        let mark = match it.verdict {
            Verdict::Good => "ok  ",
            Verdict::Poor => "note",
            Verdict::Bad => "FAIL",
        };
        let text = it.text.replace("\n\n", "\n").replace('\n', &format!("\n{:17}", ""));
        print(format!("{mark} {:11} {text}", it.subject))?;
    }
    Ok(())
}

/// A clock before this program was made is wrong, and then tokens and TLS are too.
fn clock() -> Finding {
    let now = SystemClock.now();
    let made = std::env::current_exe()
        .and_then(|it| it.metadata()?.modified())
        .ok()
        .and_then(|it| it.duration_since(std::time::UNIX_EPOCH).ok())
        .and_then(|it| i64::try_from(it.as_millis()).ok())
        .map_or(Timestamp::ZERO, Timestamp::from_millis);
    if now < made {
        return bad(
            "clock",
            format!(
                "it is {now} here, before this program was made ({made})\nhint: set the clock, or let NTP do it"
            ),
        );
    }
    good("clock", now.to_string())
}

fn data_dir(config: &Config) -> Vec<Finding> {
    let found = DataDir::place(config).and_then(|place| Ok((place, DataDir::find(config)?)));
    let dir = match found {
        Ok((_, Some(it))) => it,
        // Looking makes nothing.
        Ok((place, None)) => {
            let made = place.ancestors().find(|it| it.exists()).unwrap_or(&place);
            return vec![
                space(made),
                good("server", "none runs on this data directory"),
                good(
                    "database",
                    format!("none yet; the first start makes it in `{}`", place.display()),
                ),
                port(config),
            ];
        }
        Err(err) => return vec![bad("data", chain(&err))],
    };
    let mut findings = vec![space(dir.path())];
    match dir.lock() {
        Ok(Locking::Ours(_lock)) => {
            findings.push(good("server", "none runs on this data directory"));
            findings.push(database(dir.path()));
            findings.push(port(config));
        }
        Ok(Locking::Held(holder)) => {
            let who = holder.map_or("one that is just starting".to_owned(), |it| {
                it.url.as_ref().map_or(it.to_string(), |url| format!("{url} ({it})"))
            });
            findings.push(good("server", format!("running: {who}")));
        }
        Err(err) => findings.push(bad("data", chain(&err))),
    }
    findings
}

fn space(path: &Path) -> Finding {
    let shown = path.display();
    match rustix::fs::statvfs(path) {
        Ok(it) => {
            let free = it.f_bavail.saturating_mul(it.f_frsize);
            let text = format!("`{shown}`, {:.1} GiB free", free as f64 / (1u64 << 30) as f64);
            if free < MIN_FREE {
                return poor(
                    "data",
                    format!("{text}\nhint: free some space; images and the database need it"),
                );
            }
            good("data", text)
        }
        Err(err) => bad("data", format!("`{shown}`: {err}")),
    }
}

/// Opening it checks all of it.
fn database(path: &Path) -> Finding {
    if !path.join("store").exists() {
        return good("database", "none yet; the first start makes it");
    }
    match database::check(path) {
        Ok(()) => good("database", "whole"),
        Err(err) => bad("database", chain(&err)),
    }
}

fn port(config: &Config) -> Finding {
    let port = config.server.port;
    match TcpListener::bind((config.server.host.as_str(), port)) {
        Ok(_) => good("port", format!("{port} is free to serve on")),
        Err(err) => poor(
            "port",
            format!("{port} cannot be listened on: {err}\nhint: serve with another `--port`"),
        ),
    }
}

fn port_range(config: &Config) -> Finding {
    let range = config.compute.port_range.0;
    let is_taken = |port: &u16| {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
        TcpListener::bind(address).is_err()
    };
    let n_taken = range.from(range.first()).filter(is_taken).count();
    let text = format!(
        "{}-{} for instances, {} of {} free",
        range.first(),
        range.last(),
        range.len() - n_taken,
        range.len()
    );
    if range.len() - n_taken < range.len() / 10 {
        return poor("ports", format!("{text}\nhint: choose another `compute.port_range`"));
    }
    good("ports", text)
}
