//! Why a socket of a machine was not opened: the server says only that it was not, so somebody looks.

use std::time::Duration;

use orch_domain::trouble::Trouble;
use russh::ChannelMsg;
use russh::client::Handle;
use tokio_util::task::TaskTracker;

use super::host_key::Verifier;

/// It is a favour and may not cost much; a busy machine takes a while to start a shell, though.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks the machine's shell. One that has none, or does not answer, leaves it open.
pub(super) async fn at_socket(
    handle: &Handle<Verifier>,
    socket: &str,
    tasks: &TaskTracker,
) -> (Trouble, String) {
    let found = tokio::time::timeout(PATIENCE, ask(handle, socket, tasks)).await;
    let (trouble, why) = match found.ok().flatten() {
        Some(10) => (Trouble::SocketMissing, "there is no such socket"),
        Some(11) => (Trouble::SocketForbidden, "this user may not use it"),
        Some(12) => (Trouble::EngineStopped, "nothing listens there"),
        Some(13) => (
            Trouble::ForwardingForbidden,
            "somebody listens there, so it is configured not to; set `AllowStreamLocalForwarding yes`",
        ),
        _ => (Trouble::EngineStopped, "nothing listens there, or this user may not use it"),
    };
    (trouble, why.to_owned())
}

async fn ask(handle: &Handle<Verifier>, socket: &str, tasks: &TaskTracker) -> Option<u32> {
    let mut session = handle.channel_open_session().await.ok()?;
    let quoted = format!("'{}'", socket.replace('\'', r"'\''"));
    // A folder that may not be looked into hides its sockets. OpenSSH gives the same answer when nobody listens and when
    // it is told not to open sockets; the kernel's list of who listens tells them apart.
    let script = format!(
        "s={quoted}; d=${{s%/*}}; [ -z \"$d\" ] || [ ! -d \"$d\" ] || [ -x \"$d\" ] || exit 11; \
         [ -S \"$s\" ] || exit 10; [ -w \"$s\" ] || exit 11; \
         for p in \"$s\" \"$(readlink -f \"$s\")\"; do grep -q \" 00010000 .* $p\\$\" /proc/net/unix && exit 13; done; exit 12"
    );
    session.exec(true, script).await.ok()?;
    // To its end even if nobody waits: what the user's shell does at its start is not to be cut off half-way.
    let ended = tasks.spawn(async move {
        loop {
            if let ChannelMsg::ExitStatus { exit_status } = session.wait().await? {
                return Some(exit_status);
            }
        }
    });
    ended.await.ok().flatten()
}
