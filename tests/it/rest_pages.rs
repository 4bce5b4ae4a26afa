//! Health, readiness, metrics, and documentation that needs nothing from outside.

use http::header;
use serde_json::json;

use crate::harness::cloud::{Cloud, ask};

#[tokio::test]
async fn it_says_that_it_lives_and_whether_it_is_ready() {
    let cloud = Cloud::start().await;
    let health = ask("GET", "/health").of(&cloud).await.ok(200);
    assert_eq!(health, json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(ask("GET", "/readyz").of(&cloud).await.ok(200)["status"], "ready");
    cloud.orch().shutdown.cancel();
    assert_eq!(ask("GET", "/readyz").of(&cloud).await.ok(503)["status"], "stopping");
    ask("GET", "/health").of(&cloud).await.ok(200);
}

#[tokio::test]
async fn the_root_is_for_programs_and_leads_browsers_to_the_documentation() {
    let cloud = Cloud::start().await;
    let info = ask("GET", "/").of(&cloud).await.ok(200);
    assert_eq!(info["name"], "mcp-orch");
    for page in ["openapi", "docs", "health", "ready", "metrics"] {
        let reply = ask("GET", info[page].as_str().unwrap()).of(&cloud).await;
        assert_eq!(reply.status, 200, "{page}");
    }
    let browser = ask("GET", "/").header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let reply = browser.of(&cloud).await;
    assert_eq!((reply.status.as_u16(), reply.header(header::LOCATION)), (307, "/docs"));
    for path in ["/docs/", "/redoc"] {
        assert_eq!(ask("GET", path).of(&cloud).await.header(header::LOCATION), "/docs");
    }
}

#[tokio::test]
async fn the_documentation_loads_from_here_alone() {
    let cloud = Cloud::start().await;
    for base in ["", "/api"] {
        let page = ask("GET", &format!("{base}/docs")).of(&cloud).await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
        let policy = page.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"));
        let links: Vec<&str> = page
            .text
            .split("href=\"")
            .chain(page.text.split("src=\""))
            .filter_map(|it| it.split_once('"'))
            .map(|(link, _)| link)
            .filter(|it| it.starts_with("docs/") || it.contains("//"))
            .collect();
        assert_eq!(links.len(), 6, "{links:?}");
        for link in links {
            assert!(!link.contains("//"), "{link} is somewhere else");
            let asset = ask("GET", &format!("{base}/{link}")).of(&cloud).await;
            assert_eq!(asset.status, 200, "{link}");
            assert!(!asset.text.is_empty(), "{link}");
            let expected = match link.rsplit('.').next().unwrap() {
                "css" => "text/css",
                "js" => "text/javascript",
                _ => "image/png",
            };
            assert!(asset.header(header::CONTENT_TYPE).starts_with(expected), "{link}");
            if link.ends_with(".css") {
                assert!(
                    !asset.text.contains("@import") && !asset.text.contains("url(http"),
                    "{link}"
                );
            }
            if link.ends_with("swagger-initializer.js") {
                assert!(asset.text.contains("\"url\": \"openapi.json\""), "{}", asset.text);
                assert!(asset.text.contains("\"validatorUrl\": \"none\""), "{}", asset.text);
                let code = asset.text.lines().filter(|it| !it.trim().starts_with("//"));
                assert!(code.into_iter().all(|it| !it.contains("http")), "{}", asset.text);
            }
        }
    }
    for path in ["/docs/index.html", "/docs/..%2fopenapi.json", "/docs/nothing.js"] {
        ask("GET", path).of(&cloud).await.problem(404, "NotFound");
    }
}

#[tokio::test]
async fn answers_are_safe_to_look_at() {
    let cloud = Cloud::demo().await;
    for path in ["/instances", "/nowhere", "/health", "/docs", "/openapi.json"] {
        let reply = ask("GET", path).of(&cloud).await;
        assert_eq!(reply.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(reply.header(header::CACHE_CONTROL), "no-store", "{path}");
        assert!(reply.headers.contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
        assert!(!reply.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{path}");
    }
}
