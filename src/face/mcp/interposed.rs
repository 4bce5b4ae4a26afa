//! Between the client of a byte stream and the protocol's library: what is for the servers behind goes there as it is,
//! everything else goes through.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future;
use orch_core::Cx;
use orch_domain::caller::Caller;
use orch_gateway::catalog::List;
use orch_gateway::edge::Claim;
use orch_gateway::frame::{Frame, Kind};
use orch_gateway::view::View;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Face;
use super::stream::MAX_LINE;
use super::upstream::cancelled_id;

const BUFFER: usize = 256 * 1024;
/// Frames for a client that does not read; whoever has another waits.
const OUTGOING: usize = 256;

struct Interposed {
    face: Arc<Face>,
    caller: Caller,
    view: View,
    out: mpsc::Sender<Vec<u8>>,
    /// Our own lists under way, by the ids of their requests.
    lists: Mutex<HashMap<String, List>>,
    /// Requests at servers behind, by the client's ids.
    relays: Mutex<HashMap<String, CancellationToken>>,
    tasks: TaskTracker,
}

impl Face {
    /// Puts itself before `stream`, and returns what the library is to serve.
    pub(super) fn interpose(
        self: &Arc<Face>,
        caller: Caller,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (out, frames) = mpsc::channel(OUTGOING);
        let between = Arc::new(Interposed {
            face: self.clone(),
            view: View::of(Some(&caller)),
            caller,
            out,
            lists: Mutex::default(),
            relays: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        let (read, write) = tokio::io::split(stream);
        let (from_library, to_library) = tokio::io::split(theirs);
        let tracker = self.orch.tracker.clone();
        tracker.spawn(async move {
            // When the library has said its last word, there is nobody for the client to speak to.
            let ended = CancellationToken::new();
            let inward = between.clone().inward(read, to_library, ended.clone());
            let outward = async {
                between.outward(from_library).await;
                ended.cancel();
            };
            future::join3(inward, outward, write_all(write, frames)).await;
        });
        ours
    }
}

impl Interposed {
    /// From the client, until it closes.
    async fn inward(
        self: Arc<Interposed>,
        read: impl AsyncRead + Unpin,
        mut to_library: impl AsyncWrite + Unpin,
        ended: CancellationToken,
    ) {
        let mut read = BufReader::with_capacity(64 * 1024, read);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = tokio::select! {
                read = read_line(&mut read, &mut line) => read,
                () = ended.cancelled() => break,
            };
            if !matches!(read, Ok(true)) {
                break;
            }
            if !self.take(&line) && to_library.write_all(&line).await.is_err() {
                break;
            }
        }
        // Nobody waits for their answers any more.
        self.relays.lock().values().for_each(CancellationToken::cancel);
        self.tasks.close();
        self.tasks.wait().await;
        to_library.shutdown().await.ok();
    }

    /// Whether the message is none for the library.
    fn take(self: &Arc<Interposed>, line: &[u8]) -> bool {
        let Some(hub) = &self.face.hub else { return false };
        if hub.is_empty() {
            return false;
        }
        // What is no message is for the library to refuse.
        let Ok(frame) = Frame::parse(line) else { return false };
        if let Some(id) = cancelled_id(&frame) {
            return self.relays.lock().remove(&id).map(|it| it.cancel()).is_some();
        }
        let cx = Cx::new(Some(self.caller.clone()));
        let Some(id) = frame.id.clone() else { return false };
        match self.face.claim(&frame, &cx, &self.view) {
            Claim::Own => false,
            Claim::List(list) => {
                self.lists.lock().insert(id.get().to_owned(), list);
                false
            }
            Claim::Forward(forward) => {
                let (this, withdrawn) = (self.clone(), CancellationToken::new());
                self.relays.lock().insert(id.get().to_owned(), withdrawn.clone());
                self.tasks.spawn(async move {
                    let relayed = async {
                        let mut relay = match this.face.relay(forward, id.clone(), &cx).await {
                            Ok(it) => it,
                            Err(refusal) => return this.send(&refusal).await,
                        };
                        loop {
                            let frame = relay.next().await;
                            this.send(&frame).await;
                            if frame.kind() == Kind::Response {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = relayed => {}
                        () = withdrawn.cancelled() => {}
                        () = this.face.shutdown.cancelled() => {}
                    }
                    this.relays.lock().remove(id.get());
                });
                true
            }
        }
    }

    /// From the library, until it closes.
    async fn outward(self: Arc<Interposed>, from_library: impl AsyncRead + Unpin) {
        let mut read = BufReader::with_capacity(64 * 1024, from_library);
        loop {
            let mut line = Vec::new();
            match read_line(&mut read, &mut line).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
            if let Some(extended) = self.extended(&line).await {
                line = extended;
            }
            if self.out.send(line).await.is_err() {
                return;
            }
        }
    }

    /// An own list with what the servers behind have. None: it is no such list.
    async fn extended(&self, line: &[u8]) -> Option<Vec<u8>> {
        if self.lists.lock().is_empty() {
            return None;
        }
        let mut frame = Frame::parse(line).ok()?;
        if frame.kind() != Kind::Response {
            return None;
        }
        let list = self.lists.lock().remove(frame.id.as_ref()?.get())?;
        let hub = self.face.hub.as_ref()?;
        hub.settled().await;
        hub.extend(list, &self.view, &mut frame);
        let mut line = frame.to_line();
        line.push(b'\n');
        Some(line)
    }

    async fn send(&self, frame: &Frame) {
        let mut line = frame.to_line();
        line.push(b'\n');
        // A client that is gone needs no answer.
        self.out.send(line).await.ok();
    }
}

/// One line with its end. False: there are no more.
async fn read_line<R: AsyncRead + Unpin>(
    read: &mut BufReader<R>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    loop {
        let available = read.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|it| *it == b'\n');
        let n = end.map_or(available.len(), |it| it + 1);
        if MAX_LINE < line.len() + n {
            return Err(std::io::Error::other("the line is too long"));
        }
        line.extend_from_slice(&available[..n]);
        read.consume(n);
        if end.is_some() {
            return Ok(true);
        }
    }
}

async fn write_all(mut write: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        if write.write_all(&line).await.is_err() {
            return;
        }
        // Together, what is there together.
        if lines.is_empty() && write.flush().await.is_err() {
            return;
        }
    }
    write.shutdown().await.ok();
}
