//! Our own operations as one more server: the protocol's library, connected inside the process. It is spoken to in frames
//! like every other, so that nothing around it has to know which server is which.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::caller::Caller;
use orch_gateway::frame::{Frame, Kind, Raw, raw};
use orch_gateway::members::Members;
use orch_gateway::upstream::pending::{Pending, SUBSCRIPTION};
use orch_gateway::upstream::{Exchange, Link, LinkError, Terms, Unowned};
use orch_gateway::view::View;
use rmcp::RoleServer;
use rmcp::service::{
    RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage, serve_server_with_ct,
};
use rmcp::transport::Transport;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Face;
use super::lent::LentModel;
use super::server::Server;
use super::stream::StreamError;

/// Who makes a request, where that is not settled once for the whole connection.
#[derive(Clone)]
pub(super) struct Asker(pub(super) Caller);

/// The model of the client whose request it is.
#[derive(Clone)]
pub(super) struct Lent(pub(super) Arc<LentModel>);

/// What comes in, and with whom.
struct Inward {
    frame: Frame,
    caller: Option<Caller>,
    model: Option<LentModel>,
}

pub(super) struct OwnServer {
    pending: Arc<Pending>,
    to_server: mpsc::UnboundedSender<Inward>,
    ended: CancellationToken,
}

/// The library's side of the connection.
struct InProcess {
    pending: Arc<Pending>,
    from_client: mpsc::UnboundedReceiver<Inward>,
    outside: mpsc::Sender<Frame>,
}

impl OwnServer {
    /// Runs until it is dropped or `ended`, which is cancelled when it is over. What belongs to no request goes to
    /// `outside`; a client that does not read it holds up only that. `caller` stands behind requests that name nobody.
    pub(super) fn start(
        face: Arc<Face>,
        caller: Option<Caller>,
        view: View,
        outside: mpsc::Sender<Frame>,
        ended: CancellationToken,
    ) -> (OwnServer, impl Future<Output = Result<(), StreamError>> + Send + 'static) {
        let (nobody, _) = mpsc::unbounded_channel();
        let pending = Pending::new(nobody);
        // A connection is one client's alone.
        pending.attribute(Unowned::Latest);
        let (to_server, from_client) = mpsc::unbounded_channel();
        let transport = InProcess { pending: pending.clone(), from_client, outside };
        let own = OwnServer { pending: pending.clone(), to_server, ended: ended.clone() };
        let run = async move {
            let server = Server::new(face, caller, view);
            let served = match serve_server_with_ct(server, transport, ended.clone()).await {
                Ok(serving) => serving.waiting().await.map(drop).map_err(StreamError::Task),
                // Nobody was there, or nobody is any more.
                Err(
                    ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled,
                ) => Ok(()),
                Err(err) => Err(StreamError::Handshake(Box::new(err))),
            };
            pending.fail_all("it ended");
            ended.cancel();
            served
        };
        (own, run)
    }

    pub(super) fn send_as(
        &self,
        method: &str,
        params: Option<Raw>,
        caller: Option<Caller>,
        model: Option<LentModel>,
    ) -> Result<Exchange, LinkError> {
        let (to_server, of_cancel) = (self.to_server.clone(), caller.clone());
        let (_, frame, exchange) = self.pending.begin(method, params, move |id| {
            let mut params = Members::default();
            params.set("requestId", &id);
            let frame = Frame::notification("notifications/cancelled", Some(params.to_raw()));
            // A server that has ended has nothing under way.
            to_server.send(Inward { frame, caller: of_cancel, model: None }).ok();
        });
        match self.to_server.send(Inward { frame, caller, model }) {
            Ok(()) => Ok(exchange),
            Err(_) => Err(LinkError::Closed { reason: "it has ended".to_owned() }),
        }
    }

    pub(super) fn tell_as(&self, frame: Frame, caller: Option<Caller>) {
        self.to_server.send(Inward { frame, caller, model: None }).ok();
    }
}

/// For answers to what it asks, which come back as those to any other server.
#[async_trait]
impl Link for OwnServer {
    async fn send(&self, method: &str, params: Option<Raw>) -> Result<Exchange, LinkError> {
        self.send_as(method, params, None, None)
    }

    async fn tell(&self, frame: Frame) -> Result<(), LinkError> {
        self.tell_as(frame, None);
        Ok(())
    }

    fn settle(&self, _: Terms) {}

    fn closed(&self) -> &CancellationToken {
        &self.ended
    }

    fn reason(&self) -> String {
        "the server ends".to_owned()
    }

    async fn close(&self) {
        self.ended.cancel();
    }
}

impl Transport<RoleServer> for InProcess {
    type Error = Infallible;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        let frame = serde_json::to_vec(&item).ok().and_then(|it| Frame::parse(&it).ok());
        let (pending, outside) = (self.pending.clone(), self.outside.clone());
        async move {
            let Some(frame) = frame else { return Ok(()) };
            if belongs_to_a_request(&frame) {
                pending.deliver(frame);
            } else {
                // A client that is gone needs no word.
                outside.send(frame).await.ok();
            }
            Ok(())
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Inward { frame, caller, model } = self.from_client.recv().await?;
            match serde_json::from_slice::<RxJsonRpcMessage<RoleServer>>(&frame.to_line()) {
                Ok(mut message) => {
                    if let Some(caller) = caller {
                        message.insert_extension(Asker(caller));
                    }
                    if let Some(model) = model {
                        message.insert_extension(Lent(Arc::new(model)));
                    }
                    return Some(message);
                }
                // Notifications that are not known are not for us.
                Err(_) if frame.kind() != Kind::Request => {}
                Err(err) => {
                    let id = frame.id.unwrap_or_else(|| raw(&()));
                    let message = format!("the request is not as the protocol has it: {err}");
                    self.pending.deliver(Frame::error(id, -32600, &message));
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), Infallible> {
        self.from_client.close();
        Ok(())
    }
}

fn belongs_to_a_request(frame: &Frame) -> bool {
    frame.kind() != Kind::Notification
        || frame.is("notifications/message")
        || frame.is("notifications/progress")
        || frame.params.as_ref().is_some_and(|it| it.get().contains(SUBSCRIPTION))
}
