//! From here, or through another machine, to an SSH server: a connection, and the agreement on keys.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use orch_domain::ssh::SshHop;
use orch_domain::trouble::Trouble;
use russh::client::{self, Handle};
use russh::keys::Algorithm;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::SshError;
use super::host_key::Verifier;
use super::link::Link;

/// For the machine to answer at all: three packets lost in a row.
const REACH: Duration = Duration::from_secs(7);
/// A connection that says nothing is asked this often, and given up after so many questions without an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TRIES: usize = 3;

/// Agrees with the machine on keys and sees whether it is the right one; nobody is logged in yet.
pub(super) async fn handshake(
    endpoint: &SshHop,
    via: Option<&Arc<Link>>,
    verifier: Verifier,
    keys: Cow<'static, [Algorithm]>,
    reached: impl FnOnce(),
) -> Result<Handle<Verifier>, SshError> {
    match via {
        None => {
            let stream = reach(endpoint).await?;
            reached();
            agree(endpoint, stream, verifier, keys).await
        }
        Some(via) => {
            let on_the_way =
                |err| SshError::OnTheWay { to: endpoint.place(), cause: Box::new(err) };
            let stream = via.open_port(endpoint).await.map_err(on_the_way)?;
            reached();
            agree(endpoint, stream, verifier, keys).await
        }
    }
}

/// Whether an SSH server, or whatever it is, takes a connection there.
pub(super) async fn reach(endpoint: &SshHop) -> Result<TcpStream, SshError> {
    let no_answer =
        |why: String, trouble| SshError::NoAnswer { place: endpoint.place(), why, trouble };
    let failed = |err: std::io::Error| match err.kind() {
        ErrorKind::ConnectionRefused => {
            no_answer("no SSH server listens there".to_owned(), Trouble::NothingListens)
        }
        // The name's own failures have no kind.
        _ if err.raw_os_error().is_none() => no_answer(
            format!("the name `{}` is not known here ({err})", endpoint.host),
            Trouble::NameUnknown,
        ),
        _ => no_answer(err.to_string(), Trouble::NoAnswer),
    };
    let connect = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
    let stream = match tokio::time::timeout(REACH, connect).await {
        Ok(it) => it.map_err(failed)?,
        Err(_) => return Err(no_answer(format!("no answer within {REACH:?}"), Trouble::NoAnswer)),
    };
    // Requests are small, and each waits for its answer.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn agree(
    endpoint: &SshHop,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    verifier: Verifier,
    keys: Cow<'static, [Algorithm]>,
) -> Result<Handle<Verifier>, SshError> {
    let config = client::Config {
        keepalive_interval: Some(KEEP_ALIVE),
        keepalive_max: KEEP_ALIVE_TRIES,
        preferred: russh::Preferred { key: keys, ..russh::Preferred::DEFAULT },
        ..client::Config::default()
    };
    let expected = endpoint.host_key.as_ref().map(|it| &it.fingerprint);
    client::connect_stream(Arc::new(config), stream, verifier)
        .await
        .map_err(|err| err.at(&endpoint.place(), expected))
}
