//! Who may do what over REST: every route of the catalogue, every kind of credential, every foreign site.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::header;
use mcp_orch::auth::{Access, Mode, Sites};
use orch_core::operation::Method;
use orch_core::ops;
use orch_domain::audit::Outcome;
use orch_domain::caller::Permission;
use orch_domain::tool_access::ToolPatterns;
use serde_json::json;
use tower::ServiceExt;

use crate::harness::cloud::{Cloud, ask};

/// Every method and path of the catalogue, at both places, with something in place of each parameter.
fn routes() -> Vec<(&'static str, Option<Permission>, &'static str, String)> {
    let mut routes = Vec::new();
    for op in ops::catalogue() {
        for route in op.spec.routes {
            let method = match route.method {
                Method::Get => "GET",
                Method::Post => "POST",
                Method::Put => "PUT",
                Method::Delete => "DELETE",
            };
            let segments = route.path.split('/').map(|it| match it {
                "{id}" => "i-0123456789abcdef0",
                "{key_id}" => "k-0123456789ab",
                it if it.starts_with('{') => "something",
                it => it,
            });
            let path = segments.collect::<Vec<_>>().join("/");
            routes.push((op.spec.name, op.spec.needs, method, path.clone()));
            routes.push((op.spec.name, op.spec.needs, method, format!("/api{path}")));
        }
    }
    assert!(18 <= routes.len());
    routes
}

#[tokio::test]
async fn every_route_is_refused_without_a_credential() {
    let cloud = Cloud::start().await;
    for (name, needs, method, path) in routes() {
        // Also with a body that is wrong in every way: strangers learn nothing from how it is judged.
        let reply = ask(method, &path).json(&json!({"nonsense": 1})).of(&cloud).await;
        if needs.is_none() {
            continue;
        }
        reply.problem(401, "Unauthenticated");
        let challenge = reply.header(header::WWW_AUTHENTICATE);
        assert!(challenge.starts_with("Bearer"), "{name}: {challenge}");
    }
    assert_eq!(cloud.audit().len(), 0, "strangers do not fill the audit");
    cloud.assert_untouched();
}

#[tokio::test]
async fn every_route_is_refused_to_a_caller_without_its_permission() {
    let cloud = Cloud::start().await;
    let none = cloud.api_key("user-demo-001", &[]).await;
    let reader = cloud.api_key("user-demo-001", &[Permission::Read]).await;
    let all_but_admin = [Permission::Read, Permission::Write, Permission::Execute].to_vec();
    let user = cloud.api_key("user-demo-001", &all_but_admin).await;
    let mut n_refused = 0;
    for (name, needs, method, path) in routes() {
        let Some(needs) = needs else { continue };
        for (key, has) in
            [(&none, &[][..]), (&reader, &[Permission::Read]), (&user, &all_but_admin)]
        {
            let reply =
                ask(method, &path).bearer(key).json(&json!({"nonsense": 1})).of(&cloud).await;
            if has.contains(&needs) {
                assert_ne!(reply.status, 403, "{name} {method} {path}: {}", reply.text);
                assert_ne!(reply.status, 401, "{name} {method} {path}: {}", reply.text);
            } else {
                let problem = reply.problem(403, "Forbidden");
                assert_eq!(problem["needs"], json!(needs), "{name}");
                assert_eq!(problem["operation"], name);
                n_refused += 1;
            }
        }
    }
    assert!(20 <= n_refused);
    cloud.assert_untouched();
}

#[tokio::test]
async fn every_route_is_reached_by_who_may() {
    let cloud = Cloud::start().await;
    let key = cloud.api_key("user-admin-001", &Permission::ALL).await;
    for (name, _, method, path) in routes() {
        let reply = ask(method, &path).bearer(&key).json(&json!({"nonsense": 1})).of(&cloud).await;
        // The operation itself refuses the arguments, so it was reached.
        let problem = match name {
            // Whatever is sent is the argument of a tool, of which there is none of that name.
            "call_tool" => reply.problem(404, "NotFound"),
            // Takes nothing, and tells what there is.
            _ => reply.problem(400, "InvalidParameter"),
        };
        assert!(name == "call_tool" || problem["parameter"].is_string(), "{name}: {problem}");
    }
}

#[tokio::test]
async fn a_refused_change_is_in_the_audit_with_its_client() {
    let cloud = Cloud::start().await;
    let reader = cloud.api_key("user-demo-001", &[Permission::Read]).await;
    ask("POST", "/instances")
        .bearer(&reader)
        .header("user-agent", "curl/8.1\u{9b}[31m")
        .json(&json!({"image": "nginx"}))
        .of(&cloud)
        .await
        .problem(403, "Forbidden");
    let audit = cloud.audit();
    let entry = &audit[0];
    assert_eq!(entry.operation, "launch_instance");
    assert_eq!(entry.outcome, Outcome::Refused);
    assert_eq!(entry.user.as_ref().unwrap().as_str(), "user-demo-001");
    let reader = ask("POST", "/instances").bearer(&reader).header("user-agent", &"x".repeat(500));
    reader.json(&json!({})).of(&cloud).await.problem(403, "Forbidden");
    assert_eq!(cloud.audit()[0].client.as_ref().unwrap().len(), 120);
}

#[tokio::test]
async fn a_wrong_credential_is_never_anonymous() {
    let cloud = Cloud::demo().await;
    let key = cloud.api_key("user-demo-001", &[Permission::Read]).await;
    let forged = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJtY3Atb3JjaCIsInN1YiI6InVzZXItYWRtaW4tMDAxIiwiYXQiOjAsImlhdCI6MCwiZXhwIjo5OTk5OTk5OTk5fQ.";
    let other_end = if key.ends_with('0') { '1' } else { '0' };
    let wrong: Vec<(&str, String)> = vec![
        ("authorization", "Bearer nonsense".to_owned()),
        ("authorization", "Bearer ".to_owned()),
        ("authorization", "Bearer".to_owned()),
        ("authorization", format!("Bearer {forged}")),
        ("authorization", "Basic ZGVtbzpkZW1v".to_owned()),
        ("authorization", format!("Bearer {}{other_end}", &key[..key.len() - 1])),
        ("authorization", "Bearer mo-".to_owned()),
        ("x-api-key", "nonsense".to_owned()),
        ("x-user-id", "user-nobody-001".to_owned()),
        ("x-user-id", "'; DROP TABLE users".to_owned()),
    ];
    for (name, value) in &wrong {
        for path in ["/instances", "/health", "/openapi.json"] {
            let reply = ask("GET", path).header(name, value).of(&cloud).await;
            let problem = reply.problem(401, "Unauthenticated");
            assert!(
                reply.header(header::WWW_AUTHENTICATE).starts_with("Bearer"),
                "{name}: {value}"
            );
            assert!(!problem.to_string().contains(&key[15..]), "a credential is not repeated");
        }
    }
    let two = ask("GET", "/auth/me").bearer(&key).header("x-api-key", "another").of(&cloud).await;
    two.problem(401, "Unauthenticated");
    ask("GET", "/auth/me").bearer(&key).header("x-api-key", &key).of(&cloud).await.ok(200);
}

#[tokio::test]
async fn both_headers_take_both_kinds_of_credential() {
    let cloud = Cloud::start().await;
    let key = cloud.api_key("user-demo-001", &[Permission::Read]).await;
    let name = "demo".parse().unwrap();
    let (_, token) = cloud.orch().login(&name, "demo", ToolPatterns::default()).await.unwrap();
    for credential in [&key, &token.text] {
        for (header, value) in [
            ("authorization", format!("Bearer {credential}")),
            ("authorization", format!("bearer {credential}")),
            ("x-api-key", credential.clone()),
        ] {
            let me = ask("GET", "/auth/me").header(header, &value).of(&cloud).await.ok(200);
            assert_eq!(me["id"], "user-demo-001");
        }
    }
}

#[tokio::test]
async fn a_header_names_a_user_in_a_demo_only() {
    let demo = Cloud::demo().await;
    let me = ask("GET", "/auth/me").header("x-user-id", "user-admin-001").of(&demo).await;
    assert_eq!(me.ok(200)["id"], "user-admin-001");
    // A credential is more than a header.
    let key = demo.api_key("user-demo-001", &[Permission::Read]).await;
    let me = ask("GET", "/auth/me").bearer(&key).header("x-user-id", "user-admin-001").of(&demo);
    assert_eq!(me.await.ok(200)["id"], "user-demo-001");

    let real = Cloud::start().await;
    for user in ["user-admin-001", "user-demo-001"] {
        let reply = ask("GET", "/auth/me").header("x-user-id", user).of(&real).await;
        reply.problem(401, "Unauthenticated");
    }
}

#[tokio::test]
async fn a_demo_shows_itself_to_visitors_who_may_only_look() {
    let cloud = Cloud::demo().await;
    let me = ask("GET", "/auth/me").of(&cloud).await.ok(200);
    assert_eq!((&me["id"], &me["permissions"]), (&json!("user-demo-001"), &json!(["read"])));
    ask("POST", "/instances")
        .json(&json!({"image": "a"}))
        .of(&cloud)
        .await
        .problem(401, "Unauthenticated");
    cloud.assert_untouched();
}

#[tokio::test]
async fn without_login_everybody_is_the_administrator() {
    let cloud = Cloud::without_login().await;
    let me = ask("GET", "/auth/me").of(&cloud).await.ok(200);
    assert_eq!(me["id"], "user-admin-001");
    assert_eq!(me["permissions"], json!(["read", "write", "execute", "admin"]));
    for (name, value) in [("x-user-id", "user-demo-001"), ("authorization", "Basic eDp5")] {
        let me = ask("GET", "/auth/me").header(name, value).of(&cloud).await.ok(200);
        assert_eq!(me["id"], "user-admin-001", "{name}");
    }
}

#[tokio::test]
async fn figures_are_open_on_this_machine_and_for_readers_beyond_it() {
    let cloud = Cloud::start().await;
    assert_eq!(ask("GET", "/metrics").of(&cloud).await.status, 200);
    let everywhere = Sites::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &[], &[]).unwrap();
    let access = Access::new(cloud.orch().clone(), Mode::Login, everywhere);
    let router = mcp_orch::face::rest::router(cloud.orch().clone(), Arc::new(access), None);
    let get = async |key: Option<&str>| {
        let request = ask("GET", "/metrics");
        let request = match key {
            Some(it) => request.bearer(it),
            None => request,
        };
        router.clone().oneshot(request.request()).await.unwrap().status().as_u16()
    };
    assert_eq!(get(None).await, 401);
    assert_eq!(get(Some(&cloud.api_key("user-demo-001", &[]).await)).await, 403);
    let reader = cloud.api_key("user-demo-001", &[Permission::Read]).await;
    assert_eq!(get(Some(&reader)).await, 200);
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_turned_away() {
    let cloud = Cloud::without_login().await;
    for path in ["/instances", "/", "/health", "/docs", "/metrics", "/nowhere"] {
        let request = http::Request::builder().uri(path).header("host", "evil.example.com");
        let reply = cloud.send(request.body(axum::body::Body::empty()).unwrap()).await;
        let problem = reply.problem(403, "Forbidden");
        assert_eq!(problem["header"], "Host");
        assert_eq!(problem["sent"], "evil.example.com");
        assert!(problem["message"].as_str().unwrap().contains("allowed_hosts"), "{problem}");

        let reply = ask("GET", path).header("origin", "http://evil.example.com").of(&cloud).await;
        let problem = reply.problem(403, "Forbidden");
        assert_eq!(problem["header"], "Origin");
        assert!(problem["message"].as_str().unwrap().contains("allowed_origins"), "{problem}");
    }
    let preflight = ask("OPTIONS", "/instances")
        .header("origin", "http://evil.example.com")
        .header("access-control-request-method", "POST");
    preflight.of(&cloud).await.problem(403, "Forbidden");
    ask("GET", "/instances").header("origin", "http://localhost:3000").of(&cloud).await.ok(200);
    // What a proxy says about the outside is not believed.
    let forwarded = ask("GET", "/instances").header("x-forwarded-host", "evil.example.com");
    forwarded.header("x-forwarded-for", "10.9.9.9").of(&cloud).await.ok(200);
}

#[tokio::test]
async fn somebody_elses_instance_looks_like_none() {
    let cloud = Cloud::demo().await;
    let launched = ask("POST", "/instances")
        .header("x-user-id", "user-admin-001")
        .json(&json!({"image": "busybox", "wait": true}))
        .of(&cloud)
        .await
        .ok(201);
    let id = launched["id"].as_str().unwrap();
    let demo = |method: &'static str, path: String| {
        ask(method, &path).header("x-user-id", "user-demo-001").of(&cloud)
    };
    let theirs = demo("GET", format!("/instances/{id}")).await.problem(404, "NotFound");
    let nobodys = demo("GET", "/instances/i-00000000000000000".to_owned()).await;
    let nobodys = nobodys.problem(404, "NotFound").to_string();
    assert_eq!(theirs.to_string().replace(id, "ID"), nobodys.replace("i-00000000000000000", "ID"));
    demo("DELETE", format!("/instances/{id}")).await.problem(404, "NotFound");
    demo("POST", format!("/instances/{id}/stop")).await.problem(404, "NotFound");
    let mine = demo("GET", "/instances".to_owned()).await.ok(200);
    assert_eq!(mine["total_count"], 0);
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_then_slowed_down() {
    let cloud = Cloud::start().await;
    let login = |password: &str| {
        let body = json!({"username": "demo", "password": password});
        ask("POST", "/auth/login").json(&body).of(&cloud)
    };
    let mut last = login("wrong-0").await;
    for n in 1..=12 {
        assert!(!last.text.contains("wrong-"), "a password is not repeated: {}", last.text);
        if last.status == 429 {
            break;
        }
        assert!(last.header(header::WWW_AUTHENTICATE).starts_with("Bearer"));
        last.problem(401, "Unauthenticated");
        last = login(&format!("wrong-{n}")).await;
    }
    let problem = last.problem(429, "TooManyRequests");
    let seconds: u64 = last.header(header::RETRY_AFTER).parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(problem["retry_after_ms"].as_u64().unwrap().div_ceil(1000), seconds);
    // Also with the right one: guessing goes on no faster.
    login("demo").await.problem(429, "TooManyRequests");
}
