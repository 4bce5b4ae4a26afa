//! An interactive session in a container, on a connection of its own.
//!
//! bollard reads every attached session through its decoder of multiplexed frames. On a terminal there are no frames,
//! and a program that writes a small byte first would have its output taken for a header that announces gigabytes. So
//! the session speaks HTTP by itself until the engine switches to raw bytes.

use std::sync::Arc;

use async_trait::async_trait;
use bollard::exec::ResizeExecOptions;
use bollard::models::{ExecConfig, ExecStartConfig};
use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use orch_core::ports::engine::{EngineError, Terminal, TerminalSize, Terminals};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::ReaderStream;
use tokio_util::task::TaskTracker;

use super::DockerEngine;
use super::connect::{Endpoint, PATIENT, QUICK};
use super::error::Failure;
use super::exec::Mark;
use crate::ssh::Lane;

#[async_trait]
impl Terminals for DockerEngine {
    async fn open(
        &self,
        name: &str,
        command: Vec<String>,
        size: TerminalSize,
    ) -> Result<Terminal, EngineError> {
        let mark = Mark::new();
        let config = ExecConfig {
            cmd: Some(command),
            env: Some(vec!["TERM=xterm-256color".to_owned(), mark.variable()]),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(true),
            ..ExecConfig::default()
        };
        let id = self.create_exec(name, config).await?;
        let session = Arc::new(Session {
            engine: self.clone(),
            tracker: self.tracker.clone(),
            name: name.to_owned(),
            exec_id: id,
            mark,
        });
        let upgraded = tokio::time::timeout(PATIENT, session.start())
            .await
            .unwrap_or(Err(Failure::Engine(EngineError::Timeout { after: PATIENT })))
            .map_err(|err| err.of_container(name))?;
        session.resize(size).await?;

        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let kept = Arc::clone(&session);
        let output = ReaderStream::new(read).map(move |it| {
            let _ends_the_session_when_dropped = &kept;
            it.map_err(|err| EngineError::Unreachable { source: Box::new(err) })
        });
        Ok(Terminal {
            output: output.boxed(),
            input: Box::pin(write),
            resize: Arc::new(move |size| {
                let session = Arc::clone(&session);
                Box::pin(async move { session.resize(size).await })
            }),
        })
    }
}

/// Ends its command when the last part of the terminal is dropped: the engine would let it run.
struct Session {
    engine: DockerEngine,
    tracker: TaskTracker,
    name: String,
    exec_id: String,
    mark: Mark,
}

impl Session {
    async fn start(&self) -> Result<Upgraded, Failure> {
        let version = self.engine.connection.docker().await?.client_version();
        let path = format!("/v{version}/exec/{}/start", self.exec_id);
        let unreachable = |err: std::io::Error| EngineError::Unreachable { source: Box::new(err) };
        match &self.engine.connection.endpoint {
            Endpoint::Unix { path: socket } => {
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                switch_to_raw(stream, "docker", &path).await
            }
            Endpoint::Tcp { authority } => {
                let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                switch_to_raw(stream, authority, &path).await
            }
            Endpoint::Ssh { link, socket } => {
                let stream = link.open(socket, Lane::Follow).await;
                let stream = stream.map_err(|err| EngineError::from(&err))?;
                switch_to_raw(stream, "docker", &path).await
            }
        }
    }

    async fn resize(&self, size: TerminalSize) -> Result<(), EngineError> {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        let resize = self
            .engine
            .connection
            .call(QUICK, |docker| async move { docker.resize_exec(&self.exec_id, options).await });
        match resize.await {
            // The command has ended meanwhile; its output says so.
            Ok(()) | Err(Failure::Said { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (engine, name) = (self.engine.clone(), std::mem::take(&mut self.name));
        let mark = std::mem::replace(&mut self.mark, Mark::new());
        self.tracker.spawn(async move { engine.end_marked(&name, &mark).await });
    }
}

async fn switch_to_raw(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> Result<Upgraded, Failure> {
    let unreachable = |err: hyper::Error| EngineError::Unreachable { source: Box::new(err) };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    let start = ExecStartConfig { detach: Some(false), tty: Some(true), console_size: None };
    let body = serde_json::to_vec(&start).unwrap_or_default();
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .body(Full::new(Bytes::from(body)))
        .map_err(bollard::errors::Error::from)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(hyper::upgrade::on(response).await.map_err(unreachable)?);
        }
        let body = Limited::new(response.into_body(), 64 * 1024).collect().await;
        let body = body.map(|it| it.to_bytes()).unwrap_or_default();
        let said: Option<Said> = serde_json::from_slice(&body).ok();
        Err(Failure::Said {
            status: status.as_u16(),
            message: said.map_or_else(|| format!("HTTP status {status}"), |it| it.message),
        })
    };
    // The connection has to be driven for the exchange to go on, and hands itself over at the switch.
    let connection = connection.with_upgrades();
    tokio::pin!(exchange);
    tokio::select! {
        out = &mut exchange => out,
        _ = connection => exchange.await,
    }
}

#[derive(serde::Deserialize)]
struct Said {
    message: String,
}
