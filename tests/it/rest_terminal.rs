//! The terminal of an instance over a real WebSocket.

use futures::{SinkExt, StreamExt};
use orch_domain::audit::Outcome;
use orch_domain::caller::Permission;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::harness::cloud::{Cloud, ask};
use crate::harness::{docker, eventually, image, within};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A cloud behind a socket.
struct Served {
    cloud: Cloud,
    address: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn served(cloud: Cloud) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = cloud.router.clone();
    let server = cloud.orch().tracker.spawn(async move {
        axum::serve(listener, router).await.unwrap();
    });
    Served { cloud, address, server }
}

impl Served {
    async fn open(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, Box<http::Response<Option<Vec<u8>>>>> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        match within("the handshake", connect_async(request)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => Err(Box::new(*response)),
            Err(err) => panic!("{err}"),
        }
    }

    async fn refused(&self, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let response = self.open(path, headers).await.expect_err("it should be refused");
        let body = response.body().as_deref().unwrap_or_default();
        (response.status().as_u16(), serde_json::from_slice(body).unwrap())
    }
}

const USER: (&str, &str) = ("x-user-id", "user-demo-001");

async fn running(cloud: &Cloud, body: &Value) -> String {
    let launch = ask("POST", "/instances").header(USER.0, USER.1).json(body);
    launch.of(cloud).await.ok(201)["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn refusals_come_before_the_terminal_opens() {
    let server = served(Cloud::demo().await).await;
    let cloud = &server.cloud;
    let id = running(cloud, &json!({"image": "busybox"})).await;
    let path = format!("/instances/{id}/terminal");

    let reader = cloud.api_key("user-demo-001", &[Permission::Read, Permission::Write]).await;
    let bearer = format!("Bearer {reader}");
    let (status, problem) = server.refused(&path, &[("authorization", &bearer)]).await;
    assert_eq!((status, &problem["needs"]), (403, &json!("execute")), "{problem}");
    let (status, problem) = server.refused(&path, &[("authorization", "Bearer wrong")]).await;
    assert_eq!((status, &problem["error"]), (401, &json!("Unauthenticated")));
    let (status, problem) =
        server.refused(&path, &[USER, ("origin", "http://evil.example.com")]).await;
    assert_eq!((status, &problem["header"]), (403, &json!("Origin")));
    let (status, problem) =
        server.refused("/instances/i-00000000000000000/terminal", &[USER]).await;
    assert_eq!((status, &problem["error"]), (404, &json!("NotFound")));
    let (status, problem) = server.refused(&format!("{path}?rows=0"), &[USER]).await;
    assert_eq!((status, &problem["parameter"]), (400, &json!("rows")));
    // The simulated engine has no terminals, and says what there is instead.
    let (status, problem) = server.refused(&path, &[USER]).await;
    assert_eq!(status, 409);
    assert!(problem["message"].as_str().unwrap().contains("exec_in_instance"), "{problem}");
    // Not a WebSocket at all.
    let plain = ask("GET", &path).header(USER.0, USER.1).of(cloud).await;
    plain.problem(426, "UpgradeRequired");
    ask("POST", &path).header(USER.0, USER.1).of(cloud).await.problem(405, "MethodNotAllowed");
    ask("POST", &format!("/instances/{id}/stop")).header(USER.0, USER.1).of(cloud).await.ok(200);
    let (status, problem) = server.refused(&path, &[USER]).await;
    assert_eq!((status, &problem["error"]), (409, &json!("IncorrectState")));

    let refused = cloud.audit().into_iter().filter(|it| it.operation == "open_terminal");
    let refused: Vec<_> = refused.collect();
    assert!(refused.iter().all(|it| it.outcome == Outcome::Refused && it.user.is_some()));
    assert!(5 <= refused.len());
}

async fn read_until(socket: &mut Socket, wanted: &str) -> String {
    let mut text = String::new();
    within(wanted, async {
        while !text.contains(wanted) {
            match socket.next().await.expect("the terminal is open").unwrap() {
                Message::Binary(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Close(frame) => panic!("{wanted} did not come but {frame:?}: {text}"),
                _ => {}
            }
        }
    })
    .await;
    text
}

async fn close_code(socket: &mut Socket) -> u16 {
    within("the close frame", async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    assert!(!frame.reason.is_empty());
                    return frame.code.into();
                }
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    })
    .await
}

async fn typed(socket: &mut Socket, text: &str) {
    socket.send(Message::binary(text.as_bytes().to_vec())).await.unwrap();
}

#[tokio::test]
async fn bytes_go_both_ways_in_a_real_container() {
    if docker::connect().await.is_none() {
        return;
    }
    let server = served(Cloud::demo_on_docker(docker::ENDPOINT).await).await;
    let cloud = &server.cloud;
    let body = json!({"image": image::IMAGE, "command": ["sleep", "600"], "node_id": "docker"});
    let id = running(cloud, &body).await;
    let path = format!("/instances/{id}/terminal?columns=100&rows=30");

    // As a browser does it, with its credential as a subprotocol.
    let key = cloud.api_key("user-demo-001", &[Permission::Execute, Permission::Read]).await;
    let protocols = format!("mcp-orch, bearer.{key}");
    let headers = [("sec-websocket-protocol", protocols.as_str())];
    let mut socket = server.open(&path, &headers).await.unwrap();
    typed(&mut socket, "echo $((6*7))-here\n").await;
    read_until(&mut socket, "42-here").await;
    // More than the terminal's own buffers hold, while it shows it all again.
    let flood = format!("{}\n", "x".repeat(200)).repeat(300);
    typed(&mut socket, &format!("cat > /dev/null\n{flood}\u{4}")).await;
    typed(&mut socket, "echo after-$((1+1))\n").await;
    read_until(&mut socket, "after-2").await;
    let resize = json!({"resize": {"columns": 132, "rows": 43}});
    socket.send(Message::text(resize.to_string())).await.unwrap();
    typed(&mut socket, "exit\n").await;
    assert_eq!(close_code(&mut socket).await, 1000);

    let mut socket = server.open(&path, &[USER]).await.unwrap();
    socket.send(Message::text("ls\n")).await.unwrap();
    assert_eq!(close_code(&mut socket).await, 1003);

    let mut socket = server.open(&path, &[USER]).await.unwrap();
    typed(&mut socket, "echo up\n").await;
    read_until(&mut socket, "up").await;
    cloud.orch().shutdown.cancel();
    assert_eq!(close_code(&mut socket).await, 1001);

    let audit = eventually("the audit has their ends", || async {
        let audit = cloud.audit().into_iter().filter(|it| it.operation == "open_terminal");
        let audit: Vec<_> = audit.collect();
        audit.iter().all(|it| it.outcome == Outcome::Succeeded).then_some(audit)
    })
    .await;
    assert_eq!(audit.len(), 3);
    assert!(audit.iter().all(|it| it.targets == [id.clone()] && it.elapsed_ms.is_some()));
    cloud.remove_containers().await;
}
