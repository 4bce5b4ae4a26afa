//! Docker's HTTP API in streams of an SSH connection.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::errors::Error as Cause;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use http::Uri;
use http::header::UPGRADE;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::connect::NO_LIMIT_SECS;
use crate::ssh::{Channel, Lane, Link, SshError};

/// Streams that wait for the next call, so that it needs no round trip to open one.
const MOST_IDLE: usize = 8;
const IDLE: Duration = Duration::from_secs(30);

pub(super) fn connect(link: &Arc<Link>, socket: &str) -> Result<Docker, Cause> {
    let streams = |lane: Lane| {
        let (link, socket) = (Arc::clone(link), socket.to_owned());
        tower::service_fn(move |_: Uri| {
            let (link, socket) = (Arc::clone(&link), socket.clone());
            // The client wants it pinned.
            Box::pin(async move {
                Ok::<_, SshError>(Stream(TokioIo::new(link.open(&socket, lane).await?)))
            })
        })
    };
    let calls = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MOST_IDLE)
        .build(streams(Lane::Call));
    let followers = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(streams(Lane::Follow));
    let transport = move |request: BollardRequest| {
        let response = match is_followed(&request) {
            true => followers.request(request),
            false => calls.request(request),
        };
        async move { response.await.map_err(what_failed) }
    };
    Docker::connect_with_custom_transport(
        transport,
        Some("http://docker"),
        NO_LIMIT_SECS,
        API_DEFAULT_VERSION,
    )
}

/// Whether its answer goes on for as long as something else does.
fn is_followed(request: &BollardRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.headers().contains_key(UPGRADE)
        || request.uri().path().ends_with("/events")
        || query.split('&').any(|it| matches!(it, "follow=true" | "follow=1"))
}

/// What SSH said, where the cause is there.
fn what_failed(err: hyper_util::client::legacy::Error) -> Cause {
    let mut source = err.source();
    while let Some(it) = source {
        if let Some(ssh) = it.downcast_ref::<SshError>() {
            return Cause::IOError { err: std::io::Error::other(ssh.clone()) };
        }
        source = it.source();
    }
    Cause::from(err)
}

/// Names the stream a connection in the eyes of the HTTP client.
struct Stream(TokioIo<Channel>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
