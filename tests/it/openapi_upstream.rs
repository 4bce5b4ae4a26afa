//! APIs with an OpenAPI document as servers behind: every operation a tool, every call one request.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::eventually;
use crate::harness::server::{Server, Setup};

/// What an API was asked: method, path with query, headers, body.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    uri: String,
    headers: HeaderMap,
    body: String,
}

#[derive(Default)]
struct Api {
    document: String,
    asked: Mutex<Vec<Asked>>,
}

impl Api {
    async fn start(document: &str) -> (Arc<Api>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Arc::new(Api { document: document.to_owned(), asked: Mutex::default() });
        let router = Router::new().fallback(any(serve)).with_state(api.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        (api, url)
    }

    fn last(&self) -> Asked {
        self.asked.lock().last().unwrap().clone()
    }

    fn n_asked(&self) -> usize {
        self.asked.lock().len()
    }
}

async fn serve(
    State(api): State<Arc<Api>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if uri.path() == "/doc.yaml" {
        return api.document.clone().into_response();
    }
    api.asked.lock().push(Asked {
        method: method.to_string(),
        uri: uri.to_string(),
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    match uri.path() {
        "/v1/fails" => (StatusCode::CONFLICT, "it is taken").into_response(),
        "/v1/moved" => {
            (StatusCode::FOUND, [("location", "http://127.0.0.1:9/elsewhere")]).into_response()
        }
        "/v1/nothing" => StatusCode::NO_CONTENT.into_response(),
        "/v1/huge" => "x".repeat(9 * 1024 * 1024).into_response(),
        "/v1/slow" => std::future::pending().await,
        "/v1/image" => ([("content-type", "image/png")], vec![0xff_u8, 0xd8, 0x00]).into_response(),
        "/v1/list" => ([("content-type", "application/json")], "[1, 2]").into_response(),
        _ => {
            ([("content-type", "application/json")], r#"{"price":0.70,"n":123456789012345678901}"#)
                .into_response()
        }
    }
}

const DOCUMENT: &str = r##"
openapi: 3.0.3
info: {title: Odd shop, version: "7", description: Sells odd things.}
servers: [{url: /v1}]
paths:
  /items/{id}/parts/{part}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
      - {name: part, in: path, required: true, schema: {type: array, items: {type: string}}}
    get:
      operationId: getPart
      summary: One part
      parameters:
        - {name: tags, in: query, schema: {type: array, items: {type: string}}}
        - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: filter, in: query, style: deepObject, schema: {type: object}}
        - {name: where, in: query, content: {application/json: {schema: {type: object}}}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: flavor, in: cookie, schema: {type: string}}
      responses: {200: {description: ok}}
  /items:
    post:
      operationId: makeItem
      parameters: [{name: dry, in: query, schema: {type: boolean}}]
      requestBody:
        required: true
        content:
          application/json:
            schema: {$ref: '#/components/schemas/Item'}
      responses: {201: {description: made}}
  /form:
    post:
      operationId: form
      requestBody: {content: {application/x-www-form-urlencoded: {schema: {type: object, properties: {a: {}, b: {type: array, items: {}}}}}}}
      responses: {200: {description: ok}}
  /fails: {get: {operationId: fails, responses: {}}}
  /moved: {get: {operationId: moved, responses: {}}}
  /nothing: {delete: {operationId: nothing, responses: {}}}
  /huge: {get: {operationId: huge, responses: {}}}
  /slow: {get: {operationId: slow, responses: {}}}
  /image: {get: {operationId: image, responses: {}}}
  /list: {get: {operationId: list, responses: {}}}
components:
  schemas:
    Item:
      type: object
      required: [name]
      properties:
        name: {type: string}
        price: {type: number}
        like: {$ref: '#/components/schemas/Item'}
        far: {$ref: 'http://127.0.0.1:9/never-fetched.json'}
"##;

async fn gateway(dir: &std::path::Path, entry: Value) -> Server {
    let file = dir.join("mcp-config.json");
    fs_err::write(&file, json!({"mcpServers": {"api": entry}}).to_string()).unwrap();
    let setup = Setup::no_auth(dir).argument("--mcp-config").argument(file.to_str().unwrap());
    setup.start().await
}

async fn state(server: &Server, wanted: &str) -> Value {
    eventually(wanted, || async {
        let servers = server.get("/servers").await["servers"].clone();
        (servers[0]["state"] == wanted).then(|| servers[0].clone())
    })
    .await
}

async fn call(server: &Server, tool: &str, arguments: Value) -> Value {
    let (status, result) =
        server.call("POST", &format!("/tools/api.{tool}"), Some(arguments)).await;
    assert_eq!(status, 200, "{result}");
    result
}

#[tokio::test]
async fn arguments_go_where_the_document_says() {
    let dir = tempfile::tempdir().unwrap();
    let (api, url) = Api::start(DOCUMENT).await;
    let entry = json!({
        "openapi": format!("{url}/doc.yaml"), "headers": {"Authorization": "Bearer s3cret"},
        "tools": {"deny": ["list"], "rename": {"makeItem": "make"}}
    });
    let server = gateway(dir.path(), entry).await;
    let shown = state(&server, "ready").await;
    assert_eq!(
        (&shown["transport"], &shown["software"]),
        (&json!("openapi"), &json!("Odd shop 7"))
    );
    let tools = server.get("/tools/api").await;
    let names: Vec<&str> =
        tools["tools"].as_array().unwrap().iter().map(|it| it["tool"].as_str().unwrap()).collect();
    assert!(names.contains(&"make") && !names.contains(&"list"), "{names:?}");
    assert_eq!(api.n_asked(), 0, "nothing of the API was asked, and nothing elsewhere fetched");

    let result = call(&server, "getPart", json!({
        "id": "a/b ?#%", "part": ["x", "y,z"], "tags": ["one", "two &"], "ids": [1, 2], "filter": {"a": 1},
        "where": {"b": [true]}, "X-Trace": "t-1", "flavor": "sweet; not"
    }))
    .await;
    let asked = api.last();
    assert_eq!(asked.method, "GET");
    assert_eq!(
        asked.uri,
        "/v1/items/a%2Fb%20%3F%23%25/parts/x,y%2Cz?tags=one&tags=two+%26&ids=1%2C2&filter%5Ba%5D=1&where=%7B%22b%22%3A%5Btrue%5D%7D"
    );
    assert_eq!(asked.headers["x-trace"], "t-1");
    assert_eq!(asked.headers["cookie"], "flavor=sweet%3B%20not");
    assert_eq!(asked.headers["authorization"], "Bearer s3cret");
    assert_eq!(result["isError"], false);
    assert_eq!(result["structuredContent"]["price"], 0.7);
    assert_eq!(result["content"][0]["text"], r#"{"price":0.70,"n":123456789012345678901}"#);

    call(&server, "make", json!({"dry": true, "name": "n", "price": 0.70, "like": {"name": "m"}}))
        .await;
    let asked = api.last();
    assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("POST", "/v1/items?dry=true"));
    let body: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(body, json!({"name": "n", "price": 0.7, "like": {"name": "m"}}));
    assert_eq!(asked.headers["content-type"], "application/json");
    call(&server, "form", json!({"a": "x y&z", "b": [1, 2]})).await;
    assert_eq!(api.last().body, "a=x%20y%26z&b=1&b=2");
}

#[tokio::test]
async fn no_argument_leads_out_of_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let (api, url) = Api::start(DOCUMENT).await;
    let server = gateway(dir.path(), json!({"openapi": format!("{url}/doc.yaml")})).await;
    state(&server, "ready").await;
    for id in ["..", ".", ""] {
        let refused = call(&server, "getPart", json!({"id": id, "part": ["x"]})).await;
        assert_eq!(refused["isError"], true, "{id}: {refused}");
    }
    let refused = call(&server, "getPart", json!({"part": ["x"]})).await;
    assert!(
        refused["content"][0]["text"].as_str().unwrap().contains("`id` is missing"),
        "{refused}"
    );
    let refused =
        call(&server, "getPart", json!({"id": "a", "part": ["x"], "X-Trace": "a\r\nHost: b"}))
            .await;
    assert!(refused["content"][0]["text"].as_str().unwrap().contains("`X-Trace`"), "{refused}");
    assert_eq!(api.n_asked(), 0);
    for id in ["../../admin", "a/../../b", "%2e%2e", "//evil.example", "http://evil.example"] {
        call(&server, "getPart", json!({"id": id, "part": ["x"]})).await;
        let uri = api.last().uri;
        assert!(uri.starts_with("/v1/items/") && uri.ends_with("/parts/x"), "{id}: {uri}");
        assert_eq!(uri.split('/').count(), 6, "{id}: {uri}");
    }
    // Nobody listens where it points to, so this would fail otherwise if it were followed.
    let moved = call(&server, "moved", json!({})).await;
    let said = moved["content"][0]["text"].as_str().unwrap();
    assert!(
        moved["isError"] == true && said.contains("302") && said.contains("elsewhere"),
        "{said}"
    );
}

#[tokio::test]
async fn every_kind_of_answer_is_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let (api, url) = Api::start(DOCUMENT).await;
    let entry = json!({"openapi": format!("{url}/doc.yaml"), "timeout": 2});
    let server = gateway(dir.path(), entry).await;
    state(&server, "ready").await;
    let failed = call(&server, "fails", json!({})).await;
    assert_eq!(failed["isError"], true);
    assert_eq!(failed["content"][0]["text"], "HTTP 409 Conflict\nit is taken");
    let nothing = call(&server, "nothing", json!({})).await;
    assert_eq!(
        (&nothing["isError"], &nothing["content"][0]["text"]),
        (&json!(false), &json!("HTTP 204 No Content"))
    );
    let huge = call(&server, "huge", json!({})).await;
    assert!(huge["content"][0]["text"].as_str().unwrap().contains("larger than"), "{huge}");
    let image = call(&server, "image", json!({})).await;
    assert_eq!(
        image["content"][0],
        json!({"type": "image", "data": "/9gA", "mimeType": "image/png"})
    );
    let list = call(&server, "list", json!({})).await;
    assert_eq!(
        (&list["content"][0]["text"], list.get("structuredContent")),
        (&json!("[1, 2]"), None)
    );
    let (status, refusal) = server.call("POST", "/tools/api.slow", Some(json!({}))).await;
    assert_eq!((status, &refusal["error"]), (504, &json!("UpstreamTimeout")), "{refusal}");
    assert_eq!(api.last().uri, "/v1/slow");
}

#[tokio::test]
async fn a_document_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("swagger.json");
    fs_err::write(&file, r#"{"swagger": "2.0"}"#).unwrap();
    let server = gateway(dir.path(), json!({"openapi": file})).await;
    let failed = state(&server, "failed").await;
    assert!(failed["reason"].as_str().unwrap().contains("Swagger 2.0"), "{failed}");
    // Of a file without an address of the API, too; and once it says so, it is taken up by itself.
    let good = json!({"openapi": "3.1.0", "info": {"title": "x", "version": "1"}, "paths": {}});
    fs_err::write(&file, good.to_string()).unwrap();
    eventually("the other reason", || async {
        let servers = server.get("/servers").await;
        let reason = servers["servers"][0]["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("`base_url`").then_some(())
    })
    .await;
    let body =
        json!({"name": "api", "openapi": file, "base_url": "http://127.0.0.1:9", "replace": true});
    let (status, added) = server.call("POST", "/servers", Some(body)).await;
    assert_eq!(status, 201, "{added}");
    state(&server, "ready").await;
    for bad in [
        json!({"openapi": "x", "command": "y"}),
        json!({"openapi": "x", "base_url": "ftp://y"}),
        json!({"url": "http://127.0.0.1:9", "base_url": "http://127.0.0.1:9"}),
    ] {
        let text = json!({"mcpServers": {"api": bad}}).to_string();
        assert!(orch_gateway::config::McpConfig::parse(&text, &|_| None).is_err(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_product_is_described_well_enough_to_be_behind_itself() {
    let inner = tempfile::tempdir().unwrap();
    let inner = Setup::no_auth(inner.path()).start().await;
    let node = json!({"id": "sim-1", "hostname": "sim-1", "engine": "sim"});
    assert_eq!(inner.call("POST", "/cluster/nodes", Some(node)).await.0, 201);
    let dir = tempfile::tempdir().unwrap();
    let entry = json!({"openapi": format!("{}/openapi.json", inner.url)});
    let server = gateway(dir.path(), entry).await;
    state(&server, "ready").await;

    let listed = server.get("/tools/api?page_size=500").await;
    let tools = listed["tools"].as_array().unwrap();
    let n_operations =
        orch_core::ops::catalogue().iter().map(|it| it.spec.routes.len()).sum::<usize>();
    assert!(n_operations <= tools.len(), "{} tools of {n_operations} routes", tools.len());
    for tool in tools {
        for schema in [&tool["input_schema"], &tool["output_schema"]] {
            if !schema.is_null() {
                jsonschema::validator_for(schema)
                    .unwrap_or_else(|err| panic!("{}: {err}: {schema}", tool["name"]));
            }
        }
    }
    let named = |start: &str| {
        let found = tools.iter().find(|it| it["tool"].as_str().unwrap().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in {listed}")).clone()
    };
    let nodes = call(&server, named("list_nodes")["tool"].as_str().unwrap(), json!({})).await;
    let listed = nodes["structuredContent"]["nodes"].as_array().unwrap();
    assert!(listed.iter().any(|it| it["id"] == "sim-1"), "{nodes}");
    let tool = named("launch_instance");
    let wanted = json!({"name": "web", "image": "nginx:alpine", "ports": [80], "node_id": "sim-1"});
    let launched = call(&server, tool["tool"].as_str().unwrap(), wanted).await;
    let instance = &launched["structuredContent"];
    assert_eq!(
        (&launched["isError"], &instance["state"]),
        (&json!(false), &json!("running")),
        "{launched}"
    );
    let tool = named("terminate_instance");
    assert_eq!(tool["annotations"]["destructiveHint"], true);
    let gone = call(&server, tool["tool"].as_str().unwrap(), json!({"id": instance["id"]})).await;
    assert_eq!(gone["structuredContent"]["state"], "terminated", "{gone}");
}
